"""The scripts that CI runs."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("first", "again", "report"),
    [
        (["a.py::one", "b.py::two"], ["b.py::two"], "UNSTEADY: a.py::one\nbroken: b.py::two\n"),
        (["a.py::one"], [], "UNSTEADY: a.py::one\n"),
        (["a.py::one"], ["c.py::new"], "UNSTEADY: a.py::one\nUNSTEADY: c.py::new\n"),
        ([], [], "INCOMPLETE: the first run named no failed test: it ended early, or failed outside of the tests\n"),
    ],
)
def test_a_failed_test_fails_the_run_even_if_it_passes_again(
    tmp_path: Path, first: list[str], again: list[str], report: str
) -> None:
    """Copies the script, since it looks beside itself for pytest's cache."""
    script = tmp_path / ".ci" / "failures.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "failures.py").read_bytes())
    cache = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps(dict.fromkeys(first, True)))
    subprocess.run([sys.executable, script, "save"], check=True)
    cache.write_text(json.dumps(dict.fromkeys(again, True)))
    done = subprocess.run([sys.executable, script, "compare"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == report
    assert (tmp_path / "build" / "failures.txt").read_text() == report
