from __future__ import annotations

import pytest

from launcher.adapters.raise_client_errors import RaiseClientErrors
from launcher.core.errors import AdapterStop, UserError
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {}, sample="t/1/0")


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_client_error_ends_the_evaluation(server, status):
    refusal = Response(status, {"error": {"message": "too\nlong"}})
    with pytest.raises(AdapterStop, match=rf"HTTP {status} \(t/1/0\): too long; .*allow=\[{status}\]"):
        await RaiseClientErrors()(REQUEST, server(refusal))


@pytest.mark.parametrize("status", [200, 408, 409, 425, 429, 500, 503, 400])
async def test_other_answers_pass(server, status):
    response = Response(status, {})
    assert await RaiseClientErrors(allow=[400])(REQUEST, server(response)) is response


def test_only_client_errors_are_allowed():
    with pytest.raises(UserError, match=r"allow has 500"):
        RaiseClientErrors(allow=[400, 500])
