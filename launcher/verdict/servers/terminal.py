"""Prints servers side by side."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.core.console import one_line, printable
from launcher.core.types import Outcome
from launcher.report import checks, formatting
from launcher.report.schema import LevelEntry
from launcher.verdict.servers import speed
from launcher.verdict.servers.schema import DifferenceEntry, RatioEntry, ServerEntry, ServersFile

COLUMNS = ("in flight", "", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "failed", "tokens/s vs A")
DETAIL = 160
"""The most characters of a check's detail that are printed."""

SHOWN_WHOLE = 10
"""From so many percent on, no decimal place says more."""


def show(found: ServersFile, console: Console) -> None:
    """Print the servers, the verdict, the levels of the load tests beside each other, and the checks that differ."""
    console.print()
    for server in found["servers"]:
        facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in server["facts"].items())
        console.print(Text.assemble((server["label"], "bold"), f"  {printable(server['url'])}  "), end="")
        console.print(Text(printable(f"{server['model']}  {facts}"), style="dim"))
    console.print()
    for line in found["verdict"]:
        console.print(Text(printable(line[:1].upper() + line[1:]), style="red" if " failed its " in line else ""))
    for warning in found["warnings"]:
        console.print(Text.assemble(("warning ", "yellow"), printable(warning)))
    for server in found["servers"]:
        if server["load_left_out"]:
            console.print(Text(f"{server['label']}: load test {printable(server['load_left_out'])}", style="yellow"))
    if any(server["load"] for server in found["servers"]):
        console.print(_levels(found))
    if found["differences"]:
        console.print(_differences(found))


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")


def _levels(found: ServersFile) -> Table:
    """Return a row for each server at each level, with its ratio to the first."""
    table = _table("\nload tests")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    loads = {one["label"]: one["load"] for one in found["servers"] if one["load"]}
    for count in sorted({level["in_flight"] for load in loads.values() for level in load["levels"]}):
        here = [(label, level) for label, load in loads.items() if (level := speed.figures(load, count))]
        for row, (label, level) in enumerate(here):
            ratio = _ratio(found["ratios"], label, count)
            table.add_row("" if row else str(count), label, *_figures(level), ratio)
    return table


def _figures(level: LevelEntry) -> Iterator[str]:
    yield formatting.number(level["generated_tokens_per_s"])
    for spread in (level["ttft_s"], level["tpot_s"]):
        for seconds in (spread["p50"], spread["p99"]):
            yield "-" if seconds is None else formatting.short_time(seconds)
    yield f"{level['failed']:,}"


def _ratio(ratios: list[RatioEntry], label: str, count: int) -> Text:
    for entry in ratios:
        if (entry["a"], entry["b"], entry["figure"], entry["in_flight"]) == ("A", label, speed.RATE, (count, count)):
            return Text(f"{entry['ratio']:.3g}{_within(entry)}", style="bold" if speed.is_sure(entry) else "")
    return Text("")


def _within(entry: RatioEntry) -> str:
    """Return half of the interval in percent of the ratio."""
    if entry["low"] is None or entry["high"] is None:
        return ""
    percent = 100 * (entry["high"] - entry["low"]) / 2 / entry["ratio"]
    return f" within {percent:.{0 if percent >= SHOWN_WHOLE else 1}f} %"


def _differences(found: ServersFile) -> Table:
    table = _table("\nchecks that ended differently")
    table.add_column("check", overflow="fold")
    for server in found["servers"]:
        table.add_column(server["label"], overflow="fold")
    for difference in found["differences"]:
        table.add_row(Text(difference["name"]), *_cells(difference, found["servers"]))
    return table


def _cells(difference: DifferenceEntry, servers: list[ServerEntry]) -> Iterator[Text]:
    for server in servers:
        outcome = difference["outcomes"].get(server["label"], "not made")
        style = next((checks.STYLES[each] for each in Outcome if each.value == outcome), "dim")
        detail = one_line(printable(difference["details"].get(server["label"], "")), DETAIL)
        yield Text.assemble((outcome, style), f"\n{detail}")
