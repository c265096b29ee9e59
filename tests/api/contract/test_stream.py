from __future__ import annotations

import json

import openai
import pytest

from tests.api.contract.conftest import Api, alike

MESSAGES = [{"role": "user", "content": "12+34="}]


async def streamed(api: Api, path: str = "/v1/completions", **body: object) -> list[dict]:
    """Return the parsed events of a stream, which must end in ``[DONE]``."""
    asked = {"prompt": "12+34="} if path == "/v1/completions" else {"messages": MESSAGES}
    answer = await api.post(path, **(asked | {"temperature": 0, "max_tokens": 8, "stream": True} | body))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def joined(events: list[dict], index: int = 0) -> dict:
    """Put the chunks of one choice together."""
    whole: dict = {"text": "", "logprobs": None, "finish_reason": None}
    for choice in (c for event in events for c in event["choices"] if c["index"] == index):
        assert whole["finish_reason"] is None
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"]:
            before = whole["logprobs"] or {name: [] for name in choice["logprobs"]}
            whole["logprobs"] = {name: before[name] + choice["logprobs"][name] for name in before}
    return whole


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ignore_eos": True, "max_tokens": 30},
        {"logprobs": 2, "ignore_eos": True},
        {"echo": True, "logprobs": 1},
        {"echo": True},
        {"echo": True, "max_tokens": 0, "logprobs": 1},
        {"temperature": 2, "seed": 3, "n": 3, "max_tokens": 20, "logprobs": 0, "ignore_eos": True},
        {"prompt": ["12+34=", "7+5=", "abc"], "n": 2, "temperature": 1, "seed": 9},
        {"prompt": "é€😀≠", "ignore_eos": True, "max_tokens": 20, "logprobs": 0},
    ],
)
async def test_a_stream_says_what_a_whole_answer_says(api: Api, body: dict) -> None:
    whole = await api.complete(**({"prompt": "12+34="} | body))
    events = await streamed(api, **body)
    for choice in whole["choices"]:
        expected = {name: choice[name] for name in ("text", "logprobs", "finish_reason")}
        streamed_choice = joined(events, choice["index"])
        assert alike(streamed_choice, expected), (streamed_choice, expected)


async def test_nothing_of_a_stop_string_is_ever_sent(api: Api) -> None:
    text = (await api.complete(max_tokens=20, ignore_eos=True))["choices"][0]["text"]
    for start in (1, 3, 5):
        stop = text[start : start + 4]
        events = await streamed(api, max_tokens=20, ignore_eos=True, stop=stop, logprobs=0)
        assert joined(events)["text"] == text[: text.index(stop)]
        assert joined(events)["finish_reason"] == "stop"


async def test_usage_comes_last_when_asked_for(api: Api) -> None:
    whole = await api.complete(n=2, max_tokens=5, ignore_eos=True)
    events = await streamed(api, n=2, max_tokens=5, ignore_eos=True, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    assert not any("usage" in event for event in await streamed(api))


async def test_a_chat_stream_begins_with_the_role(api: Api) -> None:
    whole = (await api.post("/v1/chat/completions", messages=MESSAGES, temperature=0, max_tokens=8)).json()
    events = await streamed(api, "/v1/chat/completions")
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert not any("role" in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1


async def test_the_openai_client_reads_streams(sdk: openai.AsyncOpenAI, api: Api) -> None:
    asked = {"model": api.endpoint.model, "max_tokens": 6, "temperature": 0, "stream": True}
    text = "".join([c.choices[0].text async for c in await sdk.completions.create(prompt="12+34=", **asked)])  # type: ignore[call-overload]
    assert text == (await api.complete(max_tokens=6))["choices"][0]["text"]
    chunks = [c async for c in await sdk.chat.completions.create(messages=MESSAGES, **asked)]  # type: ignore[call-overload]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
