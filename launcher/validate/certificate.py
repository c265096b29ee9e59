"""Run the checks in order, and keep what they found in ``certificate.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from launcher.core.client import Client
from launcher.core.files import replace_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Endpoint, Json, Request
from launcher.settings.validate import Validate
from launcher.validate import answers, logprobs, rounding, serving, tokens
from launcher.validate.check import Capability, CheckContext

CHECKS = (*serving.CHECKS, *rounding.CHECKS, *answers.CHECKS, *logprobs.CHECKS, *tokens.CHECKS)
NAMES = tuple(check.name for check in CHECKS)


async def validate(
    endpoint: Endpoint,
    settings: Validate,
    needed: frozenset[Capability],
    vocabulary: Path | None = None,
    *,
    only_needed: bool = False,
) -> tuple[Check, ...]:
    """Return one `Check` for each of `CHECKS`. If the server cannot be reached, the rest is not asked.

    ``vocabulary`` is the checkpoint or tokenizer whose files the server's tokens are compared with. With
    ``only_needed`` the checks of other abilities are not made.
    """
    found: list[Check] = []
    async with Client(endpoint, timeout_s=settings.timeout_s) as client:
        context = CheckContext(endpoint, client, settings, vocabulary)
        for check in (one for one in CHECKS if one.need in needed or not only_needed):
            found.append(await check.run(context, needed))
            if check.need is Capability.serving and found[-1].ok is False:
                break
    return tuple(found)


def needs(requests: Iterable[Request]) -> frozenset[Capability]:
    """Return what the server must be able to do for these requests; without any, everything."""
    found = {Capability.serving}
    for request in requests:
        found.add(Capability.chat if request.path.startswith("/v1/chat") else Capability.completions)
        if request.body.get("echo"):
            found.add(Capability.prompt_logprobs)
    return frozenset(found) if len(found) > 1 else frozenset(Capability)


class CertifiedEndpoint(TypedDict):
    url: str
    model: str
    backend: str
    engine: str


class CheckRecord(TypedDict):
    """A `Check` as JSON."""

    id: str
    name: str
    ok: bool | None
    detail: str
    seconds: float
    numbers: Mapping[str, Json]


class Certificate(TypedDict):
    """The content of ``certificate.json``. ``tolerance`` has the fields of `Tolerance`, null where none was needed."""

    schema_version: int
    valid: bool
    checked_at: str
    endpoint: CertifiedEndpoint
    tolerance: Mapping[str, Json] | None
    checks: list[CheckRecord]


def certificate_of(checks: tuple[Check, ...], endpoint: Endpoint) -> Certificate:
    """Return the certificate of an endpoint: the verdict, the tolerance that was used, and each check."""
    return {
        "schema_version": 1,
        "valid": not failed(checks),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "endpoint": {
            "url": endpoint.url,
            "model": endpoint.model,
            "backend": endpoint.backend,
            "engine": endpoint.engine,
        },
        "tolerance": next((check.numbers for check in checks if check.id == rounding.ID), {}) or None,
        "checks": [_record(check) for check in checks],
    }


def _record(check: Check) -> CheckRecord:
    return {
        "id": check.id,
        "name": check.name,
        "ok": check.ok,
        "detail": check.detail,
        "seconds": check.seconds,
        "numbers": check.numbers,
    }


def write(checks: tuple[Check, ...], endpoint: Endpoint, folder: Path) -> None:
    """Write ``certificate.json``."""
    certificate = certificate_of(checks, endpoint)
    replace_json(RunFolder(folder).certificate, certificate, indent=2)


def failed(checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.ok is False]
