"""``launcher logs RUN``: print all logs of a run, merged by time, and follow them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from launcher.cli.commands import parser
from launcher.core.console import printable
from launcher.core.errors import UserError
from launcher.core.log_reader import LEVELS, Line, LogsTail, merged
from launcher.core.run_folder import RunFolder

POLL_S = 0.5


def run(arguments: Sequence[str]) -> int:
    """Print the lines; with ``-f`` until the run has ended, or Ctrl-C. Raises `UserError`."""
    asked = parser("logs")
    asked.add_argument("folder", metavar="RUN", help="the folder of a run")
    asked.add_argument("-f", "--follow", action="store_true", help="go on with what is appended, until the run ends")
    asked.add_argument("--process", metavar="NAME", default="*", help="only these processes, such as 'server*'")
    asked.add_argument("--level", choices=LEVELS, default="debug", help="no lines below this level")
    asked.add_argument("--request-id", metavar="ID", help="only the lines of one request")
    asked.add_argument("--json", action="store_true", help="print the lines as JSON")
    given = asked.parse_args(list(arguments))
    folder, show = Path(given.folder), _shown if not given.json else _json
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected that of a run")
    wanted = _filter(given.process, given.level, given.request_id)
    tail = LogsTail(folder)
    paths = tail.begin()
    if not paths and not given.follow:
        raise UserError(f"{folder}: there are no logs; expected the folder of a run")
    _print(filter(wanted, merged(paths, folder)), show)
    if given.follow:
        _follow(tail, folder, wanted, show)
    return 0


def _follow(tail: LogsTail, folder: Path, wanted: Callable[[Line], bool], show: Callable[[Line], str]) -> None:
    try:
        while True:
            ended = _has_ended(folder)
            _print(filter(wanted, tail.new()), show)
            if ended:
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


def _has_ended(folder: Path) -> bool:
    """Tell whether the last session of a run has written its results."""
    place = RunFolder(folder)
    try:
        return place.results.stat().st_mtime_ns >= place.lease.stat().st_mtime_ns
    except OSError:
        return False


def _filter(process: str, level: str, request_id: str | None) -> Callable[[Line], bool]:
    allowed = LEVELS[LEVELS.index(level) :]

    def wanted(line: Line) -> bool:
        if line.level not in allowed and line.level in LEVELS:
            return False
        if request_id is not None and line.request_id != request_id:
            return False
        return fnmatch(line.process, process) or fnmatch(line.process, f"{process}-*")

    return wanted


def _print(lines: Iterable[Line], show: Callable[[Line], str]) -> None:
    for line in lines:
        print(show(line), flush=False)
    print(end="", flush=True)


def _shown(line: Line) -> str:
    clock = line.time[11:23] or line.time
    id = f"  [{line.request_id}]" if line.request_id else ""
    more = "".join(f" {name}={value}" for name, value in (line.more or {}).items())
    return printable(f"{clock} {line.level:<7} {line.process:<12} {line.event}{more}{id}")


def _json(line: Line) -> str:
    return json.dumps(line.as_json(), ensure_ascii=False)
