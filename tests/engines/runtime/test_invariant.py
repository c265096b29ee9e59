"""With ``optimizations.batch_invariant`` an answer is the same alone and among any others, bit for bit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from launcher.distributed.allocation import allocate
from launcher.engines.base import AsyncEngine, Engine, GenerationRequest, Sampling, TokenLogprob
from launcher.engines.huggingface import HuggingFace
from launcher.engines.megatron import Megatron
from launcher.settings.model import Dtype, Model, Optimizations
from tests.engines import deployments
from tests.validate import planted

Answer = tuple[tuple[TokenLogprob, ...], tuple[TokenLogprob, ...] | None]
SHARED = tuple(range(65, 65 + 40))
"""A beginning of two and a half blocks that several prompts have."""


def request(name: str, prompt: Sequence[int], **sampling: object) -> GenerationRequest:
    settings = {"max_tokens": 20, "temperature": 0.0, "logprobs": 4, "ignore_eos": True} | sampling
    return GenerationRequest(name, tuple(prompt), Sampling(**settings))  # type: ignore[arg-type]


REQUESTS = [
    request("one", (7,)),
    request("block", range(16), prompt_logprobs=2),
    request("shared", SHARED, prompt_logprobs=3),
    request("longer", (*SHARED, 1, 2, 3), prompt_logprobs=0),
    request("shared again", (*SHARED, 9), temperature=0.9, seed=3),
    request("long", [(i * 37) % 250 for i in range(100)], prompt_logprobs=1),
    request("score", [(i * 11) % 250 for i in range(60)], prompt_logprobs=5, max_tokens=0),
    request("to the end", [(i * 5) % 250 for i in range(200)], max_tokens=56, presence_penalty=0.5),
]


async def answer(runner: AsyncEngine, asked: GenerationRequest, name: str = "") -> Answer:
    tokens: list[TokenLogprob] = []
    prompt = None
    renamed = GenerationRequest(asked.id + name, asked.prompt, asked.sampling)
    async for event in runner.generate(renamed):
        tokens += event.tokens
        prompt = prompt or event.prompt
    return tuple(tokens), prompt


def answers(runner: AsyncEngine, asked: Sequence[GenerationRequest], name: str) -> dict[str, Answer]:
    async def together() -> list[Answer]:
        return await asyncio.gather(*(answer(runner, each, name) for each in asked))

    return dict(zip([each.id for each in asked], asyncio.run(together()), strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a random model with a context of 256 tokens."""
    return str(planted.near_ties(tmp_path_factory.mktemp("invariant")))


def engines(kind: type[Engine]) -> Iterator[Engine]:
    """Yield an engine as it is, and one that computes prompts in small parts and has little room for its cache."""
    yield kind()
    yield kind(prefill_chunk=23, max_sequences=3)  # type: ignore[call-arg]


def loaded(engine: Engine, path: str, **optimizations: object) -> object:
    asked = Optimizations(dtype=Dtype.bf16, **optimizations)  # type: ignore[arg-type]
    return deployments.load(engine, Model("m", path), allocate(), optimizations=asked)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Megatron, HuggingFace])
def test_tokens_and_log_probabilities_are_the_same_alone_and_in_any_mix(kind: type[Engine], model: str) -> None:
    found: list[dict[str, Answer]] = []
    for engine in engines(kind):
        for caching in (True, False):
            with loaded(engine, model, batch_invariant=True, prefix_caching=caching) as runner:  # type: ignore[attr-defined]
                assert runner.describe()["optimizations"]["batch_invariant"]["active"]
                found.append({each.id: asyncio.run(answer(runner, each)) for each in REQUESTS})
                found.append(answers(runner, REQUESTS, "+"))
                found.append(answers(runner, [*REQUESTS[::-1], request("more", SHARED)], "-"))
    for other in found[1:]:
        for name, expected in found[0].items():
            assert other[name] == expected, name


@pytest.mark.parametrize("kind", [Megatron])
def test_without_batch_invariance_they_differ(kind: type[Engine], model: str) -> None:
    """So that the test above would notice."""
    with loaded(kind(), model) as runner:  # type: ignore[attr-defined]
        alone = {each.id: asyncio.run(answer(runner, each)) for each in REQUESTS}
        assert answers(runner, REQUESTS, "+") != alone
