from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import httpx
import pytest

from launcher.asgi.config import FrontendConfig, Limits
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.tokenizer import PLAIN, ByteTokenizer, Message, NoChatTemplate, Rendering
from launcher.engines.base import GenerationRequest, Sampling, TokenOutput
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from tests.api.runners import Scripted, client_of, said

ASK = {"model": "scripted", "prompt": "p", "max_tokens": 4}
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


async def post(runner: Scripted, path: str = "/v1/completions", **fields: object) -> httpx.Response:
    async with client_of(runner) as client:
        return await client.post(path, json=(CHAT if "chat" in path else ASK) | fields)


class SaysNothing(ByteTokenizer):
    """Has a template that leaves out empty messages."""

    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        return "".join(message["content"] for message in messages)


async def test_messages_without_a_token_are_the_clients_mistake() -> None:
    runner = Scripted([said("a", "stop")], SaysNothing())
    answer = await post(runner, "/v1/chat/completions", messages=[{"role": "user", "content": ""}])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert not runner.asked


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (QueueFull("full", 2.2), 429, "rate_limit_error"),
        (EngineUnavailable("stopping"), 503, "service_unavailable"),
        (RuntimeError("secret"), 500, "server_error"),
    ],
)
async def test_what_the_engine_refuses_has_a_status_even_for_a_stream(
    error: Exception, status: int, kind: str, n: int, stream: bool
) -> None:
    runner = Scripted([error])
    answer = await post(runner, n=n, stream=stream)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("3" if status == 429 else None)
    assert runner.open == 0


async def test_one_full_choice_refuses_them_all() -> None:
    """Admission of several choices is all or nothing."""
    runner = EchoAsyncEngine(Echo(max_sequences=2, max_queue=1, latency_s=0.01), Model("scripted"))
    async with client_of(runner) as client:
        async with aclosing(runner.generate(GenerationRequest("other", (1,), Sampling()))) as other:
            await anext(other)
            assert (await client.post("/v1/completions", json=ASK | {"n": 3})).status_code == 429
            assert (await client.post("/v1/completions", json=ASK | {"n": 3, "stream": True})).status_code == 429
            assert (runner.state().running, runner.state().queued) == (1, 0)
        assert (await client.post("/v1/completions", json=ASK | {"n": 3})).status_code == 200


@pytest.mark.parametrize(("path", "ask"), [("/v1/completions", ASK), ("/v1/chat/completions", CHAT)])
async def test_more_choices_than_ever_fit_are_not_told_to_come_back(path: str, ask: dict[str, object]) -> None:
    async with client_of(EchoAsyncEngine(Echo(max_sequences=2, max_queue=1), Model("scripted"))) as client:
        answer = await client.post(path, json=ask | {"n": 4})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"
    expected = "n: 1 prompts with n=4 are 4 choices; expected at most 3 in one request"
    assert answer.json()["error"]["message"] == expected


async def test_a_failure_in_a_stream_is_an_error_event_and_not_text() -> None:
    answer = await post(Scripted([said("a"), EngineUnavailable("died")]), stream=True)
    events = [line for line in answer.text.split("\n\n") if line]
    assert answer.status_code == 200
    assert '"text":"a"' in events[0]
    assert '"error"' in events[1]
    assert "died" in events[1]
    assert len(events) == 2


async def test_a_failure_is_never_an_answer() -> None:
    answer = await post(Scripted([said("a"), RuntimeError("boom")]))
    assert answer.status_code == 500
    assert "choices" not in answer.json()


async def test_choices_of_all_prompts_are_bounded() -> None:
    answer = await post(Scripted([]), prompt=["a"] * 100, n=100)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"
    assert "2048" in answer.json()["error"]["message"]


class Untemplated(ByteTokenizer):
    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        raise NoChatTemplate


class Strict(ByteTokenizer):
    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        raise ValueError("roles must alternate")


async def test_a_model_without_a_template_says_so() -> None:
    answer = await post(Scripted([], Untemplated()), "/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_chat_template"
    assert "no chat template" in answer.json()["error"]["message"]


async def test_the_complaint_of_a_template_reaches_the_client() -> None:
    answer = await post(Scripted([], Strict()), "/v1/chat/completions")
    assert answer.status_code == 400
    assert "roles must alternate" in answer.json()["error"]["message"]


async def test_an_engine_without_a_forward_pass_says_so() -> None:
    async with client_of(Scripted([])) as client:
        assert (await client.post("/reference_logprobs", json={"tokens": [1]})).status_code == 501


async def test_a_broken_engine_is_neither_live_nor_ready() -> None:
    runner = Scripted([said("a", "length")])
    async with client_of(runner) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        runner.error = "rank 1 died"
        for path in ("/health", "/ready"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert "rank 1 died" in answer.json()["error"]["message"]
        assert "launcher_engine_up 0.0" in (await client.get("/metrics")).text


async def test_the_prompts_tokens_are_in_the_vocabulary() -> None:
    answer = await post(Scripted([]), prompt=[5, 257])
    assert answer.status_code == 400
    assert "257" in answer.json()["error"]["message"]


async def test_no_prompt_and_no_answer_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test.access")
    with caplog.at_level(logging.DEBUG):
        async with client_of(Scripted([said("ANSWER"), RuntimeError("x")]), log=log) as client:
            await client.post("/v1/completions", json=ASK | {"prompt": "SECRET"}, headers={"Authorization": "SECRET"})
            await client.post("/v1/completions?key=SECRET", content=b"SECRET")
    ours = [record for record in caplog.records if record.name == "test.access"]
    assert len(ours) == 3
    assert "POST /v1/completions 400" in caplog.text
    assert "ANSWER" not in caplog.text
    assert not any("SECRET" in record.getMessage() for record in ours)


async def test_a_body_that_is_too_large_is_refused() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"model": "'
        for _ in range(3):
            yield b"x" * 50

    async with client_of(Scripted([]), frontend=FrontendConfig(limits=Limits(body_bytes=100))) as client:
        for body in (b"x" * 101, parts()):
            answer = await client.post("/v1/completions", content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("include", [False, True])
async def test_continuous_usage_counts_what_was_generated_so_far(path: str, include: bool) -> None:
    runner = Scripted([said("ab"), said("c"), said("", "length")])
    options = {"continuous_usage_stats": True, "include_usage": include}
    answer = await post(runner, path, stream=True, n=2, stream_options=options)
    chunks = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n")[:-2]]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert any(0 < count < 6 for count in counts)
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {len(runner.asked[0].prompt)}
    assert all(
        c["usage"]["total_tokens"] == c["usage"]["prompt_tokens"] + c["usage"]["completion_tokens"] for c in chunks
    )
    assert (chunks[-1]["choices"] == []) == include


async def test_first_choices_of_a_stream_open_with_the_role() -> None:
    answer = await post(Scripted([said("ab", "length")]), "/v1/chat/completions", stream=True, n=2)
    assert answer.text.count('"role":"assistant"') == 2


async def test_concurrent_requests_reach_the_engine_with_their_own_parameters() -> None:
    runner = Scripted([said("a", "length")])
    async with client_of(runner) as client:
        asks = [ASK | {"max_tokens": i + 1, "temperature": i / 10, "seed": i, "prompt": f"{i}"} for i in range(16)]
        await asyncio.gather(*(client.post("/v1/completions", json=ask) for ask in asks))
    seen = {g.prompt: (g.sampling.max_tokens, g.sampling.temperature, g.sampling.seed) for g in runner.asked}
    assert seen == {tuple(str(i).encode()): (i + 1, i / 10, i) for i in range(16)}


async def test_an_engine_may_end_without_text() -> None:
    answer = await post(Scripted([TokenOutput(finish="length")]), max_tokens=1)
    assert answer.json()["choices"][0]["text"] == ""


class Threads(ByteTokenizer):
    """Notes in which thread it works; a token may be of any length."""

    longest_token = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.seen: list[threading.Thread] = []

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        self.seen.append(threading.current_thread())
        return super().encode(text[:10], special=special)


async def test_a_long_text_is_tokenized_beside_the_event_loop() -> None:
    here = threading.current_thread()
    long = "x" * 100_000
    for path, fields in (
        ("/v1/completions", {"prompt": long}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        ("/tokenize", {"model": "scripted", "prompt": long}),
    ):
        tokenizer = Threads()
        async with client_of(Scripted([said("a", "length")], tokenizer)) as client:
            ask = {} if path == "/tokenize" else {"model": "scripted", "max_tokens": 4}
            assert (await client.post(path, json=ask | fields)).status_code == 200
        assert tokenizer.seen
        assert here not in tokenizer.seen


async def test_an_alias_is_a_name_of_the_model() -> None:
    async with client_of(
        Scripted([said("a", "length")]), frontend=FrontendConfig(aliases=("gpt-4o", "a/b", "scripted"))
    ) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["root"]) for card in listed] == [
            (n, "scripted") for n in ("scripted", "gpt-4o", "a/b")
        ]
        for name in ("scripted", "gpt-4o", "a/b"):
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
            assert (await client.post("/v1/completions", json=ASK | {"model": name})).json()["model"] == name
            assert (await client.post("/v1/chat/completions", json=CHAT | {"model": name})).json()["model"] == name
            assert (await client.post("/tokenize", json={"model": name, "prompt": "a"})).status_code == 200
            events = (await client.post("/v1/completions", json=ASK | {"model": name, "stream": True})).text
            assert f'"model":"{name}"' in events


@pytest.mark.parametrize("name", ["gpt-5", "Scripted", "x" * 10**5])
async def test_an_unknown_model_is_told_which_are_served(name: str) -> None:
    async with client_of(Scripted([said("a", "length")]), frontend=FrontendConfig(aliases=("gpt-4o",))) as client:
        answer = await client.post("/v1/completions", json=ASK | {"model": name})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].startswith(f"The model `{name[:100]}")
    assert error["message"].endswith("does not exist; expected one of `scripted`, `gpt-4o`")
    assert len(error["message"]) < 400


async def test_every_get_route_answers_head() -> None:
    async with client_of(Scripted([said("a", "length")])) as client:
        paths = [p for p, methods in (await client.get("/openapi.json")).json()["paths"].items() if "get" in methods]
        assert len(paths) >= 7
        for path in [*paths, "/openapi.json"]:
            for end in ("", "/") if path != "/openapi.json" else ("",):
                answer = await client.head(path.replace("{name}", "scripted") + end)
                assert answer.status_code == 200, path
