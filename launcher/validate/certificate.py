"""Run the checks in order, and keep what they found in ``certificate.json`` and, for CI systems, in JUnit's format."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from launcher.core import files
from launcher.core.client import Client
from launcher.core.redaction import redact
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Endpoint, Outcome, Request
from launcher.settings.validate import Validate
from launcher.validate import (
    answers,
    calibration,
    chats,
    identity,
    inputs,
    isolation,
    junit,
    limits,
    logprobs,
    next_token,
    refusals,
    rounding,
    sampling,
    scores,
    serving,
    shapes,
    streams,
    tokens,
    tool_calls,
    warm_up,
)
from launcher.validate.check import Capability, CheckContext, Extent
from launcher.validate.exchange import Asking
from launcher.validate.running import Checking
from launcher.validate.schema import VERSION, Certificate, CheckRecord

CHECKS = (
    *(*serving.CHECKS, *identity.CHECKS, *warm_up.CHECKS, *rounding.CHECKS),
    *(*answers.CHECKS, *logprobs.CHECKS, *tokens.CHECKS),
    *(*identity.LATER, *shapes.CHECKS, *limits.CHECKS, *scores.CHECKS, *calibration.CHECKS, *next_token.CHECKS),
    *sampling.CHECKS,
    *(*isolation.CHECKS, *streams.CHECKS, *chats.CHECKS, *tool_calls.CHECKS, *inputs.CHECKS, *refusals.CHECKS),
)
NAMES = tuple(check.name for check in CHECKS)
NAMED = 8
"""At most so many failed checks are named after the first; the table has all."""
START_S = 600.0
"""How long the first requests may take at a server that the launcher did not start."""
IDS = frozenset(check.id for check in CHECKS)


async def validate(
    endpoint: Endpoint,
    settings: Validate,
    needed: frozenset[Capability],
    vocabulary: Path | None = None,
    *,
    extent: Extent = Extent.needed,
    start_timeout_s: float = START_S,
) -> tuple[Check, ...]:
    """Return one `Check` for each of `CHECKS`. If the server cannot be reached, the rest is not asked.

    ``vocabulary`` is the checkpoint or tokenizer whose files the server's tokens are compared with. With the extent
    ``base`` only the base checks of needed abilities are returned. The first requests have ``start_timeout_s``.
    """
    async with Client(endpoint, timeout_s=settings.timeout_s) as client:
        asking, limit_s = Asking(endpoint, client), settings.warm_up_timeout_s or start_timeout_s
        context = CheckContext(endpoint, asking, settings, vocabulary, needed=needed, start_timeout_s=limit_s)
        chosen = [one for one in CHECKS if extent is not Extent.base or (one.base and one.is_needed(needed))]
        found = await Checking(context, extent).run(chosen)
    return tuple(map(_redacted, found))


def _redacted(check: Check) -> Check:
    return replace(check, detail=redact(check.detail), sent=redact(check.sent), received=redact(check.received))


def needs(requests: Iterable[Request], adapters: Collection[str] = ()) -> frozenset[Capability]:
    """Return what the server must be able to do for these requests; without any, everything.

    ``adapters`` are the names of those that change what is sent.
    """
    found = {Capability.serving}
    for request in requests:
        found |= _chat(request) if request.path.startswith("/v1/chat") else _completions(request)
        if request.body.get("temperature"):
            found.add(Capability.sampling)
        if (request.body.get("n") or 1) > 1:
            found.add(Capability.choices)
        if request.body.get("stream"):
            found.add(Capability.stream)
    if len(found) == 1:
        return frozenset(Capability)
    if "stream_coalesce" in adapters:
        found.add(Capability.stream)
    if "system_message" in adapters and Capability.chat in found:
        found.add(Capability.system)
    return frozenset(found - {Capability.system} if "consolidate_system" in adapters else found)


def _completions(request: Request) -> set[Capability]:
    prompt, found = request.body.get("prompt"), {Capability.completions}
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if request.body.get("stop"):
        found.add(Capability.stop)
    if request.body.get("echo"):
        found.add(Capability.prompt_logprobs)
    elif request.body.get("logprobs") is not None:
        found.add(Capability.logprobs)
    if isinstance(first, str | list) and len(prompt or ()) > 1:
        found.add(Capability.prompts)
    if isinstance(first, int | list):
        found.add(Capability.token_prompts)
    return found


def _chat(request: Request) -> set[Capability]:
    messages, found = request.body.get("messages") or [], {Capability.chat}
    if request.body.get("stop"):
        found.add(Capability.chat_stop)
    if request.body.get("logprobs"):
        found.add(Capability.chat_logprobs)
    if request.body.get("tools"):
        found.add(Capability.tools)
    if any(message.get("role") == "system" for message in messages):
        found.add(Capability.system)
    if any(isinstance(message.get("content"), list) for message in messages):
        found.add(Capability.parts)
    return found


def certificate_of(
    checks: tuple[Check, ...], endpoint: Endpoint, needed: frozenset[Capability] = frozenset(Capability)
) -> Certificate:
    """Return the certificate of an endpoint: the verdict, the tolerance that was used, and each check."""
    return {
        "schema_version": VERSION,
        "valid": not failed(checks),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "endpoint": {
            "url": endpoint.url,
            "model": endpoint.model,
            "backend": endpoint.backend,
            "engine": endpoint.engine,
        },
        "needed": [ability.value for ability in Capability if ability in needed],
        "counts": {each.value: sum(check.outcome is each for check in checks) for each in Outcome},
        "requests": sum(check.requests for check in checks),
        "seconds": round(sum(check.seconds for check in checks), 3),
        "tolerance": next((check.numbers for check in checks if check.id == rounding.ID), {}) or None,
        "checks": [_record(check) for check in checks],
    }


def _record(check: Check) -> CheckRecord:
    """Return a check as JSON; what a failure means is only said of one."""
    wrong = check.outcome in (Outcome.failed, Outcome.warning)
    return {
        "id": check.id,
        "name": check.name,
        "family": check.family,
        "severity": check.severity.value,
        "outcome": check.outcome.value,
        "ok": check.ok,
        "detail": check.detail,
        "seconds": check.seconds,
        "requests": check.requests,
        "sent": check.sent,
        "received": check.received,
        "expected": check.expected,
        "effect": check.effect if wrong else "",
        "remedy": check.remedy if wrong else "",
        "numbers": check.numbers,
    }


def write(
    checks: tuple[Check, ...], endpoint: Endpoint, folder: Path, needed: frozenset[Capability] = frozenset(Capability)
) -> None:
    """Write ``certificate.json``, and ``certificate.xml`` in JUnit's format."""
    place = RunFolder(folder)
    files.replace_json(place.certificate, certificate_of(checks, endpoint, needed), indent=2)
    files.replace(place.certificate_junit, junit.document(checks, endpoint))


def failed(checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.ok is False]


def reason(checks: tuple[Check, ...]) -> str:
    """Say of the first failed check what was found, what it does to a score and the remedy; name the others."""
    first, *others = failed(checks)
    names = ", ".join(check.name for check in others[:NAMED])
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    rest = f"; failed too: {names}{more}" if others else ""
    return f"{first.name}: {first.detail}{_advice(first)}{rest}"


def _advice(check: Check) -> str:
    return f" ({check.effect}; remedy: {check.remedy})" if check.effect else ""


def summary(checks: tuple[Check, ...]) -> str:
    """Count the checks and their requests on one line."""
    counts = {outcome.value: sum(check.outcome is outcome for check in checks) for outcome in Outcome}
    unneeded = sum(check.unneeded for check in checks)
    counts[Outcome.not_applicable.value] -= unneeded
    counts["not needed by these tasks"] = unneeded
    parts = [f"{count} {what}" for what, count in counts.items() if count or what == Outcome.failed.value]
    return f"{len(checks)} checks ({sum(check.requests for check in checks)} requests): {', '.join(parts)}"
