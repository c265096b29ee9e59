"""The two routes that generate: many checks ask the same of completions and of chats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from launcher.core.types import Json, Response, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Failure,
    Family,
    Measurement,
    NotApplicable,
    text_of,
)

TRIES = 3
"""How often a comparison of two greedy answers is made before a difference counts: they may diverge at a near-tie."""
OPENINGS = ("Once upon a time there was", "The capital of France is", "One, two, three, four,")
"""Texts that a model goes on from."""


@dataclass(frozen=True)
class Route:
    """A route of the API; ``stop`` is the ability to stop at a string, ``base`` the check that it answers at all."""

    label: str
    path: str
    need: Capability
    stop: Capability
    base: str

    def body(self, text: str, **more: Json) -> dict[str, Json]:
        """Return the body of a greedy request with this text as prompt, or as the user's message."""
        chat = self.need is Capability.chat
        asked = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        return {**asked, "max_tokens": 8, "temperature": 0, **more}

    async def ask(self, context: CheckContext, text: str, **more: Json) -> Json:
        return await context.post(self.path, self.body(text, **more))

    async def attempt(self, context: CheckContext, text: str, **more: Json) -> Response:
        return await context.attempt(self.path, self.body(text, **more))

    async def opening(self, context: CheckContext, least: int, **more: Json) -> tuple[str, Json]:
        """Return a text that the model answers with at least ``least`` characters, and the greedy answer."""
        for text in (context.settings.prompt, *OPENINGS):
            body = await self.ask(context, text, **{"max_tokens": 12, **more})
            if len(text_of(body).strip("\ufffd")) >= least:
                return text, body
        raise NotApplicable(f"the model answers no text with {least} characters")


COMPLETIONS = Route("", "/v1/completions", Capability.completions, Capability.stop, "completion")
CHAT = Route("chat ", "/v1/chat/completions", Capability.chat, Capability.chat_stop, "chat")
ROUTES = (COMPLETIONS, CHAT)

Procedure = Callable[[CheckContext, Route], Awaitable[str | Measurement]]


def on_both(
    id: str,
    name: str,
    procedure: Procedure,
    family: Family,
    expected: str,
    effect: str,
    remedy: str,
    severity: Severity = Severity.fatal,
    need: Callable[[Route], Capability] = lambda route: route.need,
) -> Iterator[CheckDefinition]:
    """Yield a check of completions and the same one of chats; the latter's id and name begin with ``chat``."""
    for route in ROUTES:
        prefix = route.label.strip()
        yield CheckDefinition(
            f"{prefix}_{id}" if prefix else id,
            f"{route.label}{name}",
            need(route),
            _bound(procedure, route),
            family,
            expected,
            effect,
            remedy,
            severity,
            after=route.base,
            route=route.need,
        )


def _bound(procedure: Procedure, route: Route) -> Callable[[CheckContext], Awaitable[str | Measurement]]:
    async def bound(context: CheckContext) -> str | Measurement:
        return await procedure(context, route)

    return bound


async def persistent(attempt: Callable[[], Awaitable[str]], tries: int = TRIES) -> str:
    """Return what an attempt finds; raise its `Failure` only if each of several attempts fails."""
    for _ in range(tries - 1):
        try:
            return await attempt()
        except Failure:
            continue
    return await attempt()
