"""What is wrong with a body is told in front of any engine, so that one app in memory stands for all servers."""

from __future__ import annotations

import httpx
import pytest

from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from tests.api.runners import client_of

MESSAGES = [{"role": "user", "content": "hi"}]


def blamed(answer: httpx.Response) -> str | None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    return error["param"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "16"), ("max_tokens", -1), ("max_tokens", 0), ("temperature", 3), ("temperature", "0"), ("n", 0),
        ("top_p", 2), ("stop", ""), ("stop", [""]), ("logprobs", 99), ("logprobs", True), ("logit_bias", {"x": 1}),
        ("logit_bias", {"99999999": 1}), ("logit_bias", {"9" * 5000: 1}), ("presence_penalty", 3), ("best_of", 5),
        ("suffix", "x"), ("tools", [1]), ("prompt", []), ("prompt", ""), ("prompt", [99999999]), ("prompt", [-1]),
        ("prompt", None), ("unknown_field", 1), ("seed", "x"), ("echo", "yes"), ("functions", [1]),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, field: str, value: object, stream: bool
) -> None:
    body = {"model": "echo", "prompt": "12", "stream": stream} | {field: value}
    assert blamed(await client.post("/v1/completions", json=body)) == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", 1), ("functions", [1]), ("response_format", {"type": "json_object"}), ("top_logprobs", 2),
        ("messages", []), ("messages", None), ("max_tokens", 0), ("prompt", "x"), ("echo", True), ("logprobs", 1),
        ("best_of", 3), ("add_special_tokens", True),
    ],
)  # fmt: skip
async def test_a_wrong_value_in_a_chat(client: httpx.AsyncClient, field: str, value: object) -> None:
    body = {"model": "echo", "messages": MESSAGES} | {field: value}
    assert blamed(await client.post("/v1/chat/completions", json=body)) == field


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff\xfe", b"[" * 10**5])
async def test_malformed_json_is_a_400(client: httpx.AsyncClient, data: bytes) -> None:
    assert blamed(await client.post("/v1/completions", content=data)) is None


async def test_no_prompt_is_repeated_in_an_error(client: httpx.AsyncClient) -> None:
    for prompt in ({"text": "SECRET " * 20}, ["SECRET" * 20, 5]):
        answer = await client.post("/v1/completions", json={"model": "echo", "prompt": prompt})
        assert blamed(answer) == "prompt"
        assert "SECRET" not in answer.text


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/reference_logprobs"])
@pytest.mark.parametrize(
    "body",
    [{}, {"tokens": [-1], "prompt": 5}, {"prompt": "x", "tokens": [1], "model": "unknown"}, {"tokens": ["x"] * 9}],
)
async def test_token_routes_refuse_what_is_wrong(client: httpx.AsyncClient, path: str, body: object) -> None:
    blamed(await client.post(path, json=body))


async def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_look_for(client: httpx.AsyncClient) -> None:
    for path, asked, field in (
        ("/v1/completions", {"prompt": "x" * 9000}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 10**9}, "max_tokens"),
    ):
        answer = await client.post(path, json={"model": "echo"} | asked)
        assert blamed(answer) == field
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert answer.json()["error"]["message"].startswith(
            "This model's maximum context length is 4096 tokens. However, "
        )


class Counting(ByteTokenizer):
    """Notes how much it was given to tokenize."""

    characters = 0

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        self.characters += len(text)
        return super().encode(text, special=special)


@pytest.mark.parametrize("longest", [1, 10, None])
async def test_a_prompt_that_can_never_fit_is_refused_without_being_tokenized(longest: int | None) -> None:
    runner = EchoAsyncEngine(Echo(), Model("echo"))
    runner.tokenizer = Counting()
    runner.tokenizer.longest_token = longest  # type: ignore[assignment]
    async with client_of(runner) as client:
        for prompt, tokenized in (("x" * 4095, True), ("x" * 4097, longest != 1), ("x" * 10**6, longest is None)):
            runner.tokenizer.characters = 0
            answer = await client.post("/v1/completions", json={"model": "echo", "prompt": prompt, "max_tokens": 1})
            assert answer.status_code == (200 if len(prompt) < 4096 else 400)
            assert bool(runner.tokenizer.characters) == tokenized
            if len(prompt) > 4096:
                assert answer.json()["error"]["code"] == "context_length_exceeded"
                assert answer.json()["error"]["message"].startswith(
                    "This model's maximum context length is 4096 tokens."
                )
