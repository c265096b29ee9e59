from __future__ import annotations

import json

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.chain import pipeline
from launcher.adapters.reasoning import Reasoning
from launcher.core.errors import AdapterError, TransportError, UserError
from launcher.core.types import Request, Response

CHAT = Request("/v1/chat/completions", {"messages": []})
TEXT = Request("/v1/completions", {"prompt": "x"})


def said(content, finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return Response(200, {"id": "a", "choices": [choice]})


def written(*texts, finish="stop"):
    return Response(200, {"choices": [{"index": i, "text": t, "finish_reason": finish} for i, t in enumerate(texts)]})


async def choice_of(response, server, request=CHAT, **settings):
    return (await Reasoning(**settings)(request, server(response))).body["choices"][0]


async def test_the_thought_is_moved_out_of_a_chat_answer(server):
    choice = await choice_of(said("Well. <think>2+2</think>4"), server)
    assert choice["message"] == {"role": "assistant", "content": "Well. 4", "reasoning_content": "2+2"}
    assert choice["finish_reason"] == "stop"
    assert "reasoning_unfinished" not in choice


async def test_every_choice_of_a_completion_is_split(server):
    response = await Reasoning()(TEXT, server(written("<think>a</think>b", "c", "<think>d")))
    first, second, third = response.body["choices"]
    assert (first["text"], first["reasoning_content"]) == ("b", "a")
    assert second == {"index": 1, "text": "c", "finish_reason": "stop"}
    assert (third["text"], third["reasoning_content"], third["reasoning_unfinished"]) == ("", "d", True)


async def test_only_up_to_the_first_end_tag(server):
    choice = await choice_of(said("<think>a</think>The tag </think> closes a reasoning"), server)
    assert choice["message"]["content"] == "The tag </think> closes a reasoning"


@pytest.mark.parametrize("finish", ["length", "stop"])
async def test_an_unfinished_thought_is_marked_and_never_the_answer(server, finish):
    choice = await choice_of(said("<think>is it 4? or 5", finish), server)
    assert choice["message"]["content"] == ""
    assert choice["reasoning_unfinished"] is True
    assert choice["finish_reason"] == finish


async def test_an_answer_that_begins_inside_the_thought(server):
    choice = await choice_of(said("2+2</think>4"), server, starts_inside=True)
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("4", "2+2")
    choice = await choice_of(said("2+2", "length"), server, starts_inside=True)
    assert choice["reasoning_unfinished"] is True


async def test_an_end_tag_without_a_start_is_an_error_that_says_what_to_set(server):
    with pytest.raises(AdapterError, match=r"adapters\.reasoning\.starts_inside=true"):
        await choice_of(said("2+2</think>4"), server)


CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("inside", [True, False])
async def test_a_server_that_separates_thoughts_itself(server, field, inside):
    response = said("4", **{field: "2+2"})
    found = await Reasoning(starts_inside=inside)(CHAT, server(response))
    assert found.body is response.body
    adapter = Reasoning(starts_inside=inside)
    found = await adapter(CHAT, server(said(None, "length", **{field: "2+"})))
    assert found.body["choices"][0]["reasoning_unfinished"] is True
    assert adapter.counts["reasoning_characters"] == 2


async def test_an_answer_of_tool_calls_only_has_no_unfinished_thought(server):
    response = said(None, "tool_calls", tool_calls=CALLS)
    assert (await Reasoning(starts_inside=True)(CHAT, server(response))).body is response.body
    choice = await choice_of(said("2+", "tool_calls", tool_calls=CALLS), server, starts_inside=True)
    assert choice["reasoning_unfinished"] is True
    assert choice["message"]["tool_calls"] == CALLS


async def test_null_content_stays_null(server):
    choice = await choice_of(said(None, refusal="no"), server)
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "no"}


async def test_other_tags(server):
    choice = await choice_of(said("[A]a[B]b"), server, start_tag="[A]", end_tag="[B]")
    assert choice["message"]["content"] == "b"


async def test_log_likelihood_requests_pass_and_other_echoes_are_refused(server):
    answer = written("<think> is what was asked")
    request = Request("/v1/completions", {"prompt": "<think>", "echo": True, "max_tokens": 1})
    assert await Reasoning()(request, server(answer)) == answer
    for limit in ({"max_tokens": 5}, {}):
        with pytest.raises(AdapterError, match="echo"):
            await Reasoning()(Request("/v1/completions", {"prompt": "x", "echo": True, **limit}), server(answer))


async def test_errors_and_other_paths_pass(server):
    for request, answer in ((CHAT, Response(500, "x")), (Request("/v1/embeddings", {}), Response(200, {"data": []}))):
        assert await Reasoning()(request, server(answer)) == answer


@pytest.mark.parametrize("body", [None, {}, {"choices": None}])
async def test_an_answer_of_another_shape_is_an_error(server, body):
    with pytest.raises(AdapterError, match="choices"):
        await Reasoning()(CHAT, server(Response(200, body)))


def delta(text, finish=None, index=0, **more):
    return {"choices": [{"index": index, "delta": {"content": text, **more}, "finish_reason": finish}]}


async def streamed(events, server, stream, request=CHAT, **settings):
    adapter = Reasoning(**settings)
    response = await adapter(request, server(Response(200, events=stream(events))))
    return [event async for event in response.events], adapter


async def test_a_stream_is_split_across_events(server, stream):
    pieces = ["Hi <", "thi", "nk>2", "+2</th", "ink", ">4", "2"]
    usage = {"choices": [], "usage": {"completion_tokens": 9}}
    events, adapter = await streamed(
        [delta("", role="assistant"), *map(delta, pieces), delta("", "stop"), usage], server, stream
    )
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert [d["content"] for d in deltas] == ["", "Hi ", "", "", "", "", "4", "2", ""]
    assert [d.get("reasoning_content", "") for d in deltas] == ["", "", "", "2", "+2", "", "", "", ""]
    assert deltas[0]["role"] == "assistant"
    assert events[-1] == usage
    assert (adapter.counts["answers"], adapter.counts["with_reasoning"], adapter.counts["unfinished"]) == (1, 1, 0)


async def test_events_pass_one_by_one(server):
    sent = []

    async def events():
        for text in ("a", "b"):
            sent.append(text)
            yield delta(text)

    response = await Reasoning()(CHAT, server(Response(200, events=events())))
    assert (await anext(response.events))["choices"][0]["delta"]["content"] == "a"  # type: ignore[arg-type]
    assert sent == ["a"]
    await response.events.aclose()


async def test_an_unfinished_thought_is_marked_in_its_last_event(server, stream):
    events, _ = await streamed([delta("<think>2+"), delta("2</", "length")], server, stream)
    assert events[-1]["choices"][0]["reasoning_unfinished"] is True
    assert events[-1]["choices"][0]["delta"] == {"content": "", "reasoning_content": "2</"}


async def test_choices_of_a_streamed_completion_are_kept_apart(server, stream):
    def text(index, value, finish=None):
        return {"choices": [{"index": index, "text": value, "finish_reason": finish}]}

    sent = [text(0, "<think>a"), text(1, "b<"), text(0, "</think>c", "stop"), text(1, "3", "stop")]
    events, _ = await streamed(sent, server, stream, TEXT)
    assert [e["choices"][0]["text"] for e in events] == ["", "b", "c", "<3"]
    assert events[0]["choices"][0]["reasoning_content"] == "a"


async def test_text_held_back_is_given_out_when_a_stream_ends_without_a_reason(server, stream):
    events, _ = await streamed([delta("a <thi")], server, stream)
    assert [e["choices"][0]["delta"]["content"] for e in events] == ["a ", "<thi"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("inside", [True, False])
async def test_a_streamed_answer_of_a_server_that_separates_thoughts_itself(server, stream, field, inside):
    sent = [delta(None, **{field: "2+2"}), delta("4", **{field: None}), delta("", "stop")]
    events, adapter = await streamed(sent, server, stream, starts_inside=inside)
    assert events == sent
    assert (adapter.counts["reasoning_characters"], adapter.counts["unfinished"]) == (3, 0)
    events, adapter = await streamed([delta(None, **{field: "2+"}), delta("", "length")], server, stream)
    assert events[-1]["choices"][0]["reasoning_unfinished"] is True
    assert adapter.counts["unfinished"] == 1


@pytest.mark.parametrize("inside", [True, False])
async def test_tool_calls_of_a_stream_pass_as_they_are(server, stream, inside):
    begin = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    sent = [
        delta(None, role="assistant", tool_calls=None),
        delta(None, tool_calls=[{"index": 0, **begin}]),
        delta(None, tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        delta(None, "tool_calls"),
    ]
    events, _ = await streamed(sent, server, stream, starts_inside=inside)
    assert events == sent


@pytest.mark.parametrize("odd", [None, [], {"choices": [{"delta": {}}]}, {"choices": [None]}, delta(5)])
async def test_an_event_of_another_form_is_an_error_that_shows_it(server, stream, odd):
    with pytest.raises(AdapterError, match="an event of the stream has another form"):
        await streamed([delta("a"), odd], server, stream)


async def test_nothing_follows_an_error_in_the_middle_of_a_stream(server, stream):
    sent = [delta("a"), {"error": {"message": "no memory"}}]
    assert (await streamed(sent, server, stream))[0] == sent


async def test_a_stream_that_breaks_raises(server, stream):
    with pytest.raises(TransportError):
        await streamed([delta("a"), TransportError("cut")], server, stream)


async def test_counts_are_kept_in_the_run_folder_and_added_to_on_resume(server, tmp_path):
    for _ in range(2):
        adapter = Reasoning()
        handler = pipeline([adapter], server(said("<think>abc</think>d"), said("<think>ab"), said("e")))
        async with adapter.running(tmp_path, Downstream(None)):
            for _ in range(3):
                await handler(CHAT)
    counts = json.loads((tmp_path / "reasoning.json").read_text())
    assert counts == {
        "answers": 6,
        "with_reasoning": 4,
        "unfinished": 2,
        "reasoning_characters": 10,
        "answer_characters": 4,
    }


async def test_counts_of_nothing_are_zeros(tmp_path):
    async with Reasoning().running(tmp_path, Downstream(None)):
        pass
    assert set(json.loads((tmp_path / "reasoning.json").read_text()).values()) == {0}


@pytest.mark.parametrize("tags", [("", "b"), ("a", ""), ("a", "a")])
def test_tags_must_differ(tags):
    with pytest.raises(UserError, match=r"adapters\.reasoning"):
        Reasoning(start_tag=tags[0], end_tag=tags[1])
