"""Makes ``comparison.json`` of runs, and refuses runs that did not measure the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.core.errors import UserError
from launcher.core.types import Direction
from launcher.report import formatting
from launcher.verdict import categories, sequential
from launcher.verdict import runs as compared
from launcher.verdict.comparison import Row, rows
from launcher.verdict.flips import flips
from launcher.verdict.runs import Run
from launcher.verdict.schema import VERSION, ComparisonFile, FlipsEntry, RowEntry, RunEntry
from launcher.verdict.words import sentence

FEW = 0.99
"""Below this share of scored samples, a comparison says how many are left out."""


def collect(
    runs: Sequence[Run],
    *,
    force: bool = False,
    raced: bool = False,
    inside: bool = False,
    left_out: Sequence[str] = (),
    most_flips: int = 200,
) -> ComparisonFile:
    """Compare every run with the first; ``left_out`` are warnings about runs that are not compared.

    Raises `UserError` with the differences for runs that did not measure the same; with ``force`` they become warnings.
    Those of two runs that ``raced`` are what is compared: `launcher.pipeline.race` has refused all others.
    """
    warnings = [line for run in runs[1:] for line in _incomparable(runs[0], run, force, raced)]
    found = rows(runs, inside)
    untested = [line for run in runs[1:] for line in _untested(runs[0], run)]
    if not found:
        why = [line for run in runs[1:] for line in _nothing_shared(runs[0], run)]
        raise UserError("; ".join(["compare: the runs have no scored question in common", *why, *untested]))
    return {
        "schema_version": VERSION,
        "runs": [_run(run) for run in runs],
        "warnings": [*left_out, *warnings, *untested, *(line for run in runs for line in (*_doubts(run), *_lost(run)))],
        "subject": {run.label: _subject(runs[0], run) for run in runs[1:]},
        "rows": [_row(row) for row in found],
        "categories": [{**_row(each.row), "category": each.category} for each in categories.rows(runs)],
        "flips": [_flips(runs[0], run, most_flips) for run in runs[1:]],
    }


def _incomparable(a: Run, b: Run, force: bool, raced: bool) -> list[str]:
    shared = compared.common_tasks(a, b)
    if not shared:
        raise UserError(f"compare: {a.folder} and {b.folder} have no task in common: {_names(a)}; {_names(b)}")
    lines = [] if raced else compared.measured_otherwise(a, b)
    if lines and not force:
        what = "\n".join(f"  {line}" for line in lines)
        raise UserError(
            f"compare: {a.folder} and {b.folder} did not measure the same; "
            f"--force compares them all the same. The differences:\n{what}"
        )
    other = [task for task in {**a.tasks, **b.tasks} if task not in shared]
    left_out = (
        [f"only one of {a.label} and {b.label} has {', '.join(map(formatting.task_name, other))}"] if other else []
    )
    return [*(f"{a.label} and {b.label} did not measure the same: {line}" for line in lines), *left_out]


def _subject(a: Run, b: Run) -> list[str]:
    """Return all lines in which two runs differ: no line means that a difference of scores is chance."""
    return [*compared.subject(a, b), *compared.measured_otherwise(a, b)]


def _untested(a: Run, b: Run) -> Iterator[str]:
    """Say of each metric that is no mean over questions, and has no test, what it is in both runs."""
    for task in a.results["tasks"].keys() & b.results["tasks"].keys():
        metrics, others = a.results["tasks"][task]["metrics"], b.results["tasks"][task]["metrics"]
        for name in metrics.keys() & others.keys():
            why = _why_untested(a, b, task, name)
            if why is not None:
                values = " -> ".join(formatting.number(each[name]["value"]) for each in (metrics, others))
                what = f"{formatting.task_name(task)} {name} of {a.label} and {b.label}"
                yield f"{what} is {values}, without a test: {why}"


def _why_untested(a: Run, b: Run, task: str, name: str) -> str | None:
    key = task, name
    unknown = a.answers.untested.get(key) or b.answers.untested.get(key)
    if unknown is not None:
        return unknown
    if key in a.answers.parts and sequential.drawn(a, b, task) is not None:
        return "it is one number of all samples, and the runs stopped early by another metric"
    return None


def _nothing_shared(a: Run, b: Run) -> Iterator[str]:
    """Say of each task that both have why no question was scored in both."""
    for task in compared.common_tasks(a, b):
        name = formatting.task_name(task)
        metrics = [list(run.results["tasks"].get(task, {"metrics": {}})["metrics"]) for run in (a, b)]
        shared = a.answers.ids.get(task, set()) & b.answers.ids.get(task, set())
        if not all(metrics):
            unscored = " and ".join(run.label for run, found in zip((a, b), metrics, strict=True) if not found)
            yield f"{name}: {unscored} scored no sample"
        elif not set(metrics[0]) & set(metrics[1]):
            yield f"{name}: {a.label} has {', '.join(metrics[0])}, {b.label} has {', '.join(metrics[1])}"
        elif shared:
            named = formatting.plural(len(shared), "question")
            yield f"{name}: {named} of equal names, none with the same target and a score in both"
        else:
            yield f"{name}: no question of one has the name of one of the other"


def _lost(run: Run) -> Iterator[str]:
    """Say how many samples of a task have no score, and what its first metric is if they count as the worst."""
    for task, entry in run.results["tasks"].items():
        total, scored = formatting.total(entry["coverage"]), entry["coverage"]["scored"]
        if not entry["metrics"] or entry.get("early_stop") or scored >= total * FEW:
            continue
        name, metric = next(iter(entry["metrics"].items()))
        worst = metric["low"] if metric["direction"] == Direction.higher.value else metric["high"]
        told = "" if worst is None else f"; counted as the worst, its {name} is {formatting.number(worst)}"
        what = f"{scored:,} of {formatting.plural(total, 'sample')} of {formatting.task_name(task)}"
        yield f"{run.label} scored {what}: the others are left out{told}"


def _names(run: Run) -> str:
    return ", ".join(map(formatting.task_name, run.tasks))


def _doubts(run: Run) -> Iterator[str]:
    """Say what speaks against trusting the scores of a run."""
    if run.results["status"] != "ok":
        reason = run.results["reason"]
        yield f"{run.label} ended {run.results['status']}{f': {reason}' if reason else ''}"
    certificate = run.results["certificate"]
    if certificate and not certificate["ok"]:
        failed = ", ".join(check["name"] for check in certificate["failed_checks"])
        yield f"{run.label}'s endpoint failed {formatting.plural(certificate['failed'], 'check')}: {failed}"


def _run(run: Run) -> RunEntry:
    return {
        "label": run.label,
        "folder": str(run.folder),
        "model": run.model,
        "source": run.source,
        "status": run.results["status"],
        "throughput": run.results["throughput"],
    }


def _row(row: Row) -> RowEntry:
    found = row.found
    return {
        "task": found.task,
        "metric": found.metric,
        "a": found.a,
        "b": found.b,
        "value_a": row.value_a,
        "value_b": row.value_b,
        "difference": found.difference,
        "half_width": row.half_width,
        "interval": None if row.interval is None else list(row.interval),
        "n": found.n,
        "left_out": found.left_out,
        "test": found.test,
        "p": found.p,
        "p_holm": found.p_holm,
        "needed": row.needed,
        "verdict": row.verdict,
        "sentence": sentence(row),
    }


def _flips(a: Run, b: Run, most: int) -> FlipsEntry:
    shown, total = flips(a, b, most)
    return {"a": a.label, "b": b.label, "total": total, "shown": shown}
