"""How the program reacts to SIGINT, SIGTERM and SIGHUP."""

from __future__ import annotations

import signal
from types import FrameType


def interrupt_on_sigterm() -> None:
    """Raise `KeyboardInterrupt` on Ctrl-C, and once on SIGTERM or where the terminal is closed (not under nohup)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    ended = _Once()
    signal.signal(signal.SIGTERM, ended)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ended)


class _Once:
    """Interrupts the run at the first signal; several senders may send more, which must not disturb the tear-down."""

    def __init__(self) -> None:
        self._received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received = True
            signal.raise_signal(signal.SIGINT)
