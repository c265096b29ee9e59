"""The Triton kernel of decode steps, in a process in which Triton interprets: that is decided at its import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
CASES = Path(__file__).with_name("interpreted_paged_decode.py")


def interpreted(*arguments: str) -> str:
    """Run the cases in a process of their own; return the last line of what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_it_is_exact_for_the_shapes_of_models() -> None:
    assert "passed" in interpreted("-m", "not soak")


@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_an_engine_answers_the_same_with_it() -> None:
    assert "3 passed" in interpreted("-m", "soak")
