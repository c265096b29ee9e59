"""Measure start-up and the default run: seconds for --help, mode=plan, the first token and the end, and peak memory.

Usage: ``.venv/bin/python benchmarks/startup.py [--rounds 3]``. Each figure is the median over the rounds. The variants
take turns, so that a slow moment of the machine affects all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch.py"


def seconds(*arguments: str, folder: str) -> float:
    """Run the program and return how long it took, in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, str(LAUNCH), *arguments], check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - start


def default_run(folder: str) -> dict[str, float]:
    """Run the main job; ``endpoint.json`` appears after the first real token."""
    out = Path(folder) / "run"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(LAUNCH), f"hydra.run.dir={out}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out / "endpoint.json").exists():
        time.sleep(0.01)
    first = time.perf_counter() - start
    if process.wait() != 0:
        sys.exit(f"the default run failed with status {process.returncode}")
    timings = json.loads((out / "results.json").read_text())["timings"]
    return {"first token": first, "default run": time.perf_counter() - start} | {
        f"  {k}": v for k, v in timings.items()
    }


def main(rounds: int) -> None:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            figures = {"--help": seconds("--help", folder=folder), "mode=plan": seconds("mode=plan", folder=folder)}
            for name, value in (figures | default_run(folder)).items():
                found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"{'seconds':<22}{'median':>9}{'min':>9}{'max':>9}   (of {rounds} rounds)")
    for name, values in found.items():
        print(f"{name:<22}{medians[name]:>9.2f}{min(values):>9.2f}{max(values):>9.2f}")
    print(f"ratio default run / --help: {medians['default run'] / medians['--help']:.1f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the default run: {peak:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
