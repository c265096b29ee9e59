"""The certificate on the terminal and in the report: what failed, what warns, and what was left out by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from launcher.core.console import printable
from launcher.core.types import Check, Json, Outcome
from launcher.report import formatting

STYLES = {
    Outcome.passed: "green",
    Outcome.failed: "red",
    Outcome.warning: "yellow",
    Outcome.left_out: "yellow",
    Outcome.not_applicable: "dim",
}
WARNINGS = 8
"""At most this many warnings are printed; the report has all."""


def lines(checks: Sequence[Check]) -> Iterator[Text]:
    """Yield what must not be missed: each failed check with its effect, the warnings, and what was left out."""
    for check in _of(checks, Outcome.failed):
        yield Text.assemble(("failed check ", "red"), (check.name, "bold"), f": {printable(check.detail)}")
        if check.effect:
            yield Text(f"  {printable(consequence(check))}", style="dim")
    warnings = _of(checks, Outcome.warning)
    for check in warnings[:WARNINGS]:
        yield Text.assemble(("warning ", "yellow"), (check.name, "bold"), f": {printable(check.detail)}")
    if len(warnings) > WARNINGS:
        yield Text(f"{len(warnings) - WARNINGS} more warnings are in the report", style="yellow")
    if line := left_out(checks):
        yield Text(line, style="yellow")


def left_out(checks: Iterable[Check]) -> str:
    """Name the checks that ``validate.skip`` leaves out; empty without any."""
    names = [check.name for check in checks if check.outcome is Outcome.left_out]
    return f"{formatting.plural(len(names), 'check')} left out by you: {', '.join(names)}" if names else ""


def consequence(check: Check) -> str:
    """Say what the failure of a check does to a score, and the remedy."""
    return f"effect: {check.effect}; remedy: {check.remedy}"


def counted(certificate: Mapping[str, Json]) -> str:
    """Return the counts of ``certificate`` of ``results.json`` on one line, without those that are 0."""
    not_needed = certificate.get("not_needed", 0)
    counts = {
        "passed": certificate.get("passed"),
        "failed": certificate.get("failed"),
        "warned": certificate.get("warnings"),
        "not applicable": certificate.get("not_applicable", 0) - not_needed,
        "not needed by these tasks": not_needed,
        "left out by you": certificate.get("left_out"),
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


@dataclass(frozen=True)
class Part:
    """The checks of a certificate that a page shows together; ``is_open`` where a reader must see them at once."""

    title: str
    is_open: bool
    families: list[tuple[str, list[Check]]]


def parts(checks: Sequence[Check]) -> list[Part]:
    """Split a certificate: what went wrong, what it does not cover, what passed, and what no task needs."""
    outcomes = (Outcome.failed, Outcome.warning, Outcome.left_out)
    wrong = [check for outcome in outcomes for check in checks if check.outcome is outcome]
    found = (
        ("failed, warned or left out", True, wrong),
        (
            "not applicable: the certificate does not cover what they test",
            True,
            [each for each in checks if each.is_impossible],
        ),
        ("passed", False, _of(checks, Outcome.passed)),
        ("not needed by these tasks; mode=validate includes those", False, [each for each in checks if each.unneeded]),
    )
    return [
        Part(f"{formatting.plural(len(members), 'check')} {title}", is_open, families(members))
        for title, is_open, members in found
        if members
    ]


def result(check: Check) -> str:
    """Return the outcome of a check in words; a check that no task needs is told from one that does not apply."""
    return "not needed" if check.unneeded else check.outcome.value


def table(checks: Iterable[Check]) -> Table:
    """Return every check with its outcome, severity and detail, a section for each family."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    found.add_column("check", overflow="fold", min_width=12)
    found.add_column("result", overflow="fold")
    found.add_column("severity")
    found.add_column("time", justify="right", no_wrap=True)
    found.add_column("detail", overflow="fold", ratio=1)
    for family, members in families(checks):
        found.add_row(Text(family, style="bold"))
        for check in members:
            found.add_row(*_row(check))
    return found


def families(checks: Iterable[Check]) -> list[tuple[str, list[Check]]]:
    """Return the checks of each family, in the order of the certificate."""
    every = list(checks)
    names = dict.fromkeys(check.family for check in every)
    return [(name, [check for check in every if check.family == name]) for name in names]


def _row(check: Check) -> tuple[str | Text, ...]:
    said = Text(result(check), style=STYLES[check.outcome])
    return f"  {check.name}", said, check.severity.value, took(check), Text(printable(check.detail))


def took(check: Check) -> str:
    """Write how long a check took; empty for one that sent nothing."""
    return formatting.duration(check.seconds) if check.requests else ""


def _of(checks: Iterable[Check], outcome: Outcome) -> list[Check]:
    return [check for check in checks if check.outcome is outcome]
