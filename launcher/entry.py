"""The program's entry: a Ctrl-C while Python still imports is answered like any other."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program and exit with its code (see docs/reference.md)."""
    try:
        from launcher.app import launch

        code = launch(sys.argv[1:])
    except KeyboardInterrupt:
        print("launcher: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
