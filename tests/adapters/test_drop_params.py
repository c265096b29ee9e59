from __future__ import annotations

import json

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.drop_params import DropParams
from launcher.core.errors import UserError
from launcher.core.types import Request, Response


async def sent(names, server, body):
    upstream = server()
    await DropParams(names=names)(Request("/v1/completions", body), upstream)
    return upstream.asked[0].body


@pytest.mark.parametrize(
    ("names", "body", "expected"),
    [
        (["a"], {"a": 1, "b": 2}, {"b": 2}),
        (["x"], {"a": 1}, {"a": 1}),
        (["a.b"], {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
        (["a.b"], {"a": {"b": 1}, "d": 0}, {"d": 0}),
        (["a.b"], {"a": 5}, {"a": 5}),
        (["a.b", "a.c"], {"a": {"b": 1, "c": 2}}, {}),
    ],
    ids=["one", "absent", "nested", "empty object", "no object", "both"],
)
async def test_parameters_are_dropped(server, names, body, expected):
    before = json.dumps(body)
    assert await sent(names, server, body) == expected
    assert json.dumps(body) == before, "the caller's request is left as it is"


async def test_what_is_dropped_is_counted_over_sessions(server, tmp_path):
    for _ in range(2):
        adapter = DropParams(names=["a", "b"])
        async with adapter.running(tmp_path, Downstream(None)):
            await adapter(Request("/v1/completions", {"a": 1}), server())
    assert json.loads((tmp_path / "drop_params.json").read_text()) == {"a": 2, "b": 0}


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_what_got_an_error_is_not_counted(server, status):
    adapter = DropParams(names=["a"])
    upstream = server(Response(status, {"error": {}}), Response(200, {"choices": []}))
    for _ in range(2):
        await adapter(Request("/v1/completions", {"a": 1}), upstream)
    assert adapter.counts == {"a": 1}


@pytest.mark.parametrize("names", [[], [""], ["a..b"]])
def test_names_are_needed(names):
    with pytest.raises(UserError, match=r"adapters\.drop_params\.names"):
        DropParams(names=names)
