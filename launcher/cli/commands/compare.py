"""``launcher compare RUN RUN``: say which of several runs is better, and how sure that is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from launcher.cli.commands import parser
from launcher.core.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Print the comparison; return 0. Raises `UserError`, and `SystemExit` after ``--help``."""
    from launcher.verdict import collect, page, runs, terminal

    asked = _parsed(arguments)
    compared = runs.read_all(asked.runs)
    found = collect.collect(compared, force=asked.force, inside=asked.all, left_out=runs.left_out(asked.runs))
    console = Console()
    terminal.show(found, console)
    if asked.out:
        console.print(f"page    {page.write(found, asked.out)}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _parsed(arguments: Sequence[str]) -> Namespace:
    asked = parser("compare")
    asked.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or that of a sweep")
    asked.add_argument("--force", action="store_true", help="compare runs that did not measure the same")
    asked.add_argument("--all", action="store_true", help="also compare the tasks inside of groups")
    asked.add_argument("--out", metavar="FOLDER", type=Path, help="write the comparison there, as a page and as JSON")
    found = asked.parse_args(list(arguments))
    if "" in map(str, arguments):
        raise UserError("compare: RUN is empty")
    return found
