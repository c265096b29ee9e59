"""Measure sweeps: shared servers against one per point, the launcher's own work, and the time to a SLURM job's start.

Usage: ``.venv/bin/python benchmarks/sweep.py [--rounds 3] [--points 25,100,200] [--parts small,large,overhead,slurm]``.
Each figure is the median over the rounds. The variants take turns, so that a slow moment of the machine affects all of
them. CPU seconds count all processes. ``small`` and ``large`` are 12 points over 2 models, the shipped one and
SmolLM2-135M. The launcher's own work is measured on the real program, with an ``sbatch`` that only prints a number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = (sys.executable, str(ROOT / "launch.py"))
TWELVE = ("tasks=[addition],[capitals],[sequences]", "evaluate.temperature=0,0.7", "model.name=a,b")
MODELS = {
    "small": ("model=tiny", "evaluate.limit=20"),
    "large": ("model=smollm2", "evaluate.limit=4", "evaluate.min_coverage=0"),
}
STAND_IN = {"sbatch": "echo Submitted batch job $$", "srun": "true", "squeue": "echo 'COMPLETED|None'"}
Figures = dict[str, float]


def run(*arguments: str, folder: str, env: Mapping[str, str] | None = None) -> Figures:
    """Run the program to its end; return its wall time and the CPU time of all its processes, in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*LAUNCH, *arguments], capture_output=True, text=True, cwd=folder, env=env)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return {"wall": wall, "cpu": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}


def twelve(launcher: str, model: tuple[str, ...]) -> Figures:
    """Run 12 points over 2 models, which differ in their names only; return the figures and the servers' starts."""
    with tempfile.TemporaryDirectory() as folder:
        figures = run("-m", *TWELVE, *model, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}/s", folder=folder)
        found = json.loads((Path(folder) / "s" / "sweep.json").read_text())
        assert [point["status"] for point in found["points"]] == ["ok"] * 12
        return figures | {"servers": float(sum(one["starts"] for one in found["deployments"]))}


def submitted(points: int) -> Figures:
    """Compose, group and submit points over 2 models."""
    with tempfile.TemporaryDirectory() as folder:
        for name, does in STAND_IN.items():
            (Path(folder) / name).write_text(f"#!/bin/sh\n{does}\n")
            (Path(folder) / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        swept = (f"evaluate.seed=range(0,{points // 2})", "model.name=a,b", f"hydra.sweep.dir={folder}/s")
        given = ("engine=echo", "model=none", "cluster=slurm", "cluster.wait=false")
        return run("-m", *given, *swept, folder=folder, env=environment)


def first_sample(environment: Mapping[str, str], points: int, *arguments: str) -> Figures:
    """Return the seconds from the command to the first sample of the last of ``points`` that each need a server.

    Of a job also those from the command to its submission, from there to its start, and from there to its sample.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder) / "run", time.time()
        swept = ("-m", f"model.name={','.join(map(str, range(points)))}") if points > 1 else ()
        given = ("engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=4", f"hydra.run.dir={out}")
        command = [*LAUNCH, *given, f"hydra.sweep.dir={out}", *arguments, *swept]
        quiet = subprocess.DEVNULL
        runs = [out / str(n) for n in range(points)] if points > 1 else [out]
        with subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=quiet, stderr=quiet) as process:
            while not all(_has_line(one / "samples.jsonl") for one in runs):
                if process.poll() not in (None, 0):
                    sys.exit(f"{' '.join(command)} ended with {process.returncode}")
                time.sleep(0.01)
            now = time.time()
        return {"all": now - start} | (_way(Path(folder), runs[-1], start, now) if "cluster=slurm" in arguments else {})


def _way(folder: Path, run: Path, start: float, now: float) -> Figures:
    """Split the time of a job; its first command wrote the start time into ``folder``, where it was submitted."""
    submitted = (run / "slurm" / "job.json").stat().st_mtime
    begun = float((folder / f"started.{_job(run)}").read_text())
    return {"launcher": submitted - start, "SLURM": begun - submitted, "job": now - begun}


def _job(run: Path) -> str:
    return str(json.loads((run / "slurm" / "job.json").read_text())["job_id"])


def _has_line(file: Path) -> bool:
    return file.exists() and b"\n" in file.read_bytes()


def medians(rounds: int, variants: Mapping[str, Callable[[], Figures]]) -> dict[str, Figures]:
    """Measure the variants in turns; return the median of each figure."""
    found: dict[str, list[Figures]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            found[name].append(measure())
    return {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in found.items()
    }


def compare_launchers(rounds: int, name: str) -> None:
    variants = {launcher: lambda launcher=launcher: twelve(launcher, MODELS[name]) for launcher in ("shared", "basic")}
    found = medians(rounds, variants)
    print(f"12 points, 2 {name} models{'servers':>12}{'wall s':>10}{'CPU s':>10}")
    for launcher, figures in found.items():
        print(f"  launcher={launcher:<16}{figures['servers']:>10.0f}{figures['wall']:>10.1f}{figures['cpu']:>10.1f}")
    shared, basic = found["shared"], found["basic"]
    print(f"  basic / shared: wall {basic['wall'] / shared['wall']:.2f}, CPU {basic['cpu'] / shared['cpu']:.2f}")


def measure_overhead(rounds: int, counts: list[int]) -> None:
    found = medians(rounds, {str(n): lambda n=n: submitted(n) for n in (2, *counts)})
    base = found["2"]["cpu"]
    print(f"compose, group, submit{'wall s':>10}{'CPU s':>10}{'CPU ms per point':>20}")
    for n in counts:
        each = (found[str(n)]["cpu"] - base) / (n - 2) * 1000
        print(f"  {n:>4} points{'':<10}{found[str(n)]['wall']:>8.1f}{found[str(n)]['cpu']:>10.1f}{each:>20.1f}")
    print(f"     2 points{'':<10}{found['2']['wall']:>8.1f}{base:>10.1f}")


def measure_slurm(rounds: int) -> None:
    sys.path.insert(0, str(ROOT))
    from _pytest.outcomes import Skipped

    from tests.slurm.cluster.conftest import cluster

    try:
        with cluster(1, "b") as environment:
            setup = "cluster.setup=['date +%s.%N > $SLURM_SUBMIT_DIR/started.$SLURM_JOB_ID']"
            there = (environment, "cluster=slurm", "cluster.poll_s=0.2", setup)
            variants = {
                "local run": lambda: first_sample(os.environ, 1),
                "a job": lambda: first_sample(there[0], 1, *there[1:]),
                "two jobs": lambda: first_sample(there[0], 2, *there[1:]),
            }
            found = medians(rounds, variants)
    except Skipped as reason:
        print(f"first sample of a job: skipped: {reason}")
        return
    print(f"seconds to the first sample{'in all':>9}{'launcher':>10}{'SLURM':>8}{'job':>8}")
    for name, figures in found.items():
        way = (f"{figures[part]:.1f}" if part in figures else "-" for part in ("launcher", "SLURM", "job"))
        print("  {:<25}{:>9.1f}{:>10}{:>8}{:>8}".format(name, figures["all"], *way))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", default="25,100,200")
    parser.add_argument("--parts", default="small,large,overhead,slurm")
    options = parser.parse_args()
    print(f"load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; medians of {options.rounds} rounds")
    parts = options.parts.split(",")
    for name in MODELS:
        if name in parts:
            compare_launchers(options.rounds, name)
    if "overhead" in parts:
        measure_overhead(options.rounds, [int(n) for n in options.points.split(",")])
    if "slurm" in parts:
        measure_slurm(options.rounds)


if __name__ == "__main__":
    main()
