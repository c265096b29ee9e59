from __future__ import annotations

import pytest

from launcher.adapters.payload import Payload
from launcher.core.errors import AdapterError
from launcher.core.types import Request


async def sent(adapter, server, body, headers=None):
    upstream = server()
    await adapter(Request("/v1/completions", body, headers or {}), upstream)
    return upstream.asked[0]


async def test_parameters_are_removed_renamed_and_added_in_this_order(server):
    adapter = Payload(add={"top_k": 5, "seed": 2}, remove=["user"], rename={"max_tokens": "max_completion_tokens"})
    request = await sent(adapter, server, {"max_tokens": 3, "user": "me", "seed": 1})
    assert request.body == {"max_completion_tokens": 3, "seed": 2, "top_k": 5}


async def test_what_a_request_has_not_is_left_alone(server):
    request = await sent(Payload(remove=["user"], rename={"a": "b"}), server, {"prompt": "x"})
    assert request.body == {"prompt": "x"}


async def test_headers_are_compared_without_case(server):
    adapter = Payload(add_headers={"X-Team": "new"}, remove_headers=["Cookie"])
    request = await sent(adapter, server, {}, {"x-team": "old", "cookie": "c", "Accept": "a"})
    assert request.headers == {"Accept": "a", "X-Team": "new"}


@pytest.mark.parametrize("body", [{"a": 1, "b": 2}, {"b": 2, "a": 1}])
async def test_a_rename_overwrites_nothing(server, body):
    with pytest.raises(AdapterError, match="overwrite 'b'"):
        await sent(Payload(rename={"a": "b"}), server, body)


async def test_a_rename_may_take_the_place_of_a_removed_parameter(server):
    request = await sent(Payload(remove=["b"], rename={"a": "b"}), server, {"b": 2, "a": 1})
    assert request.body == {"b": 1}


async def test_parameters_do_not_change_places(server):
    with pytest.raises(AdapterError):
        await sent(Payload(rename={"a": "b", "b": "a"}), server, {"a": 1, "b": 2})
