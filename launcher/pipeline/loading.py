"""The step that measures the speed of the endpoint, where ``load.test`` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from launcher.backends.endpoint import api_key
from launcher.core.console import to_stderr
from launcher.core.errors import ValidationFailed
from launcher.core.event_loop import run_async
from launcher.core.files import replace_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint
from launcher.load_test.load_test import LoadTest, load_test, side_by_side
from launcher.load_test.measurement import Level
from launcher.pipeline.record import RunRecord
from launcher.report import results
from launcher.report.schema import ResultsFile
from launcher.settings.load import Load

LEFT_OUT = "left out, because the endpoint failed its certificate; validate.skip=[<check>] leaves a check out"


@contextmanager
def needs_certificate(settings: Load, record: RunRecord) -> Iterator[None]:
    """Note that the load test is left out, should the validation inside fail."""
    try:
        yield
    except ValidationFailed:
        if settings.test:
            record.load_left_out = LEFT_OUT
            to_stderr(f"load: {LEFT_OUT}")
        raise


def measure_load(settings: Load, endpoint: Endpoint, record: RunRecord, folder: Path) -> None:
    """Run the load test, print a line for each level, and write ``load.json``."""
    if not settings.test:
        return
    with record.step("load"):
        found = run_async(load_test(endpoint, settings, _tell))
    record.load = _as_json(found)
    replace_json(RunFolder(folder).load, record.load, indent=2)
    to_stderr(f"load: {found.ended}")


def measure_beside(folders: Sequence[Path]) -> None:
    """Measure the external servers of finished validations, which take turns; write what was found to the folders."""
    if not folders:
        return
    found = [results.read(folder) for folder in folders]
    settings = Load(**found[0]["run"]["config"]["load"])
    tell = [partial(_tell, named=f"{folder.name}: ") for folder in folders]
    measured = run_async(side_by_side([_endpoint(one) for one in found], settings, tell))
    for folder, one, load in zip(folders, found, measured, strict=True):
        one["load"] = results.plain(_as_json(load))
        replace_json(RunFolder(folder).load, one["load"], indent=2)
        replace_json(RunFolder(folder).results, one, indent=2)


def _endpoint(found: ResultsFile) -> Endpoint:
    """Return the endpoint of a finished run, with its key."""
    named, backend = found["endpoint"], found["run"]["config"]["backend"]
    assert named is not None, "it was validated"
    key = api_key(backend.get("api_key_env"))
    return Endpoint(named["url"], named["model"], named["backend"], named["engine"], key, is_builtin=False)


def _as_json(found: LoadTest) -> dict[str, object]:
    cache, knee = found.prefix_cache, found.knee
    return {
        **asdict(found),
        "prefix_cache": {**asdict(cache), "found": cache.found} if cache else None,
        "knee": knee.in_flight if knee else None,
    }


def _tell(level: Level, named: str = "") -> None:
    failed = f" · {level.failed} failed" if level.failed else ""
    to_stderr(
        f"load: {named}{level.in_flight} in flight · {level.generated_tokens_per_s:,.0f} generated tokens/s · "
        f"{level.requests_per_s:.1f} requests/s{failed}"
    )
