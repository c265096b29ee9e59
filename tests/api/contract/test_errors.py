from __future__ import annotations

import re

import openai
import pytest

from tests.api.contract.conftest import Api

MESSAGES = [{"role": "user", "content": "hi"}]


def blamed(answer, status: int) -> tuple[str | None, str | None]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "choices" not in answer.json()
    return error["param"], error["code"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_value_is_a_400_that_names_the_field(api: Api, stream: bool) -> None:
    """What is wrong with a body is found in front of any engine: `tests/api/test_errors.py` has the other mistakes."""
    assert blamed(await api.post("/v1/completions", prompt="12", stream=stream, max_tokens=-1), 400)[0] == "max_tokens"
    content = [{"type": "image_url", "image_url": {"url": "data:"}}]
    answer = await api.post("/v1/chat/completions", messages=[{"role": "user", "content": content}], stream=stream)
    assert blamed(answer, 400)[0] == "messages[0].content"


async def test_an_unknown_model_is_a_404(api: Api, sdk: openai.AsyncOpenAI) -> None:
    for path, rest in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": MESSAGES})):
        assert blamed(await api.post(path, model="unknown", **rest), 404) == ("model", "model_not_found")
    assert blamed(await api.http.get("/v1/models/unknown"), 404) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        await sdk.completions.create(model="unknown", prompt="x")


async def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(api: Api) -> None:
    context = await api.context_length()
    tokens = (await api.tokens("1"))[:1] * (context + 5)
    answer = await api.post("/v1/completions", prompt=tokens, max_tokens=3)
    assert blamed(answer, 400) == ("prompt", "context_length_exceeded")
    assert str(context) in answer.text
    assert str(context + 5) in answer.text
    answer = await api.post("/v1/completions", prompt=tokens[:10], max_tokens=context)
    assert blamed(answer, 400) == ("max_tokens", "context_length_exceeded")
    answer = await api.post("/v1/chat/completions", messages=[{"role": "user", "content": "1 " * 5 * context}])
    assert blamed(answer, 400) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize(("prompts", "n", "field"), [(1500, 1, "prompt"), (15, 100, "n")])
async def test_more_choices_than_ever_fit_are_a_400_and_not_a_429(api: Api, prompts: int, n: int, field: str) -> None:
    answer = await api.post("/v1/completions", prompt=["a"] * prompts, n=n, max_tokens=1)
    assert blamed(answer, 400)[0] == field
    assert re.search(r"are 1500 choices; expected at most \d+ in one request", answer.text)


async def test_unknown_routes_and_methods(api: Api) -> None:
    blamed(await api.http.get("/v1/nothing"), 404)
    blamed(await api.http.get("/v1/completions"), 405)
    blamed(await api.http.post("/health"), 405)
