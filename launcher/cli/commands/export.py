"""``launcher export RUN --to FORMAT``: write the results of a run for another program."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.commands import parser
from launcher.core.console import one_line, to_stderr
from launcher.core.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Write the files and print their paths; return 1 if a point of a sweep has no results to be exported.

    Raises `UserError`, and `SystemExit` after ``--help``.
    """
    from launcher.export import formats, source

    asked = _parsed(arguments)
    names = [name.strip() for name in asked.to.split(",") if name.strip()]
    if not names:
        raise UserError(f"export: --to is empty; expected one or more of {', '.join(formats.FORMATS)}")
    formats.check(names, "export: --to")
    found, missing = source.sources(asked.run)
    for name, path in formats.write(found, names, asked.out or asked.run / "export"):
        print(f"{name}: {path}")
    for line in missing:
        to_stderr(f"launcher: export: not exported: {one_line(line)}")
    return 1 if missing else 0


def _parsed(arguments: Sequence[str]) -> Namespace:
    from launcher.export.formats import FORMATS

    asked = parser("export")
    what = "; ".join(f"{name}: {each.about}" for name, each in FORMATS.items())
    asked.add_argument("run", metavar="RUN", type=_folder, help="the folder of a run, or of a sweep")
    asked.add_argument("--to", metavar="FORMAT,...", required=True, help=what.replace("%", "%%"))
    asked.add_argument("--out", metavar="FOLDER", type=Path, help="where to write; default: export in the run folder")
    return asked.parse_args(list(arguments))


def _folder(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)
