"""Run the checks in order, and keep what they found in ``certificate.json``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from launcher.core.client import Client
from launcher.core.files import replace_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Endpoint, Request
from launcher.settings.validate import Validate
from launcher.validate import answers, logprobs, rounding, serving, tokens
from launcher.validate.check import Capability, CheckContext

CHECKS = (*serving.CHECKS, *rounding.CHECKS, *answers.CHECKS, *logprobs.CHECKS, *tokens.CHECKS)
NAMES = tuple(check.name for check in CHECKS)


async def validate(
    endpoint: Endpoint, settings: Validate, needed: frozenset[Capability], vocabulary: Path | None = None
) -> tuple[Check, ...]:
    """Return one `Check` for each of `CHECKS`. If the server cannot be reached, the rest is not asked.

    ``vocabulary`` is the checkpoint or tokenizer whose files the server's tokens are compared with.
    """
    found: list[Check] = []
    async with Client(endpoint, timeout_s=settings.timeout_s) as client:
        subject = CheckContext(endpoint, client, settings, vocabulary)
        for check in CHECKS:
            found.append(await check.run(subject, needed))
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


def write(checks: tuple[Check, ...], endpoint: Endpoint, folder: Path) -> None:
    """Write ``certificate.json``: the endpoint, the verdict, the tolerance that held, and every check."""
    certificate = {
        "schema_version": 1,
        "valid": not failed(checks),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "endpoint": {
            "url": endpoint.url,
            "model": endpoint.model,
            "backend": endpoint.backend,
            "engine": endpoint.engine,
        },
        "tolerance": next((dict(check.numbers) for check in checks if check.name == rounding.NAME), {}) or None,
        "checks": [asdict(check) for check in checks],
    }
    replace_json(RunFolder(folder).certificate, certificate, indent=2)


def failed(checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.ok is False]
