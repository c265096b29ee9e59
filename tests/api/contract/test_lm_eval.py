"""What lm-eval's own client for completions sends and expects."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.contract.conftest import Api
from tests.api.lm_eval_client import ask


async def test_log_likelihoods_as_its_client_reads_them(api: Api) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    context, continuations = "12+34=", ["46", "47", "x"]
    first = await api.tokens(context)
    prompts = [first + (await api.tokens(end)) for end in continuations]
    body = await api.complete(prompts, max_tokens=1, logprobs=1, echo=True, seed=1234)
    parsed = LocalCompletionsAPI.parse_logprobs(body, tokens=prompts, ctxlens=[len(first)] * len(prompts))
    for (total, greedy), prompt in zip(parsed, prompts, strict=True):
        reference = (await api.post("/reference_logprobs", tokens=prompt)).json()["token_logprobs"]
        assert total == pytest.approx(sum(reference[len(first) :]), abs=1e-3)
        assert isinstance(greedy, bool)


async def test_what_the_model_says_itself_is_greedy(api: Api) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    prompt = await api.tokens("12+34=")
    said = (await api.complete(prompt, max_tokens=1, ignore_eos=True))["choices"][0]["text"]
    whole = prompt + (await api.tokens(said))
    body = await api.complete(whole, max_tokens=1, logprobs=1, echo=True)
    parsed = LocalCompletionsAPI.parse_logprobs(body, ctxlens=[len(prompt)])
    assert parsed[0][1] is True


async def test_its_remote_tokenizer(api: Api) -> None:
    from lm_eval.utils import RemoteTokenizer, check_remote_tokenizer_support

    url = f"{api.endpoint.url}/completions"
    assert await asyncio.to_thread(check_remote_tokenizer_support, url)
    tokenizer = await asyncio.to_thread(RemoteTokenizer, url)
    tokens = await asyncio.to_thread(tokenizer.encode, "12+34=é")
    assert await asyncio.to_thread(tokenizer.decode, tokens) == "12+34=é"


async def test_its_own_client(api: Api) -> None:
    ends = ["46", "47", "x"]
    likely, texts = await asyncio.to_thread(ask, api.endpoint.url, api.endpoint.model, ends)
    first = await api.tokens("12+34=")
    for (total, greedy), end in zip(likely, ends, strict=True):
        whole = await api.tokens(f"12+34={end}")
        reference = (await api.post("/reference_logprobs", tokens=whole)).json()["token_logprobs"]
        assert total == pytest.approx(sum(reference[len(first) :]), abs=1e-3)
        assert isinstance(greedy, bool)
    for prompt, text in zip(("12+34=", "2+2="), texts, strict=True):
        assert text == (await api.complete(prompt, stop=["\n"]))["choices"][0]["text"]
