"""``launcher view [FOLDER ...]``: show runs in a browser, while they go on and afterwards."""

from __future__ import annotations

import threading
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.commands import parser
from launcher.core.errors import UserError

DEFAULT = ("outputs", "multirun")
"""Where Hydra puts runs and sweeps, unless it is told otherwise."""


def run(arguments: Sequence[str]) -> int:
    """Serve the pages until Ctrl-C; return 0. Raises `UserError`, and `SystemExit` after ``--help``."""
    asked = parser("view")
    asked.add_argument("folders", metavar="FOLDER", nargs="*", help="a run, a sweep, a watch, or what holds several")
    asked.add_argument("--port", type=_port, default=0, metavar="PORT", help="a port of this machine; any free one")
    given = asked.parse_args(list(arguments))
    folders = [Path(each) for each in given.folders] or [Path(each) for each in DEFAULT]
    for folder, text in zip(folders, given.folders, strict=False):
        if not text or not folder.is_dir():
            what = "it is a file" if folder.is_file() else "no such folder" if text else "is empty"
            raise UserError(f"view: {text or 'FOLDER'}: {what}; expected a folder with runs, such as outputs")
    from launcher.view.serve import served

    try:
        with served(folders, given.port) as address:
            print(f"view {address} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except UserError as error:
        raise UserError(f"view: {str(error).replace('monitor.port=', '--port ')}") from None
    return 0


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r}; must be 0 to 65535")
    return int(text)
