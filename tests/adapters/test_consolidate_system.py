from __future__ import annotations

import pytest

from launcher.adapters.consolidate_system import ConsolidateSystem
from launcher.core.errors import AdapterError
from launcher.core.types import Request

USER = {"role": "user", "content": "hello"}


def system(text, role="system"):
    return {"role": role, "content": text}


async def test_system_messages_become_one_at_the_beginning(server, chat):
    upstream = server()
    parts = system([{"type": "text", "text": "c"}, {"type": "text", "text": "d"}])
    await ConsolidateSystem(separator="|")(chat(system("a"), USER, system("b", "developer"), parts), upstream)
    assert upstream.asked[0].body["messages"] == [system("a|b|cd"), USER]


async def test_into_the_first_user_message(server, chat):
    upstream, answer = server(), {"role": "assistant", "content": "x"}
    await ConsolidateSystem(separator="|", into_user=True)(chat(system("a"), answer, USER, USER), upstream)
    assert upstream.asked[0].body["messages"] == [answer, {"role": "user", "content": "a|hello"}, USER]


@pytest.mark.parametrize("request_", [Request("/v1/completions", {"prompt": "x"}), None], ids=["completion", "chat"])
async def test_without_system_messages_nothing_changes(server, chat, request_):
    upstream, request = server(), request_ or chat(USER)
    await ConsolidateSystem()(request, upstream)
    assert upstream.asked == [request]


@pytest.mark.parametrize(
    ("into_user", "messages"),
    [
        (False, [system([{"type": "image_url", "image_url": {"url": "u"}}])]),
        (True, [system("a")]),
        (True, [system("a"), {"role": "user", "content": None}]),
    ],
    ids=["image", "no user", "no text"],
)
async def test_what_cannot_be_joined_is_refused(server, chat, into_user, messages):
    upstream = server()
    with pytest.raises(AdapterError, match="consolidate_system"):
        await ConsolidateSystem(into_user=into_user)(chat(*messages), upstream)
    assert not upstream.asked
