from __future__ import annotations

import pytest

from launcher.adapters.chain import pipeline
from launcher.adapters.system_message import Strategy, SystemMessage
from launcher.adapters.validate_response import ValidateResponse
from launcher.core.errors import AdapterError, UserError
from launcher.core.types import Request, Response

USER = {"role": "user", "content": "hello"}
OWN = {"role": "system", "content": "own"}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(Strategy.prepend, "new\n\nown"), (Strategy.append, "own\n\nnew"), (Strategy.replace, "new")],
)
async def test_chat_with_a_system_message_of_its_own(server, chat, strategy, expected):
    upstream = server()
    await SystemMessage(text="new", strategy=strategy)(chat(OWN, USER), upstream)
    assert upstream.asked[0].body["messages"] == [{"role": "system", "content": expected}, USER]


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_chat_without_a_system_message(server, chat, strategy):
    upstream, request = server(), chat(USER)
    await SystemMessage(text="new", strategy=strategy)(request, upstream)
    assert upstream.asked[0].body["messages"] == [{"role": "system", "content": "new"}, USER]
    assert request.body["messages"] == [USER], "the caller's request is left as it is"


async def test_several_system_messages_become_one(server, chat):
    upstream = server()
    await SystemMessage(text="new", separator="|")(chat(OWN, USER, OWN), upstream)
    assert upstream.asked[0].body["messages"] == [{"role": "system", "content": "new|own|own"}, USER]


@pytest.mark.parametrize(
    ("prompt", "expected"), [("a", "new\n\na"), (["a", "b"], ["new\n\na", "new\n\nb"])], ids=["text", "list of texts"]
)
async def test_completions_are_prefixed(server, prompt, expected):
    upstream = server()
    await SystemMessage(text="new")(Request("/v1/completions", {"prompt": prompt, "model": "m"}), upstream)
    assert upstream.asked[0].body == {"prompt": expected, "model": "m"}


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]], ["a", [1]], [], None])
async def test_token_ids_are_refused_and_nothing_is_sent(server, prompt):
    upstream = server()
    with pytest.raises(AdapterError, match="token ids"):
        await SystemMessage(text="new")(Request("/v1/completions", {"prompt": prompt}), upstream)
    assert not upstream.asked


@pytest.mark.parametrize("body", [{}, {"messages": "hello"}, {"messages": [{"role": "system", "content": [{}]}]}])
async def test_chat_of_another_shape_is_refused(server, body):
    upstream = server()
    with pytest.raises(AdapterError, match="system_message"):
        await SystemMessage()(Request("/v1/chat/completions", body), upstream)
    assert not upstream.asked


async def test_another_path_is_refused(server):
    with pytest.raises(AdapterError, match="/v1/embeddings"):
        await SystemMessage()(Request("/v1/embeddings", {}), server())


async def test_an_echoed_answer_comes_back_without_the_prefix(server):
    logprobs = {
        "tokens": ["S", "\n\n", "q", " a", "!"],
        "token_logprobs": [None, -1.0, -2.0, -3.0, -4.0],
        "top_logprobs": [None, {}, {}, {}, {}],
        "text_offset": [0, 1, 3, 4, 6],
    }
    upstream = server(Response(200, {"choices": [{"index": 0, "text": "S\n\nq a!", "logprobs": logprobs}], "id": "x"}))
    request = Request("/v1/completions", {"prompt": ["q a"], "echo": True, "logprobs": 1, "max_tokens": 1})
    response = await pipeline([ValidateResponse(), SystemMessage(text="S")], upstream)(request)
    [choice] = response.body["choices"]
    assert choice["text"] == "q a!"
    assert choice["logprobs"]["tokens"] == ["q", " a", "!"]
    assert choice["logprobs"]["token_logprobs"] == [-2.0, -3.0, -4.0]
    assert choice["logprobs"]["text_offset"] == [0, 1, 3]
    assert response.body["id"] == "x"


async def test_an_echo_with_a_fault_is_one_for_adapters_in_front(server):
    logprobs = {"tokens": ["S", "\n\n", "q"], "token_logprobs": [-1.0, -1.0, -2.0], "text_offset": [0, 1, 3]}
    upstream = server(Response(200, {"choices": [{"index": 0, "text": "S\n\nq", "logprobs": logprobs}]}))
    request = Request("/v1/completions", {"prompt": "q", "echo": True, "logprobs": 1, "max_tokens": 0})
    with pytest.raises(AdapterError, match="first prompt token must be null"):
        await pipeline([ValidateResponse(), SystemMessage(text="S")], upstream)(request)


async def test_an_answer_that_does_not_echo_is_left_for_the_task_to_refuse(server):
    choice = {"index": 0, "text": "!", "logprobs": None}
    upstream = server(Response(200, {"choices": [choice]}))
    response = await SystemMessage(text="S")(Request("/v1/completions", {"prompt": "q", "echo": True}), upstream)
    assert response.body["choices"] == [choice]


async def test_a_streamed_echo_is_refused(server):
    with pytest.raises(AdapterError, match="stream"):
        await SystemMessage()(Request("/v1/completions", {"prompt": "q", "echo": True, "stream": True}), server())


async def test_an_error_passes_as_it_is(server):
    error = Response(400, {"error": {"message": "no"}})
    request = Request("/v1/completions", {"prompt": "q", "echo": True})
    assert await SystemMessage()(request, server(error)) == error


def test_an_empty_text_is_refused():
    with pytest.raises(UserError, match=r"adapters\.system_message\.text"):
        SystemMessage(text="")
