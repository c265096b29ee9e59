"""Checks of log-probabilities that hold for any server: each is compared with what the same server says elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from launcher.core.prompt_logprobs import SPECIAL
from launcher.core.types import Json, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    NotApplicable,
    counts_of,
    text_of,
)
from launcher.validate.divergence import ALTERNATIVES
from launcher.validate.rounding import PROBES, tolerance
from launcher.validate.routes import CHAT, COMPLETIONS

ROUND_UP = 1e-3
"""How far rounding may lift a sum of probabilities above 1."""
LENGTH = 8
SENTENCE = PROBES[0]
SEVERAL = 5
"""So many equal log-probabilities are no real ones."""
DIGITS = 2
AT_FLOOR = 3
"""So many equal log-probabilities, with none below, are a floor."""
LEAST = -1000.0
"""Servers write a lower number for minus infinity."""
HIGH = 1.7
BEGINS = (
    "<s>",
    "<bos>",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "[CLS]",
)
"""Tokens that begin a sequence: Llama 2 and Mistral, Gemma, Llama 3, others, DeepSeek, BERT."""
LIKELIER = 0.5
"""A text that is so many nats per token likelier after a begin lacks it."""
SETTLED = 4
"""The first tokens of a text, whose log-probabilities depend most on what is before."""


async def generated(context: CheckContext) -> str:
    """Log-probabilities of generated tokens: as many as tokens, probabilities, not constant, best first."""
    _, body = await COMPLETIONS.opening(context, 2, max_tokens=LENGTH, logprobs=ALTERNATIVES)
    lists = body["choices"][0].get("logprobs")
    if not lists:
        raise Failure(f"logprobs={ALTERNATIVES} gave no logprobs")
    tokens, values, tops = lists["tokens"], lists["token_logprobs"], lists.get("top_logprobs")
    _as_many("logprobs.tokens", len(tokens), counts_of(body)["completion_tokens"])
    _not_constant(values)
    text_of_tokens(tokens, text_of(body))
    if not tops:
        raise Doubt(f"logprobs={ALTERNATIVES} gave no alternatives")
    _sums(tops)
    _enough(tops)
    _exact([value for top in tops for value in top.values()])
    return f"{len(values)} log-probabilities with alternatives"


async def of_chat(context: CheckContext) -> str:
    """The same of a chat, whose tokens are a list of objects."""
    _, body = await CHAT.opening(context, 2, max_tokens=LENGTH, logprobs=True, top_logprobs=ALTERNATIVES)
    content = (body["choices"][0].get("logprobs") or {}).get("content")
    if not content:
        raise Failure("logprobs=true gave no logprobs.content")
    _as_many("logprobs.content", len(content), counts_of(body)["completion_tokens"])
    _not_constant([entry["logprob"] for entry in content])
    text_of_tokens([entry["token"] for entry in content], text_of(body))
    tops = [{f"{i}": top["logprob"] for i, top in enumerate(entry["top_logprobs"])} for entry in content]
    _sums(tops)
    _enough(tops)
    await _greedy(context, content)
    return f"{len(content)} log-probabilities with alternatives"


async def echo_sums(context: CheckContext) -> str:
    """The probabilities of alternatives to the prompt's tokens must not exceed 1 together."""
    body = await _echo(context, context.settings.prompt, logprobs=ALTERNATIVES)
    lists = body["choices"][0]["logprobs"]
    _not_constant(lists["token_logprobs"][1:])
    _sums(lists["top_logprobs"])
    _exact(lists["token_logprobs"][1:])
    return f"{len(lists['tokens'])} sums of at most 1"


async def generated_unsampled(context: CheckContext) -> str:
    """Log-probabilities of generated tokens are the model's own: no temperature of the request changes them."""
    plain, sampled = [
        await context.complete(max_tokens=1, logprobs=ALTERNATIVES, **more)
        for more in ({}, {"temperature": HIGH, "top_p": 0.5, "seed": 1})
    ]
    one, other = [(body["choices"][0].get("logprobs") or {}).get("top_logprobs") or [{}] for body in (plain, sampled)]
    pairs = [(name, value, other[0][name]) for name, value in one[0].items() if name in other[0]]
    if not pairs:
        raise NotApplicable("the server gives no alternatives")
    await _close(context, pairs, f"at temperature 0 and {HIGH:g}")
    return "the same at any temperature"


async def echo_agrees(context: CheckContext) -> str:
    """A generated token must have the same log-probability when it is sent as part of the prompt."""
    text, body = await COMPLETIONS.opening(context, 2, max_tokens=LENGTH, logprobs=1)
    written = body["choices"][0].get("logprobs") or {}
    again = (await _echo(context, text + text_of(body)))["choices"][0]["logprobs"]
    start = _prompt_size(body)
    pairs = []
    rows = zip(written["tokens"], written["token_logprobs"], strict=True)
    for at, (token, value) in enumerate(rows, start=start):
        if at >= len(again["tokens"]) or again["tokens"][at] != token or again["token_logprobs"][at] is None:
            break
        pairs.append((token, value, again["token_logprobs"][at]))
    if len(pairs) < 2:
        raise NotApplicable("the generated text has other tokens when it is sent")
    await _close(context, pairs, "generated and as part of the prompt")
    return f"{len(pairs)} generated tokens score the same as a prompt"


async def echo_causal(context: CheckContext) -> str:
    """Text that follows must not change the log-probabilities before it."""
    short, long = context.settings.prompt, context.settings.prompt + " and more of it, 12+30=42"
    one, other = [(await _echo(context, text))["choices"][0]["logprobs"] for text in (short, long)]
    pairs = []
    for at, token in enumerate(one["tokens"][:-2]):
        if at and other["tokens"][at] != token:
            break
        if at and one["token_logprobs"][at] is not None and other["token_logprobs"][at] is not None:
            pairs.append((token, one["token_logprobs"][at], other["token_logprobs"][at]))
    if len(pairs) < SEVERAL:
        raise NotApplicable("the two prompts have few tokens in common")
    await _close(context, pairs, "before the end of a prompt and before further text")
    return f"{len(pairs)} tokens score the same with any text after them"


async def echo_unsampled(context: CheckContext) -> str:
    """Log-probabilities of a prompt are the model's own: no temperature or penalty of the request changes them."""
    plain, sampled = [
        (await _echo(context, context.settings.prompt, **more))["choices"][0]["logprobs"]
        for more in ({}, {"temperature": HIGH, "top_p": 0.5, "frequency_penalty": 1, "seed": 1})
    ]
    rows = zip(plain["tokens"][1:-1], plain["token_logprobs"][1:-1], sampled["token_logprobs"][1:-1], strict=False)
    await _close(context, list(rows), f"at temperature 0 and {HIGH:g}")
    return "the same at any temperature"


async def echo_prompts(context: CheckContext) -> str:
    """Other prompts must get other scores, and each its own text: a cache may know them by something else."""
    head, tail = context.settings.prompt, context.settings.prompt[:-1]
    prompts = (head, tail + "!", "X" + head[1:], "a", f"  {head}\n\n ")
    seen: dict[str, list[Json]] = {}
    for prompt in prompts:
        body = await _echo(context, prompt)
        if not text_of(body).startswith(prompt):
            raise Failure(f"the echo of {prompt!r} begins with {text_of(body)[: len(prompt)]!r}")
        seen[prompt] = body["choices"][0]["logprobs"]["token_logprobs"]
    if seen[head][1:-1] == seen["X" + head[1:]][1:-1]:
        raise Failure("another first character changes no log-probability: what is before a token has no part in it")
    return f"{len(prompts)} prompts, each with scores of its own"


async def bos_once(context: CheckContext) -> str:
    """A begin-of-sequence token must not be doubled."""
    tokens = (await _echo(context, context.settings.prompt))["choices"][0]["logprobs"]["tokens"]
    if len(tokens) > 1 and tokens[0] == tokens[1] and SPECIAL.fullmatch(tokens[0]):
        raise Failure(f"the prompt begins with {tokens[0]!r} twice")
    if SPECIAL.fullmatch(tokens[0]):
        return f"the first token is {tokens[0]!r}"
    plain = await _echo(context, SENTENCE)
    tried = [begin for begin in BEGINS if await _lacks(context, begin, plain)]
    if not tried:
        return f"the first token is {tokens[0]!r}; whether a begin is missing is not measured: no usual one is a token"
    return f"the first token is {tokens[0]!r}; {', '.join(tried)} before it makes a text no likelier"


async def _lacks(context: CheckContext, begin: str, plain: Json) -> bool:
    """Return whether a begin is one token of the server. Raises `Doubt` where a text is much likelier after it."""
    try:
        after = await _echo(context, begin + SENTENCE)
    except Failure:  # a server may leave special tokens out of an echo
        return False
    if _prompt_size(after) != _prompt_size(plain) + 1:
        return False
    one, other = [body["choices"][0]["logprobs"]["token_logprobs"][:-1] for body in (plain, after)]
    size = len(one) - SETTLED
    gain = (math.fsum(other[-size:]) - math.fsum(one[-size:])) / size
    if gain > LIKELIER:
        raise Doubt(
            f"a text is {gain:.2g} nats per token likelier after {begin!r}, which the server does not put there"
        )
    return True


async def _echo(context: CheckContext, prompt: str, **more: Json) -> Json:
    return await context.complete(**{"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, **more})


def _prompt_size(body: Json) -> int:
    return counts_of(body)["prompt_tokens"]


async def _close(context: CheckContext, pairs: Sequence[tuple[str, float, float]], how: str) -> None:
    accepted = await tolerance(context)
    differences = [abs(one - other) for _, one, other in pairs]
    differences = [each if math.isfinite(each) else math.inf for each in differences]
    if differences and (complaint := accepted.violation(differences)) is not None:
        token, one, other = max(pairs, key=lambda pair: abs(pair[1] - pair[2]))
        raise Failure(f"{token!r} has the log-probability {one:.4g} and {other:.4g}, {how}: differs {complaint}")


def _as_many(what: str, seen: int, expected: int) -> None:
    if seen != expected:
        raise Failure(f"{what} has {seen} entries, usage counts {expected} generated tokens")


def _not_constant(values: Sequence[float | None]) -> None:
    numbers = [value for value in values if value is not None]
    if len(numbers) >= SEVERAL and max(numbers) == min(numbers):
        raise Failure(f"all {len(numbers)} log-probabilities are {numbers[0]}: the server did not compute them")


def text_of_tokens(tokens: Sequence[str], text: str) -> None:
    """Tokens that are named by their text must form the text; parts of characters and special tokens are not."""
    plain = [token.replace("\u2581", " ") for token in tokens]
    if any("\ufffd" in token or token.startswith("bytes:") or SPECIAL.fullmatch(token) for token in plain):
        return
    if text.strip() not in "".join(plain) and "\ufffd" not in text:
        raise Failure(f"the tokens form {''.join(plain)!r}, the text is {text!r}")


def _exact(values: Iterable[float | None]) -> None:
    """Log-probabilities that are rounded, or have a floor, make unlike texts equal."""
    numbers = [value for value in values if value]
    least = min(numbers, default=0.0)
    if len(set(numbers)) >= SEVERAL and all(round(value, DIGITS) == value for value in numbers):
        raise Doubt(f"all {len(numbers)} log-probabilities have at most {DIGITS} decimal places: they are rounded")
    if least > LEAST and numbers.count(least) >= AT_FLOOR:
        raise Doubt(f"{numbers.count(least)} of {len(numbers)} log-probabilities are {least:.6g}, and none is below it")


def _sums(tops: Iterable[Mapping[str, float] | None]) -> None:
    for at, top in enumerate(tops):
        total = math.fsum(math.exp(value) for value in (top or {}).values())
        if total > 1 + ROUND_UP:
            raise Failure(f"top_logprobs[{at}]: the probabilities add up to {total:.4g}, expected at most 1")


def _enough(tops: Sequence[Mapping[str, float] | None]) -> None:
    least = min((len(top or {}) for top in tops), default=0)
    if least < ALTERNATIVES:
        raise Doubt(f"{ALTERNATIVES} alternatives were asked for, some token has {least}")


async def _greedy(context: CheckContext, content: Sequence[Mapping[str, Json]]) -> None:
    accepted = await tolerance(context)
    for entry in content:
        best = max((top["logprob"] for top in entry["top_logprobs"]), default=entry["logprob"])
        if not best - entry["logprob"] <= accepted.value:
            raise Doubt(f"temperature 0 chose {entry['token']!r}, {best - entry['logprob']:.2g} nats behind the best")


ALIGNED = "log-likelihoods are wrong: multiple choice and perplexity are meaningless"
SERVER = "a server with echo and logprobs for completions, or tasks that generate"


def _of_prompts(
    id: str, name: str, procedure: object, expected: str, severity: Severity = Severity.fatal
) -> CheckDefinition:
    return CheckDefinition(
        id,
        name,
        Capability.prompt_logprobs,
        procedure,  # type: ignore[arg-type]
        Family.logprobs,
        expected,
        ALIGNED,
        SERVER,
        severity,
        after="echo_aligned",
    )


CHECKS = (
    CheckDefinition(
        "generated_logprobs",
        "generated log-probabilities",
        Capability.logprobs,
        generated,
        Family.logprobs,
        expected="one log-probability per generated token, none constant, alternatives that add up to at most 1",
        effect="scores by log-probabilities of answers are wrong",
        remedy="another server; tasks that read the text",
        after="completion",
    ),
    CheckDefinition(
        "chat_logprobs",
        "chat log-probabilities",
        Capability.chat_logprobs,
        of_chat,
        Family.logprobs,
        expected="one object per token, whose texts form the answer, with alternatives that add up to at most 1",
        effect="scores by log-probabilities of answers are wrong",
        remedy="another server; tasks that read the text",
        after="chat",
    ),
    _of_prompts(
        "echo_sums", "echo sums", echo_sums, "probabilities of alternatives add up to at most 1, none constant"
    ),
    _of_prompts(
        "echo_agrees",
        "echo agrees",
        echo_agrees,
        "a token has the same log-probability generated and as part of a prompt",
    ),
    _of_prompts("echo_causal", "echo causal", echo_causal, "what follows changes no log-probability before it"),
    _of_prompts(
        "echo_unsampled", "echo unsampled", echo_unsampled, "no temperature or penalty changes scores of a prompt"
    ),
    _of_prompts(
        "echo_prompts", "echo of each prompt", echo_prompts, "each prompt comes back unchanged, with scores of its own"
    ),
    _of_prompts("bos_once", "BOS once", bos_once, "a begin-of-sequence token is not doubled, nor missing"),
    CheckDefinition(
        "generated_unsampled",
        "generated unsampled",
        Capability.logprobs,
        generated_unsampled,
        Family.logprobs,
        expected="no temperature changes the log-probabilities of generated tokens",
        effect="scores by log-probabilities of sampled answers are those of another distribution",
        remedy="temperature 0 for such tasks; vLLM: --logprobs-mode raw_logprobs",
        severity=Severity.warning,
        after="completion",
    ),
)
