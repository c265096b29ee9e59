"""Try an untrusted tokenizer in a separate process, and turn a panic of Rust into an error.

A panic derives from BaseException, so that no ``except Exception`` sees it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.checkpoints.bounded import QUOTED
from launcher.checkpoints.tokenizers.template_process import KEPT
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import TextRefused

SCRIPT = Path(__file__).with_name("probe_worker.py")
CPU_S = 20.0
"""Seconds of computing that opening and trying a tokenizer may take, at least; the largest known take three."""
S_PER_MB = 1.0
PATIENCE = 10
"""A busy machine may take so many times longer than the CPU time."""
MEMORY = 2**30
"""Bytes of memory that a tokenizer may take, besides a multiple of its file's size."""


def probe(file: Path) -> None:
    """Open and try a ``tokenizer.json`` or SentencePiece model in a process of its own.

    Raises `CheckpointError` naming the file if the library refuses it or panics, and if it takes too much.
    """
    cpu_s = CPU_S + S_PER_MB * file.stat().st_size / 10**6
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", str(SCRIPT), str(file), str(cpu_s), str(MEMORY)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            timeout=PATIENCE * cpu_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _unusable(file, f"it computes longer than {cpu_s:.0f} s for short texts") from None
    if ended.returncode == -signal.SIGPROF:
        raise _unusable(file, f"it computes longer than {cpu_s:.0f} s for short texts")
    if ended.returncode or not ended.stdout:
        raise _unusable(file, "its library crashed, or took too much memory")
    reason = json.loads(ended.stdout)["error"]
    if reason is not None and file.suffix != ".json":
        raise CheckpointError(f"{file}: not a SentencePiece model: {reason}")
    if reason is not None:
        raise _unusable(file, str(reason))


@contextmanager
def opening(source: Path | str) -> Iterator[None]:
    """Turn everything that a library raises, a panic included, into one line that names ``source``."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _unusable(source, first_line(error)) from error


@contextmanager
def encoding() -> Iterator[None]:
    """Turn what a library raises for one text, a panic included, into `TextRefused`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TextRefused(f"the model's tokenizer cannot read this text: {first_line(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether an error is Rust's, whose class cannot be imported."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:QUOTED]


def _unusable(source: Path | str, reason: str) -> CheckpointError:
    return CheckpointError(f"{source}: the tokenizer cannot be read: {reason}")
