"""A check is a coroutine that returns a detail, or raises `Failure` or `NotApplicable`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from launcher.core.client import Client
from launcher.core.console import one_line
from launcher.core.errors import TransportError
from launcher.core.responses import checked, json_type, quoted, token_count
from launcher.core.types import Check, Endpoint, Json, Request
from launcher.settings.validate import Validate
from launcher.validate.tolerance import Tolerance

QUOTED = 1000
"""The most characters of a detail, which may quote the server."""


class Capability(Enum):
    """An ability of the server that a check needs. A server may lack one that no task needs."""

    serving = "serving"
    completions = "completions"
    chat = "chat"
    prompt_logprobs = "prompt_logprobs"


class Failure(Exception):
    """The endpoint fails a check; the message has the value and the expected one."""


class NotApplicable(Exception):
    """The check cannot be made at this endpoint; the message has the reason."""


@dataclass(frozen=True)
class CheckContext:
    """The endpoint under test, with its client and settings."""

    endpoint: Endpoint
    client: Client
    settings: Validate
    vocabulary: Path | None = None
    """The path of the checkpoint or of its chosen tokenizer; None for a model without files."""
    tolerances: list[Tolerance] = field(default_factory=list)
    """The tolerance of this endpoint, once it is measured; else empty."""
    notes: set[str] = field(default_factory=set)

    async def post(self, path: str, body: Mapping[str, Json]) -> Json:
        """Post under ``/v1`` and return the JSON body; any status but 2xx, and a body with a fault, is a failure.

        Notes about answers are added to ``notes``.
        """
        request = Request(path, {"model": self.endpoint.model, **body})
        response = checked(request, await self.client(request))
        if not response.ok:
            raise Failure(f"{path} answered HTTP {response.status}: {quoted(response.body)}")
        if response.fault is not None:
            raise Failure(f"{path}: {response.fault}")
        self.notes.update(response.notes or ())
        return response.body

    async def complete(self, **body: Json) -> Json:
        """Ask for a greedy completion of the settings' prompt unless ``body`` says otherwise."""
        return await self.post(
            "/v1/completions", {"prompt": self.settings.prompt, "max_tokens": 8, "temperature": 0, **body}
        )


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


@dataclass(frozen=True)
class Measurement:
    """A detail, and its figures for programs."""

    detail: str
    numbers: Mapping[str, Json]


Procedure = Callable[[CheckContext], Awaitable[str | Measurement]]


@dataclass(frozen=True)
class CheckDefinition:
    """A check: an id that never changes, the name that ``validate.skip`` takes, and what the server needs for it."""

    id: str
    name: str
    need: Capability
    procedure: Procedure

    async def run(self, context: CheckContext, needed: frozenset[Capability]) -> Check:
        """Run the check. The failure of an ability that no task needs is reported as not applicable."""
        if self.name in context.settings.skip:
            return Check(self.name, None, "left out by validate.skip", id=self.id)
        start = time.perf_counter()
        ok, found = await self._outcome(context)
        detail, numbers = (found.detail, found.numbers) if isinstance(found, Measurement) else (found, {})
        if ok is False and self.need not in needed:
            ok, detail = None, f"not needed by the chosen tasks: {detail}"
        detail = one_line(detail, QUOTED)
        return Check(self.name, ok, detail, round(time.perf_counter() - start, 4), numbers, self.id)

    async def _outcome(self, context: CheckContext) -> tuple[bool | None, str | Measurement]:
        try:
            async with asyncio.timeout(context.settings.timeout_s):
                return True, await self.procedure(context)
        except TimeoutError:
            return False, f"no answer within {context.settings.timeout_s:g} s"
        except NotApplicable as reason:
            return None, str(reason)
        except (Failure, TransportError, OSError) as failure:
            return False, str(failure) or type(failure).__name__
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as malformed:
            return False, f"an answer does not have the expected form: {_explained(malformed)}"


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
