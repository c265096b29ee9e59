"""The program's entry: a Ctrl-C or SIGTERM while Python still imports is answered like any other."""

from __future__ import annotations

import signal
import sys

from launcher.core.console import tolerant


def main() -> None:
    """Run the program and exit with its code (see docs/reference.md)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    out = tolerant()
    try:
        from launcher.cli.app import launch

        code = launch(sys.argv[1:])
    except KeyboardInterrupt:
        print("launcher: interrupted", file=sys.stderr)
        code = 130
    out.flush()
    if out.failure:
        print(f"launcher: standard output cannot be written: {out.failure}", file=sys.stderr)
        code = code or 1
    sys.exit(code)
