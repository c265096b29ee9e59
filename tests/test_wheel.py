"""The wheel holds all that the program needs, and runs without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_an_installed_wheel_composes_and_runs(tmp_path: Path) -> None:
    out, site, work = tmp_path / "dist", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT, timeout=120)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "launcher/conf/config.yaml").is_file()
    assert list((site / "launcher/assets/tiny").iterdir())
    assert (site / "launcher/py.typed").is_file(), "type checkers would ignore the annotations"
    environment = os.environ | {"PYTHONPATH": str(site)}
    settings = 'engine="echo", model="none", evaluate={"limit": 3}, hydra__run__dir="run"'
    run = [sys.executable, "-c", f"import launcher; print(launcher.run({settings}).status)"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=work, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n"
    assert (work / "run/report.html").is_file()

    for package in ("torch", "megatron", "transformers", "ray", "pytriton", "numpy"):  # those a login node lacks
        (tmp_path / f"lacking/{package}").mkdir(parents=True)
        (tmp_path / f"lacking/{package}/__init__.py").write_text("raise ImportError(__name__)\n")
    environment["PYTHONPATH"] = f"{tmp_path / 'lacking'}:{site}"
    plan = [sys.executable, "-m", "launcher", "mode=plan", "cluster=slurm", "parallelism=tensor2"]
    given = ["cluster.gpus_per_node=8", "hydra.launcher.partition=gpu", "cluster.container_image=a.sqsh"]
    done = subprocess.run([*plan, *given], capture_output=True, text=True, cwd=work, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    for words in (
        "--partition=gpu",
        "--gpus-per-node=2",
        "export PYTHONPATH=",
        f"{site / 'launcher'}:{site / 'launcher'}",
    ):
        assert words in done.stdout
