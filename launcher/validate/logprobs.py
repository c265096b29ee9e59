"""Checks of the prompt's log-probabilities: their alignment, and their equality with a plain forward pass."""

from __future__ import annotations

import math
import statistics

from launcher.core.types import Json
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    Measurement,
    NotApplicable,
    usage_of,
)
from launcher.validate.exchange import together
from launcher.validate.rounding import ROOM, reference, texts, tolerance
from launcher.validate.tolerance import nats

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


async def echo_aligned(context: CheckContext) -> str:
    """With echo, every list of logprobs has an entry per prompt token and per generated token; the first is null."""
    body = await _score(context, context.settings.prompt)
    choice, usage = body["choices"][0], usage_of(body)
    expected = usage["prompt_tokens"] + usage["completion_tokens"]
    lists = {name: choice["logprobs"][name] for name in LISTS}
    for name, values in lists.items():
        if len(values) != expected:
            raise Failure(f"logprobs.{name} has {len(values)} entries for {expected} tokens")
    if not choice["text"].startswith(context.settings.prompt):
        raise Failure(f"echo: the text starts with {choice['text'][:40]!r}, not with the prompt")
    if lists["token_logprobs"][0] is not None or lists["top_logprobs"][0] is not None:
        raise Failure("logprobs of the first prompt token must be null")
    _check_values(lists)
    return f"{expected} entries in each list"


def _check_values(lists: dict[str, Json]) -> None:
    for i, (value, top) in enumerate(zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:], strict=True), start=1):
        if value is None or value > 1e-6:
            raise Failure(f"logprobs.token_logprobs[{i}] is {value}, expected a number that is not positive")
        if top and value > max(top.values()):
            raise Failure(f"logprobs.token_logprobs[{i}] is {value}, above the best alternative {max(top.values())}")


async def equal_to_forward(context: CheckContext) -> Measurement:
    """Compare with plain forward passes of the same weights: prompts, and then tokens generated one by one.

    Prompts are sent alone and with others. Generated tokens see the prompt only through the cache.
    """
    if not context.endpoint.is_builtin:
        raise NotApplicable("a server of another program has no plain forward pass")
    sequences, accepted = await texts(context), await tolerance(context)
    found = {"prompt": await _of_prompts(context, sequences), "generated": await _of_generated(context, sequences)}
    for kind, differences in found.items():
        if (complaint := accepted.violation(differences)) is not None:
            raise Failure(f"log-probabilities of {kind} tokens differ {complaint} from a plain forward pass")
    every = [d for differences in found.values() for d in differences]
    worst, median = accepted.worst(every), statistics.median(every)
    detail = (
        f"largest difference {nats(worst)}, median {nats(median)} over {len(every)} tokens; the tolerance is {accepted}"
    )
    return Measurement(detail, {"largest_difference": worst, "median_difference": median, "tokens": len(every)})


async def _of_prompts(context: CheckContext, sequences: list[list[int]]) -> list[float]:
    """Return the differences of prompt tokens, also of prefixes of one prompt."""
    first, expected = sequences[0], [await _expected(context, tokens) for tokens in sequences]
    requests = [(first[:n], expected[0]) for n in (len(first) - 1, 3, len(first))]
    requests += zip(sequences, expected, strict=True)
    bodies = await together([_score(context, tokens) for tokens, _ in requests])
    return [d for body, (_, known) in zip(bodies, requests, strict=True) for d in _differences(_prompt(body), known)]


async def _of_generated(context: CheckContext, sequences: list[list[int]]) -> list[float]:
    """Return the differences of generated tokens; a bias makes each sequence repeat its last token."""
    forced = [tokens[-1] for tokens in sequences]
    bodies = await together(
        [
            context.complete(prompt=tokens, logprobs=1, max_tokens=ROOM, logit_bias={str(token): 100}, ignore_eos=True)
            for tokens, token in zip(sequences, forced, strict=True)
        ]
    )
    whole = [[*tokens, *[token] * ROOM] for tokens, token in zip(sequences, forced, strict=True)]
    expected = [(await _expected(context, tokens))[-ROOM:] for tokens in whole]
    generated = [body["choices"][0]["logprobs"]["token_logprobs"] for body in bodies]
    if any(len(seen) != ROOM for seen in generated):
        raise Failure(
            f"{', '.join(str(len(seen)) for seen in generated)} log-probabilities for {ROOM} generated tokens"
        )
    return [d for seen, known in zip(generated, expected, strict=True) for d in _differences(seen, known)]


async def _expected(context: CheckContext, tokens: list[int]) -> list[float]:
    return [float(v) for v in (await reference(context, tokens))["token_logprobs"] if v is not None]


async def _score(context: CheckContext, prompt: str | list[int]) -> Json:
    return await context.complete(prompt=prompt, echo=True, logprobs=1, max_tokens=1)


def _prompt(body: Json) -> list[float]:
    """Return the log-probabilities of the prompt's tokens except the first."""
    prompt = usage_of(body)["prompt_tokens"]
    seen: list[float] = body["choices"][0]["logprobs"]["token_logprobs"][1:prompt]
    if len(seen) != prompt - 1:
        raise Failure(f"{len(seen)} log-probabilities for a prompt of {prompt} tokens")
    return seen


def _differences(seen: list[float], expected: list[float]) -> list[float]:
    """Return the absolute differences; infinite where one is not finite."""
    found = [abs(a - b) for a, b in zip(seen, expected, strict=False)]
    return [d if math.isfinite(d) else math.inf for d in found]


CHECKS = (
    CheckDefinition(
        "echo_aligned",
        "echo aligned",
        Capability.prompt_logprobs,
        echo_aligned,
        Family.logprobs,
        expected="with `echo`, every list of `logprobs` has one entry per token, offsets count characters, "
        "and the first entry is null",
        effect="log-likelihoods belong to other tokens: multiple choice and perplexity are at chance",
        remedy="a server with echo and logprobs for completions, or tasks that generate",
        after="completion",
        base=True,
    ),
    CheckDefinition(
        "forward_pass",
        "equal to forward pass",
        Capability.prompt_logprobs,
        equal_to_forward,
        Family.logprobs,
        expected="log-probabilities of prompts, and of generated tokens, equal those of a plain forward pass",
        effect="log-likelihoods are those of another computation than the model's",
        remedy="optimizations.* (cache, kernels), optimizations.dtype; validate.tolerance for a known difference",
        after="completion",
    ),
)
