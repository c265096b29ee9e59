"""The program's entry: a command or Hydra's grammar. Ctrl-C, SIGTERM and a closed terminal end it in order."""

from __future__ import annotations

import os
import signal
import sys

from launcher.core.console import redraws, status, to_stderr, tolerant


def main() -> None:
    """Run the program and exit with its code (see docs/reference.md)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    out = tolerant()
    try:
        code = dispatch(sys.argv[1:])
    except KeyboardInterrupt:
        to_stderr("launcher: interrupted")
        code = 130
    out.flush()
    if out.failure:
        to_stderr(f"launcher: standard output cannot be written: {out.failure}")
        code = code or 1
    sys.exit(code)


def dispatch(arguments: list[str]) -> int:
    """Run a command, or what Hydra composes; return the exit code. Commands do not import torch."""
    from launcher.cli import commands, completion

    if completion.is_asked(arguments):
        line = completion.complete(os.environ)
        if line is None:
            return 0
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    if arguments and not commands.is_override(arguments[0]):
        done = commands.run(arguments[0], arguments[1:], _launch)
        if isinstance(done, int):
            return done
        arguments = done
    return _launch(arguments)


def _launch(arguments: list[str]) -> int:
    if redraws(sys.stderr):
        status("starting")
    try:
        from launcher.cli.app import launch

        return launch(arguments)
    finally:
        status("")
