"""The step that validates: the checks of the endpoint, its certificate, and opening it to all clients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.core.console import to_stderr
from launcher.core.errors import ValidationFailed
from launcher.core.event_loop import run_async
from launcher.core.types import Check, Request, resolve
from launcher.pipeline.config import Mode, Run
from launcher.pipeline.record import RunRecord
from launcher.pipeline.servers import RunningServer
from launcher.tasks.base import naming

if TYPE_CHECKING:
    from launcher.validate.check import Capability

MAX_CHECK_S = 20.0
"""How long to check a task's samples before the model is loaded; a later fault ends the evaluation."""


def required_capabilities(run: Run) -> frozenset[Capability]:
    """Return what the server must be able to do for the first sample of each task, before anything is loaded.

    All samples that the run will send are made and checked first, for at most `MAX_CHECK_S` per task.

    Raises `TaskError` for items that cannot be read, and for samples that cannot be sent.
    """
    from launcher.evaluate.sample_source import overridden
    from launcher.validate import certificate

    first = [request for name in run.tasks for request in previewed(run, name).first]
    return certificate.needs([overridden(request, run.evaluate, 0) for request in first], run.adapters)


@dataclass(frozen=True)
class Previewed:
    """The requests of a task's first sample, and how many samples and requests were seen before any is sent."""

    first: Sequence[Request]
    samples: int
    requests: int
    is_complete: bool


def previewed(run: Run, name: str) -> Previewed:
    """Make and check the samples of a task, without their repeats, for at most `MAX_CHECK_S`. Raises `TaskError`."""
    from launcher.evaluate.faults import check_sample

    first: Sequence[Request] = ()
    deadline, requests, number = time.monotonic() + MAX_CHECK_S, 0, 0
    with naming(name):
        for sample in islice(run.tasks[name].preview(name, run.model.name), run.evaluate.limit):
            check_sample(sample, name)
            first, number, requests = first or sample.requests, number + 1, requests + len(sample.requests)
            if time.monotonic() > deadline:
                return Previewed(first, number, requests, is_complete=False)
    return Previewed(first, number, requests, is_complete=True)


def validate(run: Run, server: RunningServer, needed: frozenset[Capability], record: RunRecord, folder: Path) -> None:
    """Check the endpoint, write the certificate, and open a server that has a valid one to all clients.

    A server that an earlier run shares is checked again only if this run's settings or needs differ from that run's.
    Raises `ValidationFailed` with what failed.
    """
    from launcher.validate import certificate

    with record.step("validate"):
        record.checks = _checked(run, server, needed, folder, _vocabulary(run, record))
    to_stderr(f"validate: {certificate.summary(record.checks)}")
    if certificate.failed(record.checks):
        raise ValidationFailed(f"the endpoint failed validation: {certificate.reason(record.checks)}")
    server.admit()


def _vocabulary(run: Run, record: RunRecord) -> Path | None:
    """Return where the files of the served tokenizer are; None for a model without files, or where none is read."""
    if record.run["checkpoint"] is None or not run.engine.reads_files:
        return None
    return resolve(run.model.tokenizer or run.model.path)


def _checked(
    run: Run, server: RunningServer, needed: frozenset[Capability], folder: Path, vocabulary: Path | None
) -> tuple[Check, ...]:
    from launcher.validate import certificate
    from launcher.validate.check import Extent

    scope = (asdict(run.validate), needed)
    checks = server.copy_certificate(scope, folder)
    if checks is None:
        checks = run_async(
            certificate.validate(
                server.endpoint,
                run.validate,
                needed,
                vocabulary,
                extent=Extent.every if run.mode is Mode.validate else Extent.needed,
                start_timeout_s=getattr(run.backend, "start_timeout_s", certificate.START_S),
            )
        )
        certificate.write(checks, server.endpoint, folder, needed)
        server.certificates.append((scope, folder, checks))
    return checks
