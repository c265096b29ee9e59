"""A check is a coroutine that returns a detail, or raises `Failure` or `NotApplicable`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from launcher.core.console import one_line
from launcher.core.errors import TransportError
from launcher.core.responses import checked, error_message, json_type, quoted, token_count
from launcher.core.types import Check, Endpoint, Json, Outcome, Request, Response, Severity
from launcher.settings.validate import Validate
from launcher.validate.exchange import Asking, Exchange
from launcher.validate.tolerance import Tolerance

QUOTED = 1000
"""The most characters of a detail, which may quote the server."""
AFTER = "it needs what the check"
UNNEEDED = "no task of this run needs it"
"""How the detail of a check begins that was not made because an earlier one failed."""
UNNEEDED_S = 15.0
"""The longest that a check of an ability takes which no task needs."""


class Capability(Enum):
    """An ability of the server that a check needs. A server may lack one that no task needs."""

    serving = "serving"
    completions = "completions"
    chat = "chat"
    prompt_logprobs = "prompt_logprobs"
    """Log-probabilities of a prompt, by ``echo``."""
    logprobs = "logprobs"
    """Log-probabilities of generated tokens of completions."""
    chat_logprobs = "chat_logprobs"
    stop = "stop"
    """Stop strings of completions."""
    chat_stop = "chat_stop"
    sampling = "sampling"
    """A temperature above 0."""
    choices = "choices"
    """Several answers to one request: ``n``."""
    prompts = "prompts"
    """Several prompts in one request."""
    token_prompts = "token_prompts"
    """Prompts of token ids."""
    system = "system"
    """System messages."""
    parts = "parts"
    """Messages made of parts."""
    tools = "tools"
    """Functions that the model may call."""
    stream = "stream"


class Extent(Enum):
    """Which checks are made."""

    base = "base"
    """Those of whether the server has what is needed at all."""
    needed = "needed"
    """Those of what the tasks need, and whether the server has the other abilities."""
    every = "every"


class Family(Enum):
    """What a group of checks is about, in the words of the certificate."""

    serving = "serving"
    identity = "identity"
    schema = "schema"
    tokens = "token accounting"
    limits = "limits and stop strings"
    logprobs = "log-probabilities"
    repeatability = "repeatability"
    isolation = "isolation"
    stream = "streams"
    chat = "chat"
    tools = "tool calls"
    input = "inputs and context"
    errors = "errors and keys"


class Failure(Exception):
    """The endpoint fails a check; the message has the value and the expected one."""

    def __init__(self, message: str, exchange: Exchange | None = None) -> None:
        super().__init__(message)
        self.exchange = exchange

    @property
    def refused(self) -> bool:
        """Whether the server refused the request with a 4xx status."""
        return 400 <= self._status < 500

    @property
    def failed(self) -> bool:
        """Whether the server failed at the request, with a 5xx status."""
        return self._status >= 500

    @property
    def _status(self) -> int:
        return self.exchange.response.status if self.exchange and self.exchange.response else 0


class Doubt(Failure):
    """A failure that some sound servers share: it only warns."""


class NotApplicable(Exception):
    """The check cannot be made at this endpoint; the message has the reason."""


@dataclass(frozen=True)
class CheckContext:
    """The endpoint under test, with its client and settings."""

    endpoint: Endpoint
    ask: Asking
    settings: Validate
    vocabulary: Path | None = None
    """The path of the checkpoint or of its chosen tokenizer; None for a model without files."""
    tolerances: list[Tolerance] = field(default_factory=list)
    """The tolerance of this endpoint, once it is measured; else empty."""
    notes: set[str] = field(default_factory=set)
    needed: frozenset[Capability] = frozenset(Capability)
    """What the tasks need."""
    start_timeout_s: float = 600.0
    """How long the first request of each kind may take: a server may compile for it."""

    async def post(self, path: str, body: Mapping[str, Json]) -> Json:
        """Post under ``/v1`` and return the JSON body; any status but 2xx, and a body with a fault, is a failure.

        Notes about answers are added to ``notes``.
        """
        exchange, response = await self.ask(Request(path, {"model": self.endpoint.model, **body}))
        response = checked(Request(path, {"model": self.endpoint.model, **body}), response)
        if not response.ok:
            raise Failure(f"{path} answered HTTP {response.status}: {said(response.body)}", exchange)
        if response.fault is not None:
            raise Failure(f"{path}: {response.fault}", exchange)
        self.notes.update(response.notes or ())
        return response.body

    async def attempt(self, path: str, body: Mapping[str, Json]) -> Response:
        """Post under ``/v1`` and return the answer as it is, also an error."""
        _, response = await self.ask(Request(path, {"model": self.endpoint.model, **body}))
        return response

    async def complete(self, **body: Json) -> Json:
        """Ask for a greedy completion of the settings' prompt unless ``body`` says otherwise."""
        return await self.post(
            "/v1/completions", {"prompt": self.settings.prompt, "max_tokens": 8, "temperature": 0, **body}
        )

    async def talk(self, content: Json = "7+5=", **body: Json) -> Json:
        """Ask a greedy chat with one user message unless ``body`` says otherwise."""
        messages = [{"role": "user", "content": content}]
        return await self.post(
            "/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0, **body}
        )


def said(body: Json) -> str:
    """Return the message of an error answer; the body where it has none."""
    return error_message(body) or quoted(body)


def usage_of(body: Json) -> dict[str, int]:
    """Return the token counts of an answer. Raises `Failure` for one that is missing or invalid."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        found = f"is of type {json_type(usage)}" if "usage" in body else "is missing"
        raise Failure(f"'usage' {found}, expected object")
    counts = {name: token_count(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    for name, count in counts.items():
        if count is None:
            found = f"is {quoted(usage[name])}" if name in usage else "is missing"
            raise Failure(f"'usage.{name}' {found}, expected a number of tokens")
    return {name: count for name, count in counts.items() if count is not None}


def counts_of(body: Json) -> dict[str, int]:
    """Return the token counts of an answer for a check of something else. Raises `NotApplicable` without any."""
    if body.get("usage") is None:
        raise NotApplicable("the server counts no tokens (usage)")
    return usage_of(body)


def text_of(body: Json, index: int = 0) -> str:
    """Return the text of a choice of a completion or of a chat."""
    choice = body["choices"][index]
    found = choice["message"]["content"] if "message" in choice else choice["text"]
    return str(found or "")


def expect(what: str, seen: Json, expected: Json) -> None:
    """Raise `Failure` unless a value is the expected one."""
    if seen != expected:
        raise Failure(f"{what} is {quoted(seen)}, expected {quoted(expected)}")


@dataclass(frozen=True)
class Measurement:
    """A detail, and its figures for programs."""

    detail: str
    numbers: Mapping[str, Json]


Procedure = Callable[[CheckContext], Awaitable[str | Measurement]]


class _Found(NamedTuple):
    ok: bool | None
    found: str | Measurement
    exchange: Exchange | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class CheckDefinition:
    """A check: an id that never changes, the name that ``validate.skip`` takes, and what the server needs for it.

    ``expected`` is what passes. ``effect`` is what a failure does to a score, and ``remedy`` what to set. ``after`` is
    the id of the check whose failure makes this one pointless.
    """

    id: str
    name: str
    need: Capability
    procedure: Procedure
    family: Family
    expected: str
    effect: str
    remedy: str
    severity: Severity = Severity.fatal
    after: str | None = None
    base: bool = False
    """Whether the check is made even if no task needs it: it finds out whether the server has the ability at all."""
    route: Capability | None = None
    """The route that it asks, if a task must need that too for a failure to count."""
    patient: bool = False
    """Whether the check has the time of a start rather than ``validate.timeout_s``."""

    async def run(
        self,
        context: CheckContext,
        needed: frozenset[Capability],
        before: Mapping[str, Check],
        extent: Extent = Extent.needed,
    ) -> Check:
        """Run the check. The failure of an ability that no task needs, or of what is not fatal, is a warning.

        ``before`` are the checks that were made, by their ids.
        """
        if self.name in context.settings.skip or self.id in context.settings.skip:
            return replace(self._blank("left out by validate.skip"), left_out=True)
        if extent is not Extent.every and not self.base and not self.is_needed(needed):
            return replace(self._blank(f"{UNNEEDED}; mode=validate checks it too"), unneeded=True)
        base = before.get(self.after or "")
        if base is not None and (base.outcome in (Outcome.failed, Outcome.warning) or base.is_impossible):
            return self._blank(f"{AFTER} '{base.name}' found missing")
        asking, start = context.ask.fresh(patient=self.patient), time.perf_counter()
        found = await self._outcome(
            replace(context, ask=asking, needed=needed, notes=set()), self._patience_s(context, needed)
        )
        return self._made(found, needed, asking, round(time.perf_counter() - start, 4))

    def is_needed(self, needed: frozenset[Capability]) -> bool:
        """Tell whether the tasks need what the check tests."""
        return self.need in needed and (self.route is None or self.route in needed)

    def _patience_s(self, context: CheckContext, needed: frozenset[Capability]) -> float:
        if self.patient:
            return context.start_timeout_s
        limit = context.settings.timeout_s
        return limit if self.is_needed(needed) else min(limit, UNNEEDED_S)

    def _made(self, outcome: _Found, needed: frozenset[Capability], asking: Asking, seconds: float) -> Check:
        ok, found = outcome.ok, outcome.found
        detail, numbers = (found.detail, found.numbers) if isinstance(found, Measurement) else (found, {})
        is_needed = self.is_needed(needed)
        stops = is_needed and self.severity is Severity.fatal and not outcome.doubtful
        warned = ok is False and not stops
        if warned:
            ok, detail = None, detail if is_needed else f"not needed by the chosen tasks: {detail}"
        shown = outcome.exchange or (asking.exchanges[-1] if asking.exchanges else None)
        return replace(
            self._blank(one_line(detail, QUOTED)),
            ok=ok,
            seconds=seconds,
            numbers=numbers,
            warned=warned and self.severity is not Severity.info,
            requests=len(asking.exchanges),
            sent=shown.sent if shown else "",
            received=shown.received if shown else "",
        )

    def _blank(self, detail: str) -> Check:
        return Check(
            self.name,
            None,
            detail,
            id=self.id,
            family=self.family.value,
            severity=self.severity,
            expected=self.expected,
            effect=self.effect,
            remedy=self.remedy,
        )

    async def _outcome(self, context: CheckContext, patience_s: float) -> _Found:
        try:
            async with asyncio.timeout(patience_s):
                return _Found(True, await self.procedure(context))
        except TimeoutError:
            return _Found(False, f"no answer within {patience_s:g} s")
        except NotApplicable as reason:
            return _Found(None, str(reason))
        except Failure as failure:
            return _Found(False, str(failure), failure.exchange, isinstance(failure, Doubt))
        except (TransportError, OSError) as failure:
            return _Found(False, str(failure) or type(failure).__name__)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as malformed:
            return _Found(False, f"an answer does not have the expected form: {_explained(malformed)}")


def _explained(error: Exception) -> str:
    """Return what an answer lacks, without Python's words for it."""
    match error:
        case KeyError():
            return f"{error.args[0]!r} is missing"
        case IndexError():
            return "a list is too short"
        case TypeError() | AttributeError():
            return "a value has the wrong type"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)
