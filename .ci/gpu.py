"""Prove on a GPU what the documentation says of GPUs: ``python .ci/gpu.py [run] [tests] [bench]``, by default all.

``run`` is the default job with ``optimizations=gpu``, ``tests`` are those marked ``gpu``, and ``bench`` is
``benchmarks/gpu.py``. Each part has a limit of its own and writes a log into ``build/gpu/``, so that one that hangs or
fails costs only itself. Without a GPU nothing starts, and the exit code is 1. ``--rehearse`` runs the same on a CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "gpu"
NO_GPU = "gpu: nvidia-smi finds no NVIDIA GPU here; nothing was run (--rehearse runs the same on a CPU)"
ASK = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader")
TORCH = "import torch; print(torch.__version__, 'sees', torch.cuda.device_count(), 'GPUs')"


@dataclass(frozen=True)
class Part:
    """A command of the proof, and the seconds that it may take."""

    name: str
    limit_s: float
    command: Sequence[str]


def parts(rehearse: bool) -> list[Part]:
    bench = ("benchmarks/gpu.py", "--rehearse") if rehearse else ("benchmarks/gpu.py", "--repeats", "3")
    return [
        Part("run", 180, ("launch.py", "optimizations=gpu")),
        Part("tests", 300, ("-m", "pytest", "-q", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider", "tests")),
        Part("bench", 300, bench),
    ]


def gpus() -> str:
    """Return what nvidia-smi says of the GPUs, empty if there are none."""
    try:
        asked = subprocess.run(ASK, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def torch() -> str:
    """Return the version of torch in this environment, and how many GPUs it sees."""
    return "torch " + subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True).stdout.strip()


def passed(part: Part) -> bool:
    """Run a part, print how it ended and the end of its log."""
    log, start = LOGS / f"{part.name}.log", time.monotonic()
    with log.open("w") as output:
        how = _end((sys.executable, *part.command), part.limit_s, output)
    print(f"== {part.name}: {how or 'passed'} after {time.monotonic() - start:.0f} s ({log.relative_to(ROOT)})")
    print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    return not how


def _end(command: Sequence[str], limit_s: float, output: IO[str]) -> str:
    """Run a command and all that it starts; return how it failed, empty if it did not."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        code = started.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, 9)
        started.wait()
        return f"stopped at its limit of {limit_s:.0f} s"
    return f"exit code {code}" if code else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in parts(False)]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to run: {', '.join(names)}; all by default")
    parser.add_argument("--find", action="store_true", help="only look for a GPU, before anything is installed")
    parser.add_argument("--rehearse", action="store_true", help="run the parts on a CPU, to see that they start")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"{unknown[0]}: no such part; expected {', '.join(names)}")
    found = gpus()
    if not found and not options.rehearse:
        sys.exit(NO_GPU)
    if options.find:
        return
    seen = torch()
    if not options.rehearse and seen.endswith("sees 0 GPUs"):  # the tests would be skipped, and the run take the CPU
        sys.exit(f"gpu: {seen}, but nvidia-smi finds {found}; install a torch for the CUDA of its driver")
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"{found or 'no GPU: a rehearsal'}\n{seen}", flush=True)
    chosen = [part for part in parts(options.rehearse) if part.name in (options.parts or names)]
    ended = [passed(part) for part in chosen]  # each part, also after one that failed
    sys.exit(not all(ended))


if __name__ == "__main__":
    main()
