"""What every test relies on: no network, one thread per torch operation, and no process left behind."""

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

from tests.fuzzing import examples

# A shell's background job ignores SIGINT, and the programs that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
TOGETHER = ("api/contract", "slurm/cluster", "backends/ray", "backends/pytriton")
"""Folders whose tests share servers. They take longest, so each goes to one worker, before all other tests."""

SERVICES = ("api/contract", "slurm/cluster", "backends/ray", "backends/pytriton", "backends/command")

# A busy machine makes any test slow, so neither a deadline nor the check "too slow" tells about the test.
hypothesis.settings.register_profile(
    "steady", max_examples=examples(50), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def no_orphans() -> Iterator[None]:
    """Fail the session if a process that a test started still runs at its end, and name that test."""
    yield
    left = [line for p in psutil.Process().children(recursive=True) if (line := _described(p))]
    left = [line for line in left if "resource_tracker" not in line]
    assert not left, "processes left behind:\n" + "\n".join(left)


def _described(process: psutil.Process) -> str:
    """Return the command of a process and the test that started it; empty if it has ended."""
    try:
        test = process.environ().get("PYTEST_CURRENT_TEST", "a test").partition(" (")[0]
        return f"{' '.join(process.cmdline()) or process.name()}, started by {test}"
    except psutil.Error:  # a zombie, too, has no environment
        return ""


class Folder(pytest.Package):
    """A folder of tests, whose fixtures of scope "package" end with its last test and not with the session.

    pytest expects an ``__init__.py`` for that, which would make a folder the package ``ray`` or ``pytriton`` itself.
    """

    def setup(self) -> None:
        pass


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> Folder:
    found = Folder.from_parent(parent, path=path)
    assert isinstance(found, Folder)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start other programs' servers, and put the longest folders and files first."""
    for item in items:
        if _folder(item.path) in SERVICES:
            item.add_marker(pytest.mark.services)
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        folder = _folder(item.path)
        return TOGETHER.index(folder) if folder in TOGETHER else len(TOGETHER) + (item.path not in slow)

    items.sort(key=place)


class Scheduling(LoadScopeScheduling):  # it has no types
    """Gives each worker of pytest-xdist whole files, and whole folders of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return folder if (folder := _folder(TESTS.parent / path)) in TOGETHER else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def _folder(path: Path) -> str:
    return path.parent.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
