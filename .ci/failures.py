"""Tell the tests that failed twice from those that failed once, and write both to ``build/failures.txt``.

Usage: ``failures.py save`` after the first run, ``failures.py compare`` after the second one. Reads pytest's cache.
``compare`` exits with 1 if a test is broken or the first run ended early; with ``STRICT=1`` also if one is unsteady.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
FIRST, REPORT = ROOT / "build" / "failed_first.json", ROOT / "build" / "failures.txt"


def main(verb: str) -> None:
    FIRST.parent.mkdir(exist_ok=True)
    if verb == "save":
        FIRST.write_text(json.dumps(failed()))
        return
    again = set(failed())
    lines = [f"{'broken' if name in again else 'UNSTEADY'}: {name}" for name in json.loads(FIRST.read_text())]
    REPORT.write_text("".join(f"{line}\n" for line in lines))
    print(*lines, sep="\n")
    first = json.loads(FIRST.read_text())
    sys.exit(1 if again or not first or os.environ.get("STRICT") else 0)


def failed() -> list[str]:
    return sorted(json.loads(CACHE.read_text())) if CACHE.exists() else []


if __name__ == "__main__":
    main(sys.argv[1])
