from __future__ import annotations

import pytest

from launcher.adapters.turn_limit import TurnLimit
from launcher.core.errors import AdapterError
from launcher.core.responses import refuses
from launcher.core.types import Request

ANSWER = {"role": "assistant", "content": "x"}
USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(("turns", "passes"), [(0, True), (1, True), (2, False), (3, False)])
async def test_a_conversation_ends_after_max_turns(server, chat, turns, passes):
    upstream = server()
    response = await TurnLimit(max_turns=2)(chat(USER, *[ANSWER, USER] * turns), upstream)
    assert bool(upstream.asked) is passes
    assert response.status == (200 if passes else 400)
    if not passes:
        assert refuses(response)
        assert response.body["error"]["code"] == "turn_limit"


async def test_completions_have_no_turns(server):
    upstream = server()
    await TurnLimit(max_turns=1)(Request("/v1/completions", {"prompt": "x"}), upstream)
    assert upstream.asked


async def test_a_chat_without_messages_is_refused(server):
    with pytest.raises(AdapterError, match="turn_limit"):
        await TurnLimit()(Request("/v1/chat/completions", {}), server())
