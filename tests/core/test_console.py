"""A run whose standard streams are closed, full, or left by their reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = f"{sys.executable} {ROOT / 'launch.py'} engine=echo model=none tasks=[addition] hydra.run.dir=run"


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 0, ""),
        ("| head -c 1", 0, ""),
        (">/dev/full", 1, "launcher: standard output cannot be written: No space left on device"),
        (">/dev/full 2>/dev/full", 1, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_a_run_ends_in_order_whatever_becomes_of_its_streams(
    tmp_path: Path, redirected: str, code: int, said: str
) -> None:
    line = f"set -o pipefail; {LINE} {redirected}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith(f"{said}\n" if said else "")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "ok"
    assert results["tasks"]["addition"]["coverage"]["scored"] == 120
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
