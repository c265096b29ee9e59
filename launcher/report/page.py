"""``report.html``: a run as one file that opens offline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml
from jinja2 import Environment
from markupsafe import Markup

from launcher.core.files import replace
from launcher.core.run_folder import RunFolder
from launcher.core.types import Direction, GroupResult, Json, Report, Status, TaskResult
from launcher.report import charts, checks, design, formatting, load, load_curves, results, samples, subject
from launcher.report.schema import LoadEntry
from launcher.stats.distribution import Distribution
from launcher.stats.overview import Group, Overview

GENERATED = {"generated_tokens", "generated_tokens_per_s"}
"""The figures that say nothing where nothing was generated."""
OPTIONAL = {"cached", "scored_prompts", "scored_prompts_per_s"}
"""The figures that are only shown where there are any."""
VERDICTS = {
    "ok": "Every step succeeded",
    "incomplete": "The results are incomplete",
    "invalid": "The endpoint failed its validation",
    "interrupted": "The run was interrupted",
    "error": "The run failed",
}
"""What each status of a report says to a reader."""


def write(report: Report, folder: Path, overview: Overview | None = None) -> Path:
    """Write ``report.html`` into ``folder``, with the samples of the ``samples.jsonl`` there; return its path.

    ``overview`` is that of this file, where it was read before and has not changed since.
    """
    if overview is None or overview.version != RunFolder(folder).samples_version():
        overview = samples.gather(folder)
    values = {**_run(report, folder), **_samples(overview, samples.rows(folder, overview))}
    return replace(RunFolder(folder).report, render("report.html.j2", values))


def render(template: str, values: Mapping[str, object]) -> str:
    """Render a template of this package."""
    return results.well_formed(_environment().get_template(template).render(values))


def render_main(template: str, values: Mapping[str, object]) -> str:
    """Render what a template of this package puts into the document, for a page that holds it among other parts."""
    made = _environment().get_template(template)
    return results.well_formed("".join(made.blocks["main"](made.new_context(dict(values)))))


def embed(rows: list[str]) -> Markup:
    """Return JSON texts as one array that is safe inside a ``<script>``: no ``<``, ``>`` or ``&`` is left in it."""
    text = "[" + ",\n".join(rows) + "]"
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _run(report: Report, folder: Path) -> dict[str, object]:
    run = results.plain(report.run)
    return {
        "report": report,
        "subject": subject.facts(report),
        "command": subject.command(report, folder),
        "title": _title(report),
        "verdict": VERDICTS.get(report.status, report.status),
        "started": formatting.moment(run.get("started_at")),
        "rows": charts.score_rows(report.folded),
        "unscored": [
            name for name, result in report.folded.items() if not result.metrics and name not in report.groups
        ],
        "results": report.results,
        "groups": [(name, group, _members(report, group)) for name, group in _outermost_first(report.groups)],
        "categories": [
            (name, result.categories, _weakest_first(result.categories))
            for name, result in report.tasks.items()
            if len(result.categories) > 1
        ],
        "checked": _only_checked(report),
        "engine_name": report.endpoint and results.engine_name(report.endpoint.engine, report.engine),
        "parts": checks.parts(report.checks),
        "left_out": checks.left_out(report.checks),
        "certificate": results.certificate(report.checks),
        "load": _load(results.plain(report.load)),
        "throughput": list(_tiles(results.plain(report.throughput))),
        "slowest": max(report.timings.values(), default=0) or 1,
        "versions": run.get("versions") if isinstance(run.get("versions"), dict) else {},
        "config": _yaml(run.get("config")),
        "facts": _facts({key: run[key] for key in run if key not in ("config", "versions")}),
        "engine": _facts(results.plain(report.engine)),
    }


def _only_checked(report: Report) -> bool:
    """Tell whether the run was to check or serve the endpoint, and not to evaluate it."""
    return not report.results and results.only_checked(report.run)


def _load(found: LoadEntry) -> dict[str, object]:
    """Return what the page shows of a load test; empty where there was none."""
    if not found:
        return {}
    most = max((level["generated_tokens_per_s"] for level in found["levels"]), default=0.0) or 1.0
    shares = [100 * level["generated_tokens_per_s"] / most for level in found["levels"]]
    rows = list(zip(load.rows(found), shares, strict=True))
    verdict, reasons = list(load.verdict(found)), load.reasons(found)
    return {
        "sizes": load.sizes(found),
        "curves": load_curves.curves({"": found}),
        "columns": load.COLUMNS,
        "rows": rows,
        "verdict": verdict,
        "reasons": reasons,
    }


def _outermost_first(groups: Mapping[str, GroupResult]) -> list[tuple[str, GroupResult]]:
    """Return the groups, each before those that are its members."""
    outer = {name: [each for each, group in groups.items() if name in group.members] for name in groups}

    def depth(name: str) -> int:
        return 1 + max(map(depth, outer[name]), default=0)

    return sorted(groups.items(), key=lambda each: depth(each[0]))


def _members(report: Report, group: GroupResult) -> list[charts.ScoreRow]:
    """Return the members of a group, the weakest first."""
    return _weakest_first({name: report.results[name] for name in group.members if name in report.results})


def _weakest_first(found: Mapping[str, TaskResult]) -> list[charts.ScoreRow]:
    return charts.score_rows(dict(sorted(found.items(), key=lambda each: _strength(each[1]))))


def _strength(result: TaskResult) -> float:
    """Return how good the first metric is; a member without a score comes first."""
    first = next(iter(result.metrics.values()), None)
    if first is None or math.isnan(first.value):
        return -math.inf
    return -first.value if first.direction is Direction.lower else first.value


def _samples(overview: Overview, rows: samples.Rows) -> dict[str, object]:
    return {
        "total": overview.total,
        "shown": len(rows.texts),
        "shown_groups": [(group.value, rows.counts[group], overview.counts[group]) for group in Group],
        "data": embed(rows.texts),
        "histogram": charts.histogram(overview.latency),
        "latencies": {task: _percentiles(found) for task, found in overview.latencies.items()},
    }


def _percentiles(latencies: Distribution) -> list[float]:
    return [*latencies.quantiles((0.5, 0.9, 0.99)), latencies.most]


def _title(report: Report) -> str:
    """The served model, or what the configuration calls it when nothing was served."""
    config = report.run.get("config")
    found = config.get("model") if isinstance(config, Mapping) else None
    model = found if isinstance(found, Mapping) else {}
    name = model.get("name", "Run") if report.endpoint is None else report.endpoint.model
    return subject.title(str(name), str(model.get("path") or ""))


def _tiles(throughput: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield what each number of the throughput is called, and its text."""
    left_out = {"without_usage", "generations", "earlier_samples"} | (
        set() if throughput.get("generations", 1) else GENERATED
    )
    for name, value in throughput.items():
        if isinstance(value, int | float) and name not in left_out and (value or name not in OPTIONAL):
            yield _in_words(name), formatting.duration(value) if name == "wall_s" else formatting.number(value)
    for name, words in formatting.TOKEN_TIMES.items():
        for percentile in ("p50", "p99") if throughput.get(name) else ():
            yield f"{words}, {percentile}", formatting.short_time(throughput[name][percentile])


def _in_words(name: str) -> str:
    if name == "wall_s":
        return "wall time"
    words = name.removesuffix("_s").replace("_", " ")
    return words.removesuffix(" per") + (" per second" if words.endswith(" per") else " seconds" * name.endswith("_s"))


def _facts(values: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Write a mapping as pairs of name and text, nested values as YAML."""
    return [
        (name.replace("_", " "), value if isinstance(value, str) else _yaml(value)) for name, value in values.items()
    ]


def _yaml(value: Json) -> str:
    if value is None:
        return ""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return text.removesuffix("...\n").rstrip("\n")


@cache
def _environment() -> Environment:
    environment = design.environment()
    environment.globals |= {
        "statuses": [status.value for status in Status],
        "check_texts": checks,
        "lower_is_better": results.lower_is_better,
        "metric_entry": results.metric_entry,
        "charts": charts,
        "model_title": subject.title,
    }
    return environment
