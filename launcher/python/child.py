"""The process of a run that Python started: the command line's program, which ends when its parent does."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path


def main(told: int, arguments: list[str]) -> None:
    """Run the program; write the folder of the run or sweep to the descriptor ``told`` as soon as it is known."""
    parent = os.dup(0)  # no program that the run starts may hold it
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.set_inheritable(told, False)
    threading.Thread(target=_interrupt_without, args=(parent,), daemon=True).start()

    from launcher.cli.main import main as program

    if arguments[:1] != ["export"]:
        from launcher.cli.sweep_callback import SweepCallback

        SweepCallback.begun = lambda folder: _tell(told, folder)
    sys.argv = ["launcher", *arguments]
    program()


def _tell(told: int, folder: Path) -> None:
    os.write(told, json.dumps(str(folder.absolute())).encode() + b"\n")


def _interrupt_without(parent: int) -> None:
    """Interrupt the run once the parent has closed its end, at the latest when it is killed."""
    while os.read(parent, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
