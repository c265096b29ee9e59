"""Turn a validated body into the engine's request for each choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from launcher.api.detokenizer import CallReader, Choice
from launcher.api.request_schema import Sampled
from launcher.asgi.errors import ApiError, clipped, invalid
from launcher.core import logs
from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling
from launcher.engines.sampling_bounds import MAX_SEED

MAX_CHOICES_IN_ALL = 2048

GREEDY_BELOW = 1e-6
"""Temperatures below this are greedy; a division by them would overflow."""

Prompt = tuple[int, ...]


def choices(
    body: Sampled,
    prompts: Sequence[Prompt],
    limits: Sequence[int],
    *,
    id: str,
    logprobs: int | None,
    echoes: Sequence[tuple[bytes, ...]] = (),
    grammar: str | None = None,
    calls: Callable[[], CallReader] | None = None,
) -> list[Choice]:
    """Return ``n`` choices for each prompt, in the order of their index. ``limits`` are the prompts' token limits.

    ``echoes`` are the bytes of the tokens of each prompt, for answers that begin with it. The text that is generated
    matches ``grammar``. ``calls`` makes the reader of a choice's calls of tools.
    """
    logs.bind(engine_id=id)  # the engine knows this request by ids that begin so
    found: list[Choice] = []
    for prompt, limit, echo in zip(prompts, limits, echoes or [()] * len(prompts), strict=True):
        for index in range(len(found), len(found) + body.n):
            sampling = _sampling(body, limit, index, logprobs, bool(echo), grammar)
            # A stop string may end the text at any token, so that each token is checked as soon as it is generated.
            generation = GenerationRequest(
                f"{id}-{index}", prompt, sampling, final_only=not body.stream and not body.stop
            )
            found.append(Choice(index, generation, body.stop, echo, calls))
    return found


def check_tokens(tokens: Sequence[int], engine: AsyncEngine, param: str) -> None:
    """Refuse token ids that the model does not have, even if its tokenizer has them."""
    highest = max(tokens, default=0)
    if engine.vocab_size <= highest < engine.tokenizer.vocab_size:
        name = f"token {highest} ({clipped(engine.tokenizer.token_name(highest))!r})"
        raise invalid(param, f"{param}: there is no {name}, expected 0 to {engine.vocab_size - 1}")
    check_range(tokens, engine.vocab_size, param)


def check_range(tokens: Sequence[int], vocab_size: int, param: str) -> None:
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise invalid(param, f"{param}: there is no token {token}, expected 0 to {vocab_size - 1}")


def check_bias(body: Sampled, engine: AsyncEngine) -> None:
    check_tokens(list(body.logit_bias), engine, "logit_bias")


def check_choices(body: Sampled, prompts: int, engine: AsyncEngine) -> None:
    """Refuse more choices than the engine can ever take: a later retry would not help."""
    if body.best_of not in (None, body.n):
        raise invalid("best_of", f"best_of: expected the value of n ({body.n}), got {body.best_of}")
    limit = MAX_CHOICES_IN_ALL if engine.capacity is None else min(MAX_CHOICES_IN_ALL, engine.capacity)
    if prompts * body.n > limit:
        param = "n" if body.n > 1 else "prompt"
        total = f"{prompts} prompts with n={body.n} are {prompts * body.n} choices"
        raise invalid(param, f"{param}: {total}; expected at most {limit} in one request")


def check_length(text: str, param: str, engine: AsyncEngine) -> None:
    """Refuse, without tokenizing it, a text that cannot fit the context."""
    longest, context = engine.tokenizer.longest_token, engine.context_length
    if longest is not None and len(text) > longest * context:
        raise invalid(
            param,
            f"This model's maximum context length is {context} tokens. However, your {param} has at least "
            f"{-(-len(text) // longest)} tokens. Please reduce the length of the {param}.",
            "context_length_exceeded",
        )


def token_limit(body: Sampled, param: str, prompt: int, context: int, default: int | None, lowest: int = 1) -> int:
    """Return how many tokens to generate after a prompt of ``prompt`` tokens, named ``param`` in messages.

    Without a limit in the body, it is the smaller of ``default`` and the rest of the context. Raises `ApiError` 400
    with both lengths if the request does not fit.
    """
    name, limit = _requested_limit(body)
    left = context - prompt
    if limit is not None and limit < lowest:
        raise invalid(
            name,
            f"Invalid '{name}': integer below minimum value. Expected a value >= {lowest}, but got {limit}.",
            "integer_below_min_value",
        )
    wanted = lowest if limit is None else limit
    if wanted > left:
        raise too_long(param, prompt, wanted, context, blame=param if left < lowest else name)
    return wanted if limit is not None else left if default is None else min(default, left)


def too_long(param: str, prompt: int, wanted: int, context: int, blame: str) -> ApiError:
    """Return the error for a prompt and completion that do not fit, in the words that clients search for."""
    return invalid(
        blame,
        f"This model's maximum context length is {context} tokens. However, you requested {prompt + wanted} tokens "
        f"({prompt} in the {param}, {wanted} in the completion). Please reduce the length of the {param}.",
        "context_length_exceeded",
    )


def _requested_limit(body: Sampled) -> tuple[str, int | None]:
    """Return the token limit of a request, and the name of the field that has it."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid("max_completion_tokens", f"max_tokens is {old} and max_completion_tokens {new}; give one of them")
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _sampling(body: Sampled, limit: int, index: int, logprobs: int | None, echo: bool, grammar: str | None) -> Sampling:
    only_best = body.top_p == 0
    return Sampling(
        max_tokens=limit,
        temperature=0.0 if body.temperature < GREEDY_BELOW else body.temperature,
        top_p=1.0 if only_best else body.top_p,
        top_k=1 if only_best else max(0, body.top_k),
        seed=None if body.seed is None else seed_of(body.seed, index),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        logprobs=logprobs,
        prompt_logprobs=logprobs if echo else None,
        ignore_eos=body.ignore_eos,
        grammar=grammar,
    )


def seed_of(seed: int, index: int) -> int:
    """Return the seed of one choice, from 0 to 2**63 - 1: choices differ, and repeat exactly.

    The first choice of a request has the request's own seed, unless that is negative.
    """
    if index == 0 and seed >= 0:
        return seed
    digest = blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) & MAX_SEED
