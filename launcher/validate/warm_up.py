"""One request of each kind, under the deadline of a start: a server may compile for the first of a kind."""

from __future__ import annotations

import time
from contextlib import suppress

from launcher.core.errors import TransportError
from launcher.core.types import Json
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Family, Measurement
from launcher.validate.routes import CHAT, COMPLETIONS, Route

TEXT = "7+5="
KINDS: tuple[tuple[str, Capability, Route, dict[str, Json]], ...] = (
    ("completion", Capability.completions, COMPLETIONS, {}),
    ("sampled", Capability.sampling, COMPLETIONS, {"temperature": 1}),
    ("log-probabilities", Capability.logprobs, COMPLETIONS, {"logprobs": 1}),
    ("echo", Capability.prompt_logprobs, COMPLETIONS, {"logprobs": 1, "echo": True}),
    ("chat", Capability.chat, CHAT, {}),
    ("chat log-probabilities", Capability.chat_logprobs, CHAT, {"logprobs": True, "top_logprobs": 1}),
)


async def warm_up(context: CheckContext) -> Measurement:
    """Send one request of each kind that the tasks need. Errors are for the checks to find; here only time counts."""
    took: dict[str, float] = {}
    for kind, need, route, body in KINDS:
        if need in context.needed and route.need in context.needed:
            start = time.perf_counter()
            with suppress(TransportError):
                await context.attempt(route.path, route.body(TEXT, max_tokens=1) | body)
            took[kind] = round(time.perf_counter() - start, 3)
    slowest = max(took, key=lambda kind: took[kind], default="")
    detail = f"{len(took)} kinds of requests; the slowest, {slowest}, took {took[slowest]:g} s" if took else "nothing"
    return Measurement(detail, took)


CHECKS = (
    CheckDefinition(
        "warm_up",
        "warm-up",
        Capability.serving,
        warm_up,
        Family.serving,
        expected="the first request of each kind is answered within the deadline of the server's start",
        effect="the first samples fail",
        remedy="validate.warm_up_timeout_s; read the server's log",
        base=True,
        patient=True,
    ),
)
