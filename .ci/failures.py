"""Label each failed test "broken" or "unsteady" after a second run, and write the list to ``build/failures.txt``.

Usage: ``failures.py save`` after the first run, ``failures.py compare`` after the second one. Both read pytest's cache.
``compare`` always exits with 1, because the first run decides: an unsteady test is a fault, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
FIRST, REPORT = ROOT / "build" / "failed_first.json", ROOT / "build" / "failures.txt"
INCOMPLETE = "INCOMPLETE: the first run named no failed test: it ended early, or failed outside of the tests"


def main(verb: str) -> None:
    FIRST.parent.mkdir(exist_ok=True)
    if verb == "save":
        FIRST.write_text(json.dumps(failed()))
        return
    lines = labels(json.loads(FIRST.read_text()), failed())
    REPORT.write_text("".join(f"{line}\n" for line in lines))
    sys.exit("\n".join(lines))


def failed() -> list[str]:
    """Return the tests that pytest's last run left as failed."""
    return sorted(json.loads(CACHE.read_text())) if CACHE.exists() else []


def labels(first: list[str], again: list[str]) -> list[str]:
    """Return a line for each test that failed in the first run or in the second one."""
    lines = [f"{'broken' if name in again else 'UNSTEADY'}: {name}" for name in first] or [INCOMPLETE]
    return lines + [f"UNSTEADY: {name}" for name in again if name not in first]


if __name__ == "__main__":
    main(sys.argv[1])
