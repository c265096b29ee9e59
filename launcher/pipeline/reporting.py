"""The end of a run: its exit code, the status and the reason in the report, and the report itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from launcher.adapters.after import Hooked
from launcher.core import reading
from launcher.core.console import to_stderr
from launcher.core.errors import (
    CoverageTooLow,
    ResumeError,
    StorageError,
    TakenOver,
    UserError,
    ValidationFailed,
)
from launcher.core.lease import Lease
from launcher.core.redaction import redact
from launcher.core.types import INTERRUPTED, Report
from launcher.pipeline.config import ComposedRun
from launcher.pipeline.exporting import export
from launcher.pipeline.hooks import call
from launcher.pipeline.record import RunRecord


@dataclass
class ExitStatus:
    """How a run ended: exit code, the report's status, the reason unless it is ok, whether a report is written.

    ``lease`` is that of the run folder, as soon as the run holds it.
    """

    code: int = 0
    status: str = "ok"
    reason: str | None = None
    publish: bool = True
    lease: Lease | None = None

    def end(self, code: int, status: str, reason: BaseException | str, *, prints: bool = True) -> None:
        """Set how the run ended, and print the reason."""
        self.code, self.status, self.reason = code, status, redact(str(reason))
        if prints:
            to_stderr(f"launcher: {self.reason}")


@contextmanager
def reporting(
    record: RunRecord,
    folder: Path,
    hooks: Sequence[Hooked] = (),
    exports: Sequence[str] = (),
    race: ComposedRun | None = None,
) -> Iterator[ExitStatus]:
    """Turn the way the run ends into an exit code and a report; a crash is reported too, and raised again.

    The report starts with the results that earlier sessions of a resumed run left. Once it is written, the ``hooks``
    are called, and it is written in the formats of ``exports``. The race of a run says itself that it was
    interrupted.
    """
    from launcher.pipeline.outcomes import read_to_continue

    exit_status, how = ExitStatus(), f"resume={folder}" if race is None else race.continued_by
    record.take(read_to_continue(folder, record.declared))
    try:
        yield exit_status
        if exit_status.lease is not None:
            exit_status.lease.check()
    except ValidationFailed as error:
        exit_status.end(error.exit_code, "invalid", error)
    except CoverageTooLow as error:
        exit_status.end(error.exit_code, "incomplete", error)
    except ResumeError as error:  # the folder holds another run's results: nothing in it is touched
        exit_status.end(error.exit_code, "error", error)
        exit_status.publish = False
    except TakenOver:
        exit_status.publish = False
        raise
    except StorageError as error:
        exit_status.end(error.exit_code, "error", f"{error}; continue with {how}")
    except UserError as error:
        exit_status.end(error.exit_code, "error", error)
    except KeyboardInterrupt:
        exit_status.end(INTERRUPTED, "interrupted", f"interrupted; continue with {how}", prints=race is None)
    except BaseException as error:
        exit_status.end(1, "error", f"{type(error).__name__}: {error}")
        raise
    finally:
        if exit_status.publish and (exit_status.lease is None or exit_status.lease.holds):
            _finish(record, exit_status, folder, hooks, exports)


def _finish(
    record: RunRecord, exit_status: ExitStatus, folder: Path, hooks: Sequence[Hooked], exports: Sequence[str]
) -> None:
    """Publish the report, call the hooks, and export; an interrupted report ends that."""
    try:
        _publish_or_end(record, exit_status, folder)
    except KeyboardInterrupt:
        told = f"interrupted while the report was being written; resume={folder} writes it, and asks no sample again"
        if hooks:
            told += "; then the adapters do what they do after a run"
        exit_status.end(exit_status.code or INTERRUPTED, "interrupted", told)
        return
    except BaseException:
        _call_hooks(hooks, record, exit_status, folder)
        raise
    _call_hooks(hooks, record, exit_status, folder)
    _export(exports, exit_status, folder)


def _call_hooks(hooks: Sequence[Hooked], record: RunRecord, exit_status: ExitStatus, folder: Path) -> None:
    """Call the hooks, and write the report again if one failed; an interruption is not the run's, which has ended."""
    try:
        if call(hooks, record.report(exit_status.status, exit_status.reason), folder):
            record.take_failures(folder)
            write(record, exit_status, folder)
    except UserError as error:
        to_stderr(f"launcher: {error}")
    except KeyboardInterrupt:
        exit_status.code = exit_status.code or INTERRUPTED
        to_stderr("launcher: interrupted after the report; not all adapters have done what they do after a run")


def _export(names: Sequence[str], exit_status: ExitStatus, folder: Path) -> None:
    """Write the exports; an interruption is not the run's, which has ended."""
    try:
        export(names, folder)
    except KeyboardInterrupt:
        exit_status.code = exit_status.code or INTERRUPTED
        to_stderr("launcher: interrupted after the report; not all exports are written")


def _publish_or_end(record: RunRecord, exit_status: ExitStatus, folder: Path) -> None:
    """Publish the report; the run ends with what prevents that, a full disk for instance, unless it ended so before."""
    try:
        publish(record, exit_status, folder)
    except UserError as error:
        if exit_status.status != "error":
            exit_status.end(error.exit_code, "error", f"{error}; continue with resume={folder}")


def publish(record: RunRecord, exit_status: ExitStatus, folder: Path) -> None:
    """Write the report, and print the summary, unless one line on standard error said it all."""
    from launcher.report import terminal

    report = write(record, exit_status, folder)
    if exit_status.status != "error":
        terminal.print_report(replace(report, reason=None), folder, Console())


def write(record: RunRecord, exit_status: ExitStatus, folder: Path) -> Report:
    """Write ``results.json`` and ``report.html``, and return what they say."""
    from launcher.report import page, results

    record.health = reading.summary_of_run(folder)
    report = record.report(exit_status.status, exit_status.reason)
    results.write(report, folder)
    page.write(report, folder, record.overview)
    return report
