from __future__ import annotations

import pytest

from launcher.adapters.omni import Content, Omni
from launcher.core.errors import AdapterError
from launcher.core.types import Request

IMAGE = {"type": "image_url", "image_url": {"url": "u"}}


async def content(adapter, server, chat, given):
    upstream = server()
    await adapter(chat({"role": "user", "content": given}), upstream)
    return upstream.asked[0].body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "a"),
        ([{"type": "text", "text": "a"}, "b"], "a|b"),
        (["a", IMAGE], [{"type": "text", "text": "a"}, IMAGE]),
        (None, None),
    ],
    ids=["text", "text parts", "image", "none"],
)
async def test_text_where_there_is_text_only(server, chat, given, expected):
    assert await content(Omni(separator="|"), server, chat, given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", [{"type": "text", "text": "a"}]),
        ([{"type": "image", "image": "u"}], [IMAGE]),
        ([{"type": "image", "url": "u"}], [IMAGE]),
        ([{"type": "image_url", "image_url": "u"}], [IMAGE]),
        ([{"type": "audio", "audio": "u"}], [{"type": "audio_url", "audio_url": {"url": "u"}}]),
        (
            [{"type": "input_audio", "input_audio": {"data": "x"}}],
            [{"type": "input_audio", "input_audio": {"data": "x"}}],
        ),
    ],
)
async def test_a_list_of_parts(server, chat, given, expected):
    assert await content(Omni(content=Content.parts), server, chat, given) == expected


@pytest.mark.parametrize("given", [5, [], [{"type": "smell"}], [{"type": "image"}], [{"type": "text"}], [None]])
async def test_unknown_content_is_refused(server, chat, given):
    with pytest.raises(AdapterError, match="omni"):
        await content(Omni(), server, chat, given)


async def test_completions_pass(server):
    upstream, request = server(), Request("/v1/completions", {"prompt": "x"})
    await Omni()(request, upstream)
    assert upstream.asked == [request]
