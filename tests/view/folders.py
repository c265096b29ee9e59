"""Folders of runs, sweeps and watches for the tests of the pages, some with hostile texts in them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from launcher.checkpoints.watch_record import WatchRecord
from launcher.core.records import to_line
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, MetricResult, Report, TaskResult
from launcher.report import page, results, watch
from tests.sample_records import made

HOSTILE = '<img src=x onerror="window.hit=1">\'"</script><script>window.hit=1</script>{{ 7*7 }}'
"""What a name, a log or an answer may hold; a page shows it as text."""


def finished(
    folder: Path, model: str = "tiny", value: float = 0.5, status: str = "ok", reason: str | None = None
) -> Path:
    """Write a run that is over."""
    metric = MetricResult(value, 0.01, value - 0.02, value + 0.02, 100, value, value)
    coverage = {"scored": 98, "truncated": 2, "refused": 0, "unparsed": 0, "failed": 0, "not_asked": 0, "total": 100}
    made = Report(
        status=status,
        run={"config": {"model": {"name": model}}},
        endpoint=Endpoint("http://127.0.0.1:9/v1", model, "inline", "echo"),
        engine={},
        tasks={f"task of {model}"[:60]: TaskResult({"exact_match": metric}, coverage, {})},
        throughput={
            "requests": 100,
            "generated_tokens_per_s": 12.5,
            "latency_s": {"p50": 0.1},
            "ttft_s": {"p50": 0.02, "p90": 0.02, "p99": 0.02, "answers": 9},
        },
        timings={"serve": 1.0, "total": 2.5},
        checks=(),
        reason=reason,
    )
    results.write(made, folder)
    page.write(made, folder)
    (folder / ".hydra").mkdir(exist_ok=True)
    RunFolder(folder).overrides.write_text("- engine=echo\n")
    return folder


def running(folder: Path, done: int = 30, age_s: float = 0.0, step: str = "evaluate", task: str = "addition") -> Path:
    """Write a run that goes on, or did until ``age_s`` seconds ago."""
    now = time.time() - age_s
    found = {"time": now, "began": now - 9, "step": step, "step_began": now - 5, "note": "", "steps": {"serve": 4.0}}
    found |= {
        "done": done,
        "total": 120,
        "unit": "samples",
        "earlier": 0,
        "throughput": {"requests": done},
        "pause": "",
    }
    entry = {"total": 120, "ended": {"scored": done}, "metric": "exact_match", "mean": 0.25, "n": done}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_text(json.dumps(found | {"tasks": {task: entry}}))
    (folder / "new").rename(RunFolder(folder).stage)
    RunFolder(folder).lease.write_text(json.dumps({"host": "here", "pid": 1, "job_id": None, "began_at": "now"}))
    return folder


def certified(folder: Path, valid: bool = False, text: str = "it is wrong") -> Path:
    """Write a certificate."""
    check = {"id": "n", "name": text, "outcome": "failed", "detail": text, "effect": text, "remedy": text}
    counts = {"passed": 3, "failed": 0 if valid else 1}
    found = {"valid": valid, "counts": counts, "checked_at": "now", "checks": [] if valid else [check]}
    RunFolder(folder).certificate.write_text(json.dumps(found))
    return folder


def swept(folder: Path, total: int = 3) -> Path:
    """Write a sweep of which the first points are over, and one goes on."""
    for number in range(total - 1):
        point = finished(folder / str(number), value=0.2 + number / 10)
        RunFolder(point).overrides.write_text(f"- evaluate.limit={number}\n- model=none\n")
    last = running(folder / str(total - 1))
    (last / ".hydra").mkdir()
    RunFolder(last).overrides.write_text(f"- evaluate.limit={total}\n- model=none\n")
    RunFolder(folder).multirun.write_text("hydra: {}\n")
    return folder


def watched(folder: Path, names: tuple[str, ...] = ("step_100", "step_200"), text: str = "tiny") -> Path:
    """Write a watch with checkpoints that are over, and one that is evaluated now."""
    records = []
    for number, name in enumerate(names):
        finished(folder / name, model=text, value=0.2 + number / 10)
        answered = [
            replace(made(f"t/{item}/0", scores={"exact_match": float(item <= number)}), task=f"task of {text}"[:60])
            for item in range(3)
        ]
        RunFolder(folder / name).samples.write_bytes(b"".join(map(to_line, answered)))
        records.append(WatchRecord(name, f"/ckpt/{text}", 100 * number + 100, 1e9 + number, "s", status="ok"))
    running(folder / "step_900")
    (folder / "step_900" / ".hydra").mkdir()
    RunFolder(folder / "step_900").config.write_text("{}")
    records.append(WatchRecord("step_900", f"/ckpt/{text}", 900, 1e9 + 9, "s"))
    watch.report(folder, Path(f"/training/{text.replace('/', '')}"), records, over=False)
    return folder
