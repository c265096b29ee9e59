"""Choices of one token are asked by the next token, with the scores of an echo, or else by an echo."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from launcher.core.client import Client
from launcher.core.errors import ValidationFailed
from launcher.core.types import Check, Endpoint, Json, Outcome, Request
from launcher.evaluate.next_token import NOTE
from launcher.evaluate.next_token import by_next_token as by_token
from launcher.pipeline.evaluation import asks_next_tokens
from launcher.settings.evaluate import Choices, Evaluate
from launcher.settings.validate import Validate
from launcher.tasks.endpoint_tokenizer import EndpointTokenizer
from launcher.tasks.lm_eval.codec import ClientSettings, Encoded, completions_codec
from launcher.tasks.multiple_choice import MultipleChoice
from launcher.tasks.next_token import NextTokens, NotNextTokens, next_tokens
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch

VOCABULARY = 150 + 2
MERGES = ("=9", "ab")
"""Texts that are one token."""


def tokens_of(text: str) -> list[int]:
    """Return the tokens of a text: 1 for its begin, one for each character, and one for each of `MERGES`."""
    found, at = [1], 0
    while at < len(text):
        merge = next((n for n, each in enumerate(MERGES) if text.startswith(each, at)), None)
        found.append(ord(text[at]) if merge is None else 150 + merge)
        at += 1 if merge is None else 2
    return found


def text_of(token: int) -> str:
    return "" if token == 1 else MERGES[token - 150] if token >= 150 else chr(token)


def logprobs(context: Sequence[int]) -> list[float]:
    """Return the log-probability of each token behind others."""
    seed = hashlib.sha256(bytes(context)).digest()
    logits = [3.0 * math.sin(seed[n % 32] * (n + 1)) for n in range(VOCABULARY)]
    total = math.log(sum(map(math.exp, logits)))
    return [each - total for each in logits]


@dataclass
class Server:
    """A server with the routes of vLLM; ``broken`` changes what it says of named tokens."""

    broken: Callable[[Json], Json] = lambda found: found
    tokenizes: bool = True
    asked: list[Json] = field(default_factory=list)

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        prompt = body["prompt"]
        prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        tokens = [each if isinstance(each, list) else tokens_of(each) for each in prompts]
        choices = [self._choice(n, each, body) for n, each in enumerate(tokens)]
        read = sum(map(len, tokens))
        usage = {"prompt_tokens": read, "completion_tokens": len(tokens), "total_tokens": read + len(tokens)}
        found = {"id": "1", "object": "text_completion", "model": "m", "choices": choices, "usage": usage}
        return web.json_response(self.broken(found) if "logprob_token_ids" in body else found)

    def _choice(self, index: int, tokens: list[int], body: Json) -> Json:
        values = logprobs(tokens)
        best = max(range(VOCABULARY), key=values.__getitem__)
        named = bool(body.get("return_tokens_as_token_ids"))
        name = (lambda token: f"token_id:{token}") if named else text_of
        found: Json = {"tokens": [name(best)], "token_logprobs": [values[best]], "text_offset": [0]}
        ids = [best, *body.get("logprob_token_ids", [])]
        found["top_logprobs"] = [{name(token): values[token] for token in ids}]
        text = text_of(best)
        if body.get("echo"):
            rows = [logprobs(tokens[:at]) for at in range(1, len(tokens))]
            given = [row[token] for row, token in zip(rows, tokens[1:], strict=True)]
            found["tokens"] = [*map(name, tokens), *found["tokens"]]
            found["token_logprobs"] = [None, *given, *found["token_logprobs"]]
            found["top_logprobs"] = [None] * len(found["tokens"])
            found["text_offset"] = list(accumulate((len(text_of(each)) for each in tokens), initial=0))
            text = "".join(map(text_of, tokens)) + text
        return {"index": index, "text": text, "logprobs": found, "finish_reason": "length"}

    async def tokenize(self, request: web.Request) -> web.Response:
        if not self.tokenizes:
            return web.json_response({"error": {"message": "no such route"}}, status=404)
        found = tokens_of((await request.json())["prompt"])
        return web.json_response({"tokens": found, "count": len(found), "max_model_len": 4096})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.router.add_post("/v1/completions", server.completions)
    app.router.add_post("/tokenize", server.tokenize)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield Endpoint(f"http://127.0.0.1:{port}/v1", "m", "external", "none", is_builtin=False)
    finally:
        await runner.cleanup()


def items(folder: Path, *rows: tuple[str, list[str]]) -> MultipleChoice:
    path = folder / "items.jsonl"
    lines = [json.dumps({"question": question, "choices": choices, "answer": 0}) for question, choices in rows]
    path.write_text("\n".join(lines))
    return MultipleChoice(path=str(path), prefix="")


DIGITS = [(f"{n}+{n}=", ["4", "5", "6", "8"]) for n in range(2, 9)]


async def asked(server: Server, task: MultipleChoice, folder: Path, *, named: bool = True) -> tuple[Any, list[Json]]:
    """Return the results of a task, and what each sample's record says."""
    folder.mkdir()
    async with serving(server) as endpoint:
        found = await evaluate(
            endpoint, {"t": task}, [], Evaluate(concurrency=4), folder, None, Watch(), next_tokens=named
        )
    records = [json.loads(line) for line in (folder / "samples.jsonl").read_text().split("\n") if line]
    return found.tasks["t"], sorted(records, key=lambda each: each["id"])


async def test_the_scores_and_log_likelihoods_are_those_of_an_echo(tmp_path: Path) -> None:
    task, server = items(tmp_path, *DIGITS), Server()
    found, records = await asked(server, task, tmp_path / "token")
    expected, echoes = await asked(Server(), task, tmp_path / "echo", named=False)
    assert found.metrics == expected.metrics
    assert found.notes == {NOTE: len(DIGITS)}
    assert expected.notes == {}
    for record, echo in zip(records, echoes, strict=True):
        assert record["prediction"]["loglikelihoods"] == pytest.approx(echo["prediction"]["loglikelihoods"], abs=1e-12)
        assert record["request"] == echo["request"]
    assert not any(body.get("echo") for body in server.asked)
    assert len(server.asked) == len(DIGITS)


async def test_a_choice_that_merges_with_the_context_is_asked_by_an_echo(tmp_path: Path) -> None:
    rows = [("3+6=", ["9", "8"]), ("a", ["b", "c"]), ("3+3=", ["6", "5"]), ("no: ", ["one", "1"])]
    task, server = items(tmp_path, *rows), Server()
    found, records = await asked(server, task, tmp_path / "token")
    expected, echoes = await asked(Server(), task, tmp_path / "echo", named=False)
    assert found.metrics == expected.metrics
    assert found.notes == {NOTE: 1}
    assert [bool(body.get("echo")) for body in server.asked].count(True) == 3
    both = [[record["prediction"]["loglikelihoods"] for record in each] for each in (records, echoes)]
    for one, other in zip(*both, strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def without_ids(found: Json) -> Json:
    (choice,) = found["choices"]
    choice["logprobs"]["top_logprobs"] = [{choice["logprobs"]["tokens"][0]: choice["logprobs"]["token_logprobs"][0]}]
    return found


def without_logprobs(found: Json) -> Json:
    found["choices"][0]["logprobs"] = None
    return found


def cut(found: Json) -> Json:
    found["usage"]["prompt_tokens"] -= 1
    return found


def padded(found: Json) -> Json:
    (top,) = found["choices"][0]["logprobs"]["top_logprobs"]
    top[list(top)[-1]] = -9999.0
    return found


@pytest.mark.parametrize("broken", [without_ids, without_logprobs, cut, padded])
async def test_an_answer_that_lacks_a_value_is_asked_again_by_an_echo(
    broken: Callable[[Json], Json], tmp_path: Path
) -> None:
    task, server = items(tmp_path, *DIGITS), Server(broken)
    found, _ = await asked(server, task, tmp_path / "token")
    expected, _ = await asked(Server(), task, tmp_path / "echo", named=False)
    assert found.metrics == expected.metrics
    assert found.notes == {}
    assert sum(bool(body.get("echo")) for body in server.asked) == len(DIGITS)


async def test_a_server_that_says_no_tokens_is_asked_by_an_echo(tmp_path: Path) -> None:
    server = Server(tokenizes=False)
    found, _ = await asked(server, items(tmp_path, *DIGITS), tmp_path / "run")
    assert found.coverage["scored"] == len(DIGITS)
    assert all(body.get("echo") for body in server.asked)


def off(found: Json) -> Json:
    """Another computation than the echo's."""
    (top,) = found["choices"][0]["logprobs"]["top_logprobs"]
    found["choices"][0]["logprobs"]["top_logprobs"] = [{name: value * 1.5 for name, value in top.items()}]
    return found


async def checked(server: Server, **facts: Json) -> Check:
    others = [name for name in certificate.NAMES if name != "next token"]
    async with serving(server) as bare:
        endpoint = replace(bare, facts=facts)
        found = await certificate.validate(endpoint, Validate(skip=others), frozenset({Capability.prompt_logprobs}))
    (check,) = [each for each in found if each.id == "next_token"]
    return check


@pytest.mark.parametrize(
    ("server", "outcome", "said"),
    [
        (
            Server(),
            Outcome.passed,
            "next tokens equal those of an echo; the tolerance is 0.25 nats",
        ),
        (Server(off), Outcome.warning, "log-probabilities of next tokens differ by"),
        (Server(without_ids), Outcome.not_applicable, "no log-probabilities of named tokens (logprob_token_ids)"),
        (Server(tokenizes=False), Outcome.not_applicable, "no /tokenize that says its tokens (HTTP 404)"),
    ],
)
def test_the_check_proves_it(server: Server, outcome: Outcome, said: str) -> None:
    found = asyncio.run(checked(server))
    assert found.outcome is outcome, found.detail
    assert said in found.detail


def test_the_type_that_the_server_was_started_with_sets_the_tolerance() -> None:
    """A difference that rounding explains in bf16 is a fault of a server in fp32."""

    def nearly(found: Json) -> Json:
        (top,) = found["choices"][0]["logprobs"]["top_logprobs"]
        found["choices"][0]["logprobs"]["top_logprobs"] = [{name: value - 0.01 for name, value in top.items()}]
        return found

    assert asyncio.run(checked(Server(nearly))).outcome is Outcome.passed
    found = asyncio.run(checked(Server(nearly), dtype="fp32"))
    assert found.outcome is Outcome.warning
    assert "differ by 0.01; the tolerance is 0.0001 nats (32 epsilons of fp32" in found.detail


PASSED = Check("next token", True, "equal", id="next_token")
FAILED = Check("next token", None, "the server refuses it", id="next_token")


@pytest.mark.parametrize(
    ("settings", "checks", "expected"),
    [
        (Evaluate(), (PASSED,), True),
        (Evaluate(), (FAILED,), False),
        (Evaluate(), (), False),
        (Evaluate(choices=Choices.echo), (PASSED,), False),
        (Evaluate(choices=Choices.next_token), (PASSED,), True),
        (Evaluate(store_prompt_logprobs=True), (PASSED,), False),
    ],
)
def test_when_it_is_used(settings: Evaluate, checks: tuple[Check, ...], expected: bool) -> None:
    assert asks_next_tokens(settings, checks) is expected


def test_forcing_it_on_a_server_that_cannot_says_why() -> None:
    with pytest.raises(
        ValidationFailed, match=r"^evaluate\.choices=next_token, .*: the server refuses it; set .*=auto$"
    ):
        asks_next_tokens(Evaluate(choices=Choices.next_token), (FAILED,))


async def nothing(text: str) -> Sequence[int]:
    raise AssertionError(text)


def of_tokens(prompts: list[list[int]], starts: tuple[int, ...], **more: Json) -> NextTokens:
    body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 7, **more}
    return asyncio.run(next_tokens(Request("/v1/completions", body, counted=starts), nothing))


def test_prompts_of_token_ids_are_read_as_they_are() -> None:
    assert of_tokens([[5, 6, 7], [5, 6, 8]], (2, 2)) == NextTokens((5, 6), (7, 8))


@pytest.mark.parametrize(
    ("prompts", "starts", "more"),
    [
        ([[5, 6, 7], [5, 6, 8, 9]], (2, 2), {}),
        ([[5, 6, 7], [4, 6, 8]], (2, 2), {}),
        ([[5, 6, 7], [5, 6, 8]], (2, 1), {}),
        ([[7], [8]], (0, 0), {}),
        ([[5, 6, 7]], (2,), {}),
        ([[5, 6, 7], [5, 6, 8]], (2, 2), {"temperature": 1}),
        ([[5, 6, 7], [5, 6, 8]], (2, 2), {"logprobs": 5}),
        ([[5, 6, 7], [5, 6, 8]], (2, 2), {"logit_bias": {"7": 1}}),
    ],
)
def test_any_others_stay_an_echo(prompts: list[list[int]], starts: tuple[int, ...], more: dict[str, Json]) -> None:
    with pytest.raises(NotNextTokens):
        of_tokens(prompts, starts, **more)


async def test_prompts_of_token_ids_are_answered_as_an_echo_that_lm_eval_reads() -> None:
    server, prompts = Server(), [[1, 50, 51], [1, 50, 53]]
    body = {"model": "m", "prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1}
    codec = completions_codec(
        ClientSettings("m", EndpointTokenizer(Endpoint("http://unused/v1", "m", "external", "none")), 1, 1, False, 64)
    )
    async with serving(server) as endpoint, Client(endpoint, timeout_s=60) as client:
        answer = await by_token(client, client, endpoint)(Request("/v1/completions", body, counted=(2, 2)))
    assert [each["prompt"] for each in server.asked] == [[1, 50]]
    expected, best = logprobs([1, 50]), max(logprobs([1, 50]))
    for choice, prompt in zip(answer.body["choices"], prompts, strict=True):
        value, greedy = codec.loglikelihood(choice, Encoded(tuple(prompt), 2))
        assert value == pytest.approx(expected[prompt[-1]], abs=1e-12)
        assert greedy is (expected[prompt[-1]] == best)
