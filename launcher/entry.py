"""The program's entry: a Ctrl-C or SIGTERM while Python still imports is answered like any other."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the program and exit with its code (see docs/reference.md)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        from launcher.app import launch

        code = launch(sys.argv[1:])
    except KeyboardInterrupt:
        print("launcher: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
