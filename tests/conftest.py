"""What every test may rely on: no network, one thread per torch operation, and no process left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

# A shell's background job starts with SIGINT ignored, and so would every program that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
TOGETHER = ("api/contract", "cluster", "backends/ray", "backends/pytriton")
"""Folders whose tests share servers, and take longest: each is one worker's, and begun with."""

SERVICES = ("api/contract", "cluster", "backends/ray", "backends/pytriton", "backends/command")

# On a busy machine everything is slow, and no fault of a strategy.
hypothesis.settings.register_profile("steady", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def no_orphans() -> Iterator[None]:
    """Fail the session if a process that a test started is still there at its end."""
    yield
    left = [said for p in psutil.Process().children(recursive=True) if (said := _command(p))]
    left = [said for said in left if "resource_tracker" not in said]
    assert not left, f"processes left behind: {left}"


def _command(process: psutil.Process) -> str:
    """Return the command of a process, or its name; empty if it is gone."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:  # a zombie's is one, too
        return ""


class Folder(pytest.Package):
    """A folder of tests: fixtures of scope "package" end with its last one, not with the session.

    pytest wants an ``__init__.py`` for that, which would make a folder the package ``ray`` or ``pytriton`` itself.
    """

    def setup(self) -> None:
        pass


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> Folder:
    found = Folder.from_parent(parent, path=path)
    assert isinstance(found, Folder)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and mark what starts other programs' servers."""
    for item in items:
        if _folder(item.path) in SERVICES:
            item.add_marker(pytest.mark.services)
    items.sort(key=lambda item: TOGETHER.index(folder) if (folder := _folder(item.path)) in TOGETHER else len(TOGETHER))


class Scheduling(LoadScopeScheduling):  # it has no types
    """Gives each worker of pytest-xdist whole files, and whole folders of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return folder if (folder := _folder(TESTS.parent / path)) in TOGETHER else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def _folder(path: Path) -> str:
    return path.parent.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
