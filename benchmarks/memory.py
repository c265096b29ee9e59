"""Show how the memory and the files of an evaluation grow with its samples.

    python benchmarks/memory.py [--sizes 1000 100000] [--kind generation] [--repeats 1]

The server is the mock of ``benchmarks/evaluate.py``, which answers at once. A line has the peak of the resident memory
of the launcher's process, from its start to the report. It also has the size of the files, and the seconds that passed.
``--repeats`` asks each item so often, for the same number of samples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evaluate import IN_FLIGHT, KINDS, ROOT, mock, skipped, write

PEAK = 50
"""MiB by which the largest evaluation may need more than the smallest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--kind", choices=KINDS, default="generation")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    with mock() as url, tempfile.TemporaryDirectory() as temporary:
        peaks = [measured(url, Path(temporary) / str(size), given.kind, size, given.repeats) for size in given.sizes]
    grown = peaks[-1] - peaks[0]
    print(f"the last has {grown:.0f} MiB more than the first, {'within' if grown <= PEAK else 'MORE THAN'} {PEAK} MiB")
    sys.exit(grown > PEAK)


def measured(url: str, folder: Path, kind: str, size: int, repeats: int) -> float:
    """Evaluate so many samples, print what they took, and return the peak of the memory in MiB."""
    write(folder, kind, size // repeats)
    run = folder / "ours"
    paths = [f"--config-dir={folder}", f"hydra.run.dir={run}", f"evaluate.repeats={repeats}"]
    options = ["backend=external", f"backend.url={url}", f"validate.skip={skipped()}", "tasks=[bench]"]
    start = time.perf_counter()
    peak = peak_mib([sys.executable, "launch.py", *paths, *options, f"evaluate.concurrency={IN_FLIGHT}"])
    took_s = time.perf_counter() - start
    sizes = [(run / name).stat().st_size for name in ("samples.jsonl", "report.html")]
    print(
        f"{size:>9,} samples: peak {peak:.0f} MiB, samples.jsonl {sizes[0] / size:,.0f} bytes each, "
        f"report.html {sizes[1] / 1e6:.1f} MB, {took_s:.0f} s",
        flush=True,
    )
    return peak


def peak_mib(command: list[str]) -> float:
    """Run a program to its end and return the peak of its resident memory, as Linux counts it.

    The usage that a parent is told includes that of the parent itself before the program began.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status, found = Path(f"/proc/{process.pid}/status"), 0.0
    while process.poll() is None:
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        found = int(lines[0].split()[1]) / 1024 if lines else found
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{command}: exit {process.returncode}")
    return found


if __name__ == "__main__":
    main()
