"""The summary that a run prints when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.core.console import printable
from launcher.core.run_folder import RunFolder
from launcher.core.types import NOT_NEEDED, Json, MetricResult, Report, TaskResult
from launcher.report import checks, formatting, load, page, results, sweep_table
from launcher.report.schema import LoadEntry
from launcher.report.sweep_schema import SweepFile, SweepPoint, WatchComparison, WatchFile, WatchPoint
from launcher.stats.paired import ALPHA

TONES = {
    "ok": "bold green",
    "scored": "green",
    "truncated": "yellow",
    "refused": "magenta",
    "unparsed": "cyan",
    "failed": "red",
    "incomplete": "bold yellow",
    "interrupted": "bold yellow",
}

NARROW = 80
"""On a terminal of fewer columns, the numbers of a metric stand in two lines instead of one."""
MOST_WIDE = 10_000
"""The columns that a table may take when its natural width is measured."""
LABEL = 8
"""Width of the labels below the table."""
ROWS = 12
"""At most this many checkpoints are shown while a training run is watched; the page has all."""
MARKS = "best: significantly better than every other point; worse: significantly worse than the leader"


def print_report(report: Report, folder: Path, console: Console) -> None:
    """Print the verdict, the score table, the speed, the time per step, and where ``report.html`` lies."""
    console.print()
    console.print(_verdict(report))
    if _only_validated(report):
        console.print(checks.table(report.checks))
    for line in checks.lines(report.checks):
        console.print(line)
    if report.tasks:
        scores = _scores if console.width >= NARROW else _narrow_scores
        console.print(scores(report, _plus_minus(console)))
        for line in _group_lines(report):
            console.print(line)
        for told in formatting.early_stops(report):
            console.print(Text(printable(told)))
        for task, result in report.folded.items():
            for status in result.reasons:
                console.print(_reason(task, status, result))
            for note, times in result.notes.items():
                console.print(_note(task, note, times, of_answers=not result.harness))
            for again in formatting.retried(result.retried):
                console.print(
                    Text.assemble((f"{printable(formatting.task_name(task))} retried", "yellow"), f": {again}")
                )
    if report.load:
        _print_load(report, console)
    elif report.load_left_out:
        console.print(Text.assemble(("load test ", "yellow"), printable(report.load_left_out)))
    console.print(_summary(report))
    for change in formatting.earlier_values(report):
        console.print(Text(printable(change), style="dim"))
    _say_path(RunFolder(folder).report, console)


def _print_load(report: Report, console: Console) -> None:
    found: LoadEntry = results.plain(report.load)
    console.print()
    console.print(load.table(found))
    for line in load.verdict(found):
        console.print(Text(f"  {line}"))
    for error in load.reasons(found):
        console.print(Text.assemble(("  failed", "red"), f": {printable(error)}"))
    console.print()


def print_sweep(collected: SweepFile, folder: Path, console: Console) -> None:
    """Print one table per task with the points as rows, why points failed, and where ``sweep.html`` lies."""
    layout = sweep_table.table(collected)
    console.print()
    for task, columns in groupby(enumerate(layout.metrics), key=lambda item: item[1][0]):
        places = [place for place, _ in columns]
        wide = _points(layout, task, places, _plus_minus(console))
        console.print(wide if fits(wide, console) else _narrow_points(layout, task, places, _plus_minus(console)))
    if not layout.metrics:
        console.print(Text("No point scored a sample."))
    for point in collected["points"]:
        if point["status"] != "ok":
            console.print(_failure(point))
    if any(cell and (cell.best or cell.worse) for _, _, cells in layout.rows for cell in cells):
        console.print(Text(MARKS, style="dim"))
    if layout.common:
        console.print(Text("the same in every point: " + printable(" ".join(layout.common)), style="dim"))
    deployments = collected.get("deployments") or []
    if deployments:
        starts = sum(deployment["starts"] for deployment in deployments)
        console.print(Text(f"servers brought up: {starts} for {len(collected['points'])} points", style="dim"))
    _say_path(RunFolder(folder).sweep_page, console)


def print_watch(collected: WatchFile, folder: Path, console: Console) -> None:
    """Print one table per task with the newest checkpoints as rows, what was not evaluated, and where the page lies."""
    every = collected["points"]
    tasks = dict.fromkeys(task for point in every for task in results.folded(point))
    console.print()
    for task in tasks:
        wide = _checkpoints(collected, task, _plus_minus(console))
        console.print(wide if fits(wide, console) else _narrow_checkpoints(collected, task, _plus_minus(console)))
    for point in every:
        if point["status"] not in ("ok", "evaluating"):
            status = (str(point["status"]), TONES.get(str(point["status"]), "bold red"))
            console.print(Text.assemble(f"{point['name']}: ", status, f": {printable(point['reason'] or '-')}"))
    if any(item["p_holm"] < ALPHA and "previous" in item["against"] for item in collected["comparisons"]):
        console.print(Text("*: a significant change against the checkpoint before", style="dim"))
    _say_path(RunFolder(folder).watch_page, console)


def _checkpoints(collected: WatchFile, task: str, plus_minus: str) -> Table:
    points, names = _having(collected, task)
    table = _table(_last_of(points, task))
    table.add_column("checkpoint", overflow="fold")
    for metric in names:
        table.add_column(Text(printable(metric)), justify="right", no_wrap=True)
        table.add_column("change", justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    changes = _changes(collected, task)
    for point in points[-ROWS:]:
        entry = results.folded(point)[task]
        found = entry["metrics"]
        cells = [
            cell
            for metric in names
            for cell in (_measured(found.get(metric), plus_minus), _change(changes.get((metric, point["folder"]))))
        ]
        table.add_row(Text(printable(point["name"])), *cells, _coverage(entry["coverage"]))
    return table


def _narrow_checkpoints(collected: WatchFile, task: str, plus_minus: str) -> Table:
    """The checkpoints for a terminal on which one line has no room for all metrics."""
    points, names = _having(collected, task)
    table, changes = _narrow_table(_last_of(points, task), "checkpoint", "change"), _changes(collected, task)
    for point in points[-ROWS:]:
        entry = results.folded(point)[task]
        for metric in names:
            change = _change(changes.get((metric, point["folder"])))
            values = Text("\n").join([_measured(entry["metrics"].get(metric), plus_minus), change])
            name = Text(f"{printable(point['name'])}\n{printable(metric)}")
            table.add_row(name, values, _coverage(entry["coverage"]))
    return table


def _having(collected: WatchFile, task: str) -> tuple[list[WatchPoint], list[str]]:
    """Return the points that have a task, and its metrics."""
    points = [point for point in collected["points"] if results.folded(point).get(task)]
    return points, list(dict.fromkeys(name for point in points for name in results.folded(point)[task]["metrics"]))


def _last_of(points: Sequence[WatchPoint], task: str) -> str:
    return printable(formatting.task_name(task)) + (f", the last {ROWS} of {len(points)}" if len(points) > ROWS else "")


def _changes(collected: WatchFile, task: str) -> dict[tuple[str, str], WatchComparison]:
    """Return by metric and folder what changed against the checkpoint before."""
    return {
        (item["metric"], item["b"]): item
        for item in collected["comparisons"]
        if item["task"] == task and "previous" in item["against"]
    }


def _narrow_table(title: str, point: str, beneath: str) -> Table:
    table = _table(title)
    table.add_column(f"{point}\nmetric", overflow="fold")
    table.add_column(f"value\n{beneath}", justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    return table


def fits(table: Table, console: Console) -> bool:
    """Tell whether a table has room for every cell on a line of its own."""
    return console.measure(table, options=console.options.update(width=MOST_WIDE)).maximum <= console.width


def _measured(metric: Mapping[str, Json] | None, plus_minus: str) -> Text:
    if metric is None:
        return Text("-")
    return Text(f"{formatting.number(metric['value'])} {plus_minus} {formatting.number(metric['stderr'])}")


def _change(comparison: WatchComparison | None) -> Text:
    if comparison is None:
        return Text("-", style="dim")
    mark = "*" if comparison["p_holm"] < ALPHA else " "
    return Text(f"{formatting.signed(comparison['difference'])}{mark}", style="bold" if mark == "*" else "dim")


def _say_path(path: Path, console: Console) -> None:
    """Print a path on one line, however long, so that it can be copied."""
    console.print(Text.assemble(f"{'report':<{LABEL}}", (str(path), "bold")), soft_wrap=True)


def _verdict(report: Report) -> Text:
    tone = TONES.get(report.status, "bold red")
    text = Text.assemble((report.status, tone), f"  {page.VERDICTS.get(report.status, '')}")
    if report.reason:
        text.append(f"\n{printable(report.reason)}")
    return text


def _scores(report: Report, plus_minus: str) -> Table:
    table = _table()
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold", min_width=11)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % CI", justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    for task, result in report.folded.items():
        coverage = Text("unknown") if formatting.is_uncounted(result.harness) else _coverage(result.coverage)
        for name, metric in result.metrics.items():
            cells = _value(metric, plus_minus), _interval(metric), coverage
            table.add_row(Text(printable(formatting.task_name(task))), Text(printable(name)), *cells)
        if not result.metrics:
            table.add_row(Text(printable(formatting.task_name(task))), "-", "-", "-", coverage)
    return table


def _narrow_scores(report: Report, plus_minus: str) -> Table:
    """The scores for a terminal on which one line has no room for all numbers of a metric."""
    table = _table()
    table.add_column("task\nmetric", overflow="ellipsis", no_wrap=True)
    table.add_column("value\n95 % CI", justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    for task, result in report.folded.items():
        coverage = Text("unknown") if formatting.is_uncounted(result.harness) else _coverage(result.coverage)
        for name, metric in result.metrics.items():
            names = Text(f"{printable(formatting.task_name(task))}\n{printable(name)}")
            table.add_row(names, Text("\n").join([_value(metric, plus_minus), _interval(metric)]), coverage)
        if not result.metrics:
            table.add_row(Text(printable(formatting.task_name(task))), "-", coverage)
    return table


def _group_lines(report: Report) -> Iterator[Text]:
    """Return a line for each group with the number of its members, and why it has no metrics."""
    for name, group in report.groups.items():
        if name not in report.folded:
            continue
        shown, members = printable(formatting.task_name(name)), formatting.plural(len(group.members), "member")
        yield Text(f"{shown}: {members}, listed in the report", style="dim")
        if group.missing:
            missing = printable(", ".join(map(formatting.task_name, group.missing)))
            yield Text.assemble(
                (f"{printable(formatting.task_name(name))}: no metric", "yellow"), f", as there is none of {missing}"
            )


def _table(title: str | None = None) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title=Text(title, style="bold") if title else None,
        title_justify="left",
    )


def _summary(report: Report) -> Table:
    """The lines below the scores: certificate, speed, time per step."""
    grid = Table.grid()
    grid.add_column(width=LABEL)
    grid.add_column()
    lines = {
        "checks": _checks(report),
        "speed": _speed(report.throughput),
        "paused": formatting.paused(report.pauses),
        "health": formatting.events(report.health),
        "answers": formatting.answers_from(report.run.get("answers_from") or {}),
        "judge": _judge(report.run.get("judge")),
        "adapted": formatting.adapter_parameters(report.run.get("adapter_parameters") or []),
        "items": formatting.item_changes(report.run.get("item_changes", {})),
        "failed": formatting.failed_exchanges(report.run.get("failed_exchanges") or {}),
        "adapter": formatting.adapter_failures(report.run.get("adapter_failures", {})),
        "time": _steps(report.timings),
    }
    for label, line in lines.items():
        if line:
            grid.add_row(label, Text(printable(line)))
    return grid


def _judge(judge: Json) -> str:
    return f"{judge['model']} at {judge['url']}" if judge else ""


def _checks(report: Report) -> str:
    certificate = results.certificate(report.checks)
    return "" if certificate is None else checks.counted(certificate)


def _only_validated(report: Report) -> bool:
    config = report.run.get("config")
    return isinstance(config, Mapping) and config.get("mode") == "validate" and bool(report.checks)


def _value(metric: MetricResult, plus_minus: str) -> Text:
    return Text.assemble((formatting.number(metric.value), "bold"), f" {plus_minus} {formatting.number(metric.stderr)}")


def _interval(metric: MetricResult) -> Text:
    text = Text(formatting.interval(metric.ci_low, metric.ci_high))
    if formatting.bounded(metric):
        text.append(f"\nbounds {formatting.interval(metric.low, metric.high)}", style="yellow")
    return text


def _coverage(coverage: Mapping[str, int]) -> Text:
    """``98/100``, then a line for each way in which samples were lost."""
    whole = formatting.complete(coverage)
    count = f"{coverage.get('scored', 0):,}/{formatting.total(coverage):,}"
    text = Text(count, style="green" if whole else "yellow")
    for status, lost in formatting.lost(coverage).items():
        text.append(f"\n{lost:,} {status}", style=TONES[status])
    if not_asked := formatting.not_asked(coverage):
        text.append(f"\n{not_asked:,} not asked", style="yellow")
    if spared := coverage.get(NOT_NEEDED):
        text.append(f"\n{spared:,} not needed", style="dim")
    return text


def _reason(task: str, status: str, result: TaskResult) -> Text:
    """The most common reason why samples of a task ended in a status, and how many gave it."""
    said, times = max(result.reasons[status].items(), key=lambda item: item[1])
    lost = result.coverage.get(status, 0)
    share = "" if times == lost else f" ({times:,} of {lost:,})"
    return Text.assemble(
        (f"{printable(formatting.task_name(task))} {status}", TONES[status]), f"{share}: {printable(said)}"
    )


def _note(task: str, note: str, times: int, *, of_answers: bool) -> Text:
    """What was odd about answers that were not refused for it, or about a harness."""
    count = f" ({formatting.plural(times, 'answer')})" if of_answers else ""
    return Text.assemble((f"{printable(formatting.task_name(task))} note", "yellow"), f"{count}: {printable(note)}")


def _speed(throughput: Mapping[str, Json]) -> str:
    parts = [f"{formatting.number(throughput[key])} {words}" for key, words in formatting.rates(throughput).items()]
    latency = throughput.get("latency_s") or {}
    known = [f"{name} {formatting.duration(latency[name])}" for name in ("p50", "p99") if latency.get(name) is not None]
    if throughput.get("cached"):
        parts.append(f"{formatting.plural(throughput['cached'], 'answer')} from the cache")
    if adaptive := throughput.get("concurrency"):
        parts.append(f"{adaptive['limit']} in flight at the end ({len(adaptive['history']) - 1} changes)")
    if budget := throughput.get("budget"):
        parts.append(formatting.cost(budget))
    if throughput.get("without_usage"):
        parts.append(f"{formatting.plural(throughput['without_usage'], 'answer')} without token counts")
    parts += ["latency " + " ".join(known)] if known else []
    told = formatting.resumed(throughput)
    return ", ".join([*parts, *formatting.token_times(throughput)]) + (f" ({told})" if told else "")


def _steps(timings: Mapping[str, float]) -> str:
    return ", ".join(f"{step} {formatting.duration(seconds)}" for step, seconds in timings.items())


def _points(layout: sweep_table.Table, task: str, places: list[int], plus_minus: str) -> Table:
    table = _table(printable(formatting.task_name(task)))
    table.add_column("point", overflow="fold")
    for key in _short(layout.overrides):
        table.add_column(Text(printable(key)), overflow="fold")
    for place in places:
        table.add_column(Text(printable(layout.metrics[place][1])), justify="right", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    for point, overrides, cells in layout.rows:
        shown = [cells[place] for place in places]
        values = (Text(printable(value) or "-") for value in overrides.values())
        table.add_row(
            Text(point["folder"]), *values, *(_cell(cell, plus_minus) for cell in shown), _status(point, task)
        )
    return table


def _narrow_points(layout: sweep_table.Table, task: str, places: list[int], plus_minus: str) -> Table:
    """The points for a terminal on which one line has no room for all settings and metrics."""
    table, keys = _narrow_table(printable(formatting.task_name(task)), "point", ""), _short(layout.overrides)
    for point, overrides, cells in layout.rows:
        chosen = "".join(f" {key}={value or '-'}" for key, value in zip(keys, overrides.values(), strict=True))
        for place in places:
            name = Text(printable(f"{point['folder']}{chosen}") + f"\n{printable(layout.metrics[place][1])}")
            table.add_row(name, _cell(cells[place], plus_minus), _status(point, task))
    return table


def _short(keys: list[str]) -> list[str]:
    """The last words of dotted keys, while those still tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return last if len(set(last)) == len(keys) else keys


def _cell(cell: sweep_table.Cell | None, plus_minus: str) -> Text:
    if cell is None:
        return Text("-")
    text = Text(f"{formatting.number(cell.value)} {plus_minus} {formatting.number(cell.stderr)}")
    text.append("\nbest" if cell.best else "\nworse" if cell.worse else "", style="bold green" if cell.best else "dim")
    return text


def _status(point: SweepPoint, task: str) -> Text:
    """The point's coverage of the task, or how the point ended when it has none; a good one did not ask it."""
    result = results.folded(point).get(task)
    if result:
        return _coverage(result["coverage"])
    return Text("-") if point["status"] == "ok" else Text(str(point["status"]), style="red")


def _failure(point: SweepPoint) -> Text:
    overrides: Iterable[str] = point["overrides"]
    status = (str(point["status"]), TONES.get(str(point["status"]), "bold red"))
    chosen = printable(" ".join(overrides))
    return Text.assemble(f"point {point['folder']} ({chosen}): ", status, f": {printable(point['reason'] or '-')}")


def _plus_minus(console: Console) -> str:
    return "+/-" if console.options.ascii_only else "±"
