"""The page of what a command does, in a browser of this machine, while it goes on."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from launcher.core.console import to_stderr
from launcher.pipeline.config import Mode, Run
from launcher.settings.monitor import Monitor

WITHOUT = frozenset({Mode.plan, Mode.convert, Mode.status, Mode.cancel})


class LivePage:
    """The page opens with the first run that has one; the points of a sweep share it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, run: Run, folder: Path) -> None:
        """Show a folder, and print the address, unless that was done or is not wanted. Raises `UserError`."""
        if self._is_open or run.mode in WITHOUT or not is_wanted(run.monitor):
            return
        from launcher.view.serve import served

        address = self._stack.enter_context(served([folder], run.monitor.port))
        self._is_open = True
        to_stderr(f"view: {address}")


def is_wanted(settings: Monitor) -> bool:
    """Tell whether there is a page: on a terminal, with a port of its own, or where it was turned on."""
    return settings.page if settings.page is not None else bool(settings.port) or sys.stderr.isatty()
