"""Prints a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.core.console import one_line, printable
from launcher.core.types import Json
from launcher.report import formatting
from launcher.report.terminal import fits
from launcher.verdict.schema import CategoryRowEntry, ComparisonFile, FlipEntry, FlipsEntry, RowEntry, RunEntry

TONES = {"better": "bold green", "worse": "bold red", "may be chance": "yellow", "equal": "dim"}
CATEGORIES = 8
"""At most so many categories of a task are printed, the surest differences first; the page shows all."""
FLIPPED = 5
"""At most so many changed questions of each pair of runs are printed; the page shows more."""
CHARACTERS = 300
"""The most characters of a question or answer that are printed."""


def show(found: ComparisonFile, console: Console) -> None:
    """Print the runs, the verdict of each metric, the speed with its cost, and some of the questions that changed."""
    console.print()
    for run in found["runs"]:
        parts = (run["folder"], run["model"], run["source"])
        console.print(Text.assemble((run["label"], "bold"), *(f"  {printable(part)}" for part in parts if part)))
    for label, lines in found["subject"].items():
        for line in lines or ["the same model and settings: a difference is chance, or the server's"]:
            console.print(Text(f"   {label}  {printable(line)}", style="dim"))
    for warning in found["warnings"]:
        console.print(Text.assemble(("warning ", "yellow"), printable(warning)))
    console.print()
    for row in found["rows"]:
        console.print(_verdict(row))
    for text in _by_category(found["categories"]):
        console.print(text)
    wide = _speed(found["runs"])
    console.print(wide if fits(wide, console) else _narrow_speed(found["runs"]))
    for flips in found["flips"]:
        _show_flips(flips, console)


def _verdict(row: RowEntry, category: str | None = None) -> Text:
    whole = f"{printable(formatting.task_name(row['task']))} {printable(row['metric'])}"
    name = whole if category is None else printable(category)
    values = f"{formatting.number(row['value_a'])} -> {formatting.number(row['value_b'])}"
    left_out = f", {formatting.plural(row['left_out'], 'question')} left out" if row["left_out"] else ""
    return Text.assemble((name, "bold"), f"  {values}  ", (row["sentence"], TONES[row["verdict"]]), left_out)


def _by_category(rows: list[CategoryRowEntry]) -> Iterator[Text]:
    """Yield the categories of each task, in which a difference of the task may lie."""
    for (task, metric, label), each in groupby(rows, key=lambda row: (row["task"], row["metric"], row["b"])):
        found = sorted(each, key=lambda row: row["p"])
        name = f"{printable(formatting.task_name(task))} {printable(metric)} of {label} by category"
        more = f"; {CATEGORIES} of {len(found)}" if len(found) > CATEGORIES else ""
        yield Text(f"{name}, exploratory (p corrected over its {len(found)} categories{more}):", style="dim")
        for row in found[:CATEGORIES]:
            yield Text.assemble("  ", _verdict(row, row["category"]))


def _speed(runs: list[RunEntry]) -> Table:
    table, (heads, rows) = _table(), _figures(runs)
    table.add_column("run")
    for head in heads:
        table.add_column(head, justify="right")
    for run, figures in zip(runs, rows, strict=True):
        table.add_row(run["label"], *figures)
    return table


def _narrow_speed(runs: list[RunEntry]) -> Table:
    """The same for a terminal on which one line has no room for all heads: a line for each figure."""
    table, (heads, rows) = _table(), _figures(runs)
    table.add_column("run")
    for run in runs:
        table.add_column(run["label"], justify="right", overflow="fold")
    for head, *figures in zip(heads, *rows, strict=True):
        table.add_row(head, *figures)
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False)


def _figures(runs: list[RunEntry]) -> tuple[list[str], list[list[str]]]:
    """Return the heads of speed and cost, and the figures of each run."""
    speeds = [run["throughput"] for run in runs]
    heads, rows = formatting.rate_table(speeds)
    costs, paid = formatting.spent(speeds)
    times = [[_time((speed.get("latency_s") or {}).get("p50")), _time(speed.get("wall_s"))] for speed in speeds]
    figures = [[*rate, *time, *cost] for rate, time, cost in zip(rows, times, paid, strict=True)]
    return [*heads, "latency p50", "wall time", *costs], figures


def _time(seconds: Json) -> str:
    return formatting.duration(seconds) if isinstance(seconds, int | float) else "-"


def _show_flips(flips: FlipsEntry, console: Console) -> None:
    total, shown = flips["total"], flips["shown"][:FLIPPED]
    if not total:
        console.print(Text(f"{flips['a']} and {flips['b']} score every common question the same"))
        return
    some = f"; {len(shown)} of them:" if len(shown) < total else ":"
    console.print(Text(f"{formatting.plural(total, 'question')} changed from {flips['a']} to {flips['b']}{some}"))
    for flip in shown:
        console.print(_flip(flip, flips["a"], flips["b"]))


def _flip(flip: FlipEntry, a: str, b: str) -> Text:
    lines = {"asked": flip["question"], "right": flip["target"], a: flip["answer_a"], b: flip["answer_b"]}
    tone = "green" if flip["gain"] > 0 else "red"
    head = (f"  {printable(formatting.task_name(flip['task']))}/{printable(flip['id'])}", tone)
    return Text.assemble(head, *(f"\n    {name:<6} {one_line(_end(text), CHARACTERS)}" for name, text in lines.items()))


def _end(text: str) -> str:
    """Return the end of a long text: few-shot examples come before the question."""
    return text if len(text) <= CHARACTERS else "… " + text[-CHARACTERS + 2 :]
