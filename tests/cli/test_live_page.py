"""A run's own page: when there is one, and that it goes with the command."""

from __future__ import annotations

import itertools
import re
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from launcher.cli.live_page import is_wanted
from launcher.settings.monitor import Monitor
from launcher.view.serve import served
from tests.running import SLOW, launch_here, program

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("settings", "terminal", "wanted"),
    [
        (Monitor(), True, True),
        (Monitor(), False, False),
        (Monitor(port=8123), False, True),
        (Monitor(page=True), False, True),
        (Monitor(page=False, port=8123), True, False),
    ],
)
def test_a_page_is_for_a_terminal_or_who_asks_for_it(monkeypatch, settings, terminal, wanted):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert is_wanted(settings) is wanted


def test_a_run_shows_itself_until_it_ends(tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), "engine=echo", "model=none", "tasks=[addition]", *SLOW]
    with program([*command, "monitor.page=true", f"hydra.run.dir={tmp_path / 'run'}"], tmp_path) as process:
        told = next(filter(None, (re.match(r"view: (http\S+)", line) for line in process.stderr)))
        with httpx.Client(timeout=60, trust_env=False, follow_redirects=True) as client:
            shown = next(filter(lambda text: "scored of 120" in text, _pages(client, told.group(1))))
        assert "<strong>running</strong>" in shown
        assert "evaluate · " in shown
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 130
    assert not (tmp_path / "run" / "stage.json").exists()


def _pages(client, address):
    """Yield the page again and again, for at most two minutes."""
    deadline = time.monotonic() + 120
    for _ in itertools.takewhile(lambda _: time.monotonic() < deadline, itertools.count()):
        yield client.get(address).text
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing"], "view: missing: no such folder"),
        ([""], "view: FOLDER: is empty"),
        (["--port", "99999"], "view: argument --port: '99999'; must be 0 to 65535"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, arguments, line):
    done = launch_here(tmp_path, "view", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launcher: {line}")
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with served([tmp_path], 0) as address:
        port = str(httpx.URL(address).port)
        done = launch_here(tmp_path, "view", "--port", port, str(tmp_path))
    assert done.stderr.startswith(f"launcher: view: --port {port}: taken by another program")
