"""The scripts that CI runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("ray: restart a hung controller\n\nIts replicas are not replaced otherwise.\n", ""),
        ("Fix race in keeper test for a missing executable\n", ""),
        ("Revert \"ray: restart a hung controller\"\n", ""),
        ("The keeper of a program is looked at while its launcher is there\n", "begins with 'the'"),
        ("ray: restarted a hung controller\n", "begins with 'restarted'"),
        ("ray: restart a hung controller.\n", "full stop"),
        ("ray: restart a hung controller\nits replicas\n", "not empty"),
        ("ray: " + "restart " * 10 + "\n", "85 characters"),
        ("\n", "0 characters"),
    ],
)  # fmt: skip
def test_a_commit_message_has_an_imperative_subject(tmp_path: Path, message: str, fault: str) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    done = subprocess.run([sys.executable, ROOT / ".ci/commit-msg", file], capture_output=True, text=True)
    assert done.returncode == bool(fault)
    assert fault in done.stderr


def test_a_failure_that_does_not_repeat_is_unsteady(tmp_path: Path) -> None:
    """Copies the script, since it looks beside itself for pytest's cache."""
    script = tmp_path / ".ci" / "failures.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "failures.py").read_bytes())
    cache = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"tests/a.py::one": true, "tests/b.py::two": true}')
    subprocess.run([sys.executable, script, "save"], check=True)
    cache.write_text('{"tests/b.py::two": true}')
    done = subprocess.run([sys.executable, script, "compare"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == "UNSTEADY: tests/a.py::one\nbroken: tests/b.py::two\n"
    assert (tmp_path / "build" / "failures.txt").read_text() == done.stdout


@pytest.mark.parametrize(
    ("again", "strict", "code"), [("{}", "", 0), ("{}", "1", 1), ('{"tests/c.py::new": true}', "", 1)]
)
def test_unsteady_tests_fail_a_strict_run(tmp_path: Path, again: str, strict: str, code: int) -> None:
    script = tmp_path / ".ci" / "failures.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "failures.py").read_bytes())
    cache = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"tests/a.py::one": true}')
    subprocess.run([sys.executable, script, "save"], check=True)
    cache.write_text(again)
    environment = {name: value for name, value in os.environ.items() if name != "STRICT"} | {"STRICT": strict}
    assert subprocess.run([sys.executable, script, "compare"], env=environment, capture_output=True).returncode == code
