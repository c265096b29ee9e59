"""Check of log-probabilities of named next tokens: with them, choices of one token need no echo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.core.responses import in_order
from launcher.core.types import Json, Request, Severity
from launcher.tasks.loglikelihood import NoLogprobs, loglikelihood
from launcher.tasks.next_token import (
    PLAIN,
    NextTokens,
    NotNextTokens,
    body_of,
    found_in,
    next_tokens,
    token_ids,
    tokenize_body,
)
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
from launcher.validate.rounding import tolerance
from launcher.validate.tolerance import nats

ID = "next_token"
SHOT = "Question: What is {0} plus {1}?\nA. {2}\nB. {3}\nAnswer:"
SHOTS = "\n\n".join(SHOT.format(n, n + 3, 2 * n + 3, n) + " A" for n in range(2, 5))
PROBES = (
    (f"{SHOTS}\n\n{SHOT.format(21, 4, 17, 25)}", (" A", " B", " C", " D")),
    (f"{SHOTS}\n\n{SHOT.format(30, 12, 42, 18)}", (" B", " A")),
    ("Is water wet? Answer yes or no.\nAnswer:", (" yes", " no", " maybe")),
    ("1, 2, 3, 4,", (" 5", " 6")),
    ("Four digits: 2+2=4. The next sum: 3+4=", ("7", "8", "5")),
)
"""Contexts with choices. Two share their examples, which a server may then read from its cache."""
TIMES = 2
"""So often each is asked; the second answer may come from the cache."""
OWN = "the launcher's own server reads its cache for an echo too"


@dataclass(frozen=True)
class _Probe:
    request: Request
    asked: NextTokens


async def next_token(context: CheckContext) -> Measurement:
    """Named next tokens must have the log-probabilities that an echo gives them, behind the cache and in a batch."""
    if context.endpoint.is_builtin:
        raise NotApplicable(OWN)
    probes = [probe for text, choices in PROBES if (probe := await _probe(context, text, choices)) is not None]
    if not probes:
        raise NotApplicable("no choice of the probes is one token of this model")
    await _check_support(context, probes[0])
    answers = await together([_named(context, probe) for _ in range(TIMES) for probe in probes])
    echoes = await together([_echoed(context, probe) for probe in probes])
    accepted = await tolerance(context)
    pairs = [pair for n, values in enumerate(answers) for pair in zip(values, echoes[n % len(probes)], strict=True)]
    differences = [abs(a - b) if math.isfinite(a - b) else math.inf for a, b in pairs]
    if (complaint := accepted.violation(differences)) is not None:
        raise Failure(f"log-probabilities of next tokens differ {complaint} from those of an echo")
    worst = max(differences)
    found = f"differ from an echo by at most {nats(worst)}" if worst else "equal those of an echo"
    detail = f"{len(pairs)} log-probabilities of next tokens {found}; the tolerance is {accepted}"
    return Measurement(detail, {"largest_difference": worst, "tokens": len(pairs)})


async def _probe(context: CheckContext, text: str, choices: Sequence[str]) -> _Probe | None:
    """Return what is asked of a context; None where a choice is not one token. Raises `NotApplicable`."""

    async def encode(prompt: str) -> Sequence[int]:
        answer = await context.ask.post("/tokenize", tokenize_body(context.endpoint.model, prompt))
        try:
            return token_ids(answer)
        except NotNextTokens:
            problem = f"the server has no /tokenize that says its tokens (HTTP {answer.status})"
            raise NotApplicable(problem) from None

    body = {"model": context.endpoint.model, "prompt": [text + choice for choice in choices], **PLAIN}
    request = Request("/v1/completions", body, counted=(len(text),) * len(choices))
    try:
        return _Probe(request, await next_tokens(request, encode))
    except NotNextTokens:
        return None


async def _check_support(context: CheckContext, probe: _Probe) -> None:
    """Raise `NotApplicable` for a server that refuses the request, or ignores which tokens it names."""
    answer = await context.attempt("/v1/completions", _named_body(context, probe))
    if not answer.ok:
        raise NotApplicable(f"the server refuses `logprob_token_ids` (HTTP {answer.status})")
    try:
        found_in(answer.body, probe.asked)
    except NoLogprobs as error:
        raise NotApplicable(
            f"the server gives no log-probabilities of named tokens (logprob_token_ids): {error}"
        ) from None


def _named_body(context: CheckContext, probe: _Probe) -> dict[str, Json]:
    return body_of(context.endpoint.model, probe.asked)


async def _named(context: CheckContext, probe: _Probe) -> Sequence[float]:
    try:
        return found_in(await context.post("/v1/completions", _named_body(context, probe)), probe.asked).values
    except NoLogprobs as error:
        raise Failure(f"with other requests in flight, {error}") from None


async def _echoed(context: CheckContext, probe: _Probe) -> Sequence[float]:
    body = await context.post("/v1/completions", probe.request.body)
    prompts, read = probe.request.body["prompt"], usage_of(body)["prompt_tokens"]
    known = len(prompts) * (len(probe.asked.context) + 1)
    if read != known:
        raise Failure(f"{len(prompts)} prompts have {known} tokens by /tokenize, and {read} by their echo")
    choices = in_order(body, len(prompts))
    try:
        return [loglikelihood(*parts) for parts in zip(choices, prompts, probe.request.counted, strict=True)]
    except NoLogprobs as error:
        raise Failure(f"the echo cannot be read: {error}") from None


CHECKS = (
    CheckDefinition(
        ID,
        "next token",
        Capability.prompt_logprobs,
        next_token,
        Family.logprobs,
        expected="the log-probabilities of named next tokens equal those of an echo",
        effect="none: choices of one token are asked by an echo, which takes several times as long",
        remedy="evaluate.choices=echo says that an echo is what you want",
        severity=Severity.warning,
        after="echo_aligned",
    ),
)
