"""Runs as jobs of a real SLURM: followed, asked about, cancelled, preempted, out of time, wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.running import SLOW
from tests.slurm.cluster.jobs import (
    ECHO,
    JUDGED,
    ROOT,
    SHORT,
    Environment,
    call,
    finished,
    following,
    job_of,
    left_behind,
    local,
    results,
    samples,
    state,
    submit,
    wait_for,
)


def test_a_submitted_run_scores_as_a_local_one(slurm: Environment, tmp_path: Path) -> None:
    done = submit(slurm, tmp_path / "job", *ECHO)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "job")["tasks"] == local(tmp_path / "here", *ECHO)["tasks"]
    job = job_of(tmp_path / "job")
    for line in (f"slurm: job {job} for ", f"job {job} COMPLETED", "40 of 40"):
        assert line in done.stderr
    assert "exact_match" in done.stdout
    assert not left_behind(tmp_path / "job")


def test_a_server_that_a_command_starts_serves_in_the_job(slurm: Environment, tmp_path: Path) -> None:
    inner = f"{sys.executable} {ROOT}/launch.py mode=serve engine=echo model=none backend.port={{port}}"
    inner += f" hydra.run.dir={tmp_path}/inner"
    done = submit(slurm, tmp_path / "job", "backend=command", f'backend.command="{inner}"', *ECHO[2:])
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "job")["tasks"] == local(tmp_path / "here", *ECHO)["tasks"]
    assert not left_behind(tmp_path / "job")
    assert not left_behind(tmp_path / "inner")


def test_a_run_in_an_awkward_folder_with_its_own_options_and_a_header_is_continued(
    slurm: Environment, tmp_path: Path
) -> None:
    folder, options = tmp_path / "step=100,epoch=2", tmp_path / "my=options" / "evaluate"
    options.mkdir(parents=True)
    (options / "few.yaml").write_text("defaults: [default]\nlimit: 5\n")
    named = ("adapters=[payload]", "+adapters.payload.headers_env.X-Team=MY_HEADER")
    given = (f"--config-dir={options.parent}", "evaluate=few", *SHORT[:3], *named)
    secret = slurm | {"MY_HEADER": "Zx81mnQ4pLs7Rt2Vw9"}
    done = submit(secret, folder, *given, "cluster.timeout_min=5")
    assert done.returncode == 0, done.stderr
    again = call(secret | {"MY_HEADER": "another1header"}, sys.executable, str(ROOT / "launch.py"), f"resume={folder}")
    assert again.returncode == 0, again.stderr
    assert "5 of them" in again.stderr or "5 already done" in again.stderr
    assert results(folder)["tasks"]["addition"]["coverage"]["total"] == 5
    missing = call(slurm, sys.executable, str(ROOT / "launch.py"), f"resume={folder}")
    assert missing.returncode == 1
    assert "headers_env.X-Team=MY_HEADER: this environment variable is not set" in missing.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"Zx81mnQ4pLs7Rt2Vw9" in path.read_bytes()]


APPTAINER = """#!/bin/sh
# What apptainer does, as far as a job can tell: an image without SLURM's commands, that runs what is given.
shift
while :; do case $1 in --nv) shift ;; --bind|--pwd) shift 2 ;; *) break ;; esac; done
shift
PATH={inside} exec "$@"
"""
SECRETS = {"MY_KEY": "sk-do-not-write-me", "HF_TOKEN": "hf_do-not-write-me", "WANDB_API_KEY": "wb-do-not-write-me"}


def with_apptainer(slurm: Environment, folder: Path) -> Environment:
    (folder / "inside").mkdir(parents=True)
    (folder / "inside/sh").symlink_to("/bin/sh")
    (folder / "apptainer").write_text(APPTAINER.format(inside=folder / "inside"))
    (folder / "apptainer").chmod(0o755)
    return slurm | {"PATH": f"{folder}:{slurm['PATH']}"}


def test_a_run_in_a_container_is_queued_again_from_outside_and_writes_no_secret(
    slurm: Environment, tmp_path: Path
) -> None:
    folder, environment = tmp_path / "job", with_apptainer(slurm, tmp_path / "bin") | SECRETS
    container = ("container_image=a.sif", "container_runtime=apptainer", f"container_python={sys.executable}")
    given = (*(f"cluster.{one}" for one in container), "cluster.environment=[HF_TOKEN,WANDB_API_KEY]")
    with following(environment, folder, *SHORT, *SLOW, *given, "backend.api_key_env=MY_KEY") as process:
        wait_for(lambda: len(samples(folder)) >= 3, "samples")
        warn(slurm, folder)
        wait_for(lambda: state(slurm, job_of(folder)) == "PENDING", "the requeue")
        said = finished(slurm, folder, process)
    assert process.returncode == 0, said
    assert json.loads((folder / "slurm/outcome.json").read_text())["restarts"] == 1
    assert not (folder / "slurm/requeue").exists()
    assert results(folder)["tasks"]["addition"]["coverage"]["total"] == 16
    assert not left_behind(folder)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert not [name for name, value in SECRETS.items() if value.encode() in file.read_bytes()], file


def test_a_run_that_is_not_waited_for_is_asked_about_and_cancelled(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    done = submit(slurm, folder, *SHORT, *SLOW, "evaluate.repeats=99", "cluster.wait=false")
    assert done.returncode == 0, done.stderr
    assert f"launcher status {folder}" in done.stderr
    wait_for(lambda: len(samples(folder)) >= 3, "samples")
    launch = (sys.executable, str(ROOT / "launch.py"))
    status = call(slurm, *launch, "mode=status", f"run={folder}")
    assert status.returncode == 0, status.stderr
    assert "RUNNING" in status.stdout
    assert "output   evaluate: " in status.stdout
    kept = len(samples(folder))

    assert call(slurm, *launch, "mode=cancel", f"run={folder}").returncode == 0
    wait_for(lambda: state(slurm, job_of(folder)) == "CANCELLED", "the end of the job")
    assert results(folder)["status"] == "interrupted"
    assert not (folder / "endpoint.json").exists()
    assert len(samples(folder)) >= kept
    assert not left_behind(folder)
    assert "CANCELLED" in call(slurm, *launch, "mode=status", f"run={folder}").stdout


def test_ctrl_c_cancels_the_job(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    with following(slurm, folder, *SHORT, *SLOW, "evaluate.repeats=99") as process:
        wait_for(lambda: len(samples(folder)) >= 1, "samples")
        process.send_signal(2)
        _, said = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert state(slurm, job_of(folder)) == "CANCELLED"
    assert not left_behind(folder)


def warn(slurm: Environment, folder: Path) -> None:
    """Send what SLURM sends some time before the limit."""
    assert call(slurm, "scancel", "--signal=USR2", job_of(folder)).returncode == 0


def preempt(slurm: Environment, folder: Path) -> None:
    """Submit a short job that needs both nodes."""
    call(slurm, "sbatch", "--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")


@pytest.mark.parametrize(("disturb", "run"), [(warn, JUDGED), (preempt, SHORT)], ids=["warn, judge", "preempt"])
def test_a_disturbed_run_loses_no_sample_and_asks_none_twice(
    slurm: Environment, tmp_path: Path, disturb: Callable[[Environment, Path], None], run: Sequence[str]
) -> None:
    folder = tmp_path / "job"
    with following(slurm, folder, *run, *SLOW, "cluster.partition=low") as process:
        wait_for(lambda: len(samples(folder)) >= 3, "samples")
        disturb(slurm, folder)
        wait_for(lambda: state(slurm, job_of(folder)) == "PENDING", "the requeue")
        kept = samples(folder)
        said = finished(slurm, folder, process)
    assert process.returncode == 0, said
    assert "queued again, 1 of 3" in said
    assert json.loads((folder / "slurm/outcome.json").read_text())["restarts"] == 1
    undisturbed = local(tmp_path / "here", *run)
    assert results(folder)["tasks"] == undisturbed["tasks"]
    keys = [(s["task"], s["id"]) for s in samples(folder)]
    assert len(keys) == len(set(keys)) == 16
    for sample in kept:
        assert sample["status"] == "failed" or sample in samples(folder)
    assert not left_behind(folder)


def test_a_wrong_run_ends_at_once_with_its_reason(slurm: Environment, tmp_path: Path) -> None:
    done = submit(slurm, tmp_path / "job", *ECHO, "tasks.addition.path=/nowhere.jsonl")
    assert done.returncode == 1
    assert "/nowhere.jsonl" in done.stderr
    assert f"slurm: {tmp_path / 'job'} failed on the node " in done.stderr
    assert "Traceback" not in done.stderr
    assert state(slurm, job_of(tmp_path / "job")) == "FAILED"


def test_what_the_cluster_refuses_is_said(slurm: Environment, tmp_path: Path) -> None:
    done = submit(slurm, tmp_path / "job", *ECHO, "cluster.partition=nowhere")
    assert done.returncode == 1
    assert "launcher: cluster=slurm: sbatch refused the job" in done.stderr
    assert "Invalid partition name" in done.stderr
    assert "cluster.partition=nowhere; the cluster has partitions main" in done.stderr
    assert done.stderr.count("Invalid partition name") == 1
    assert "Traceback" not in done.stderr


def test_a_job_without_a_result_shows_its_log(slurm: Environment, tmp_path: Path) -> None:
    done = submit(slurm, tmp_path / "job", *ECHO, "cluster.setup=['echo the setup failed >&2', 'exit 7']")
    assert done.returncode == 1
    assert "the setup failed" in done.stderr
    assert "FAILED" in done.stderr


def test_gpus_are_asked_for_as_the_model_needs_them(slurm: Environment, tmp_path: Path) -> None:
    done = submit(slurm, tmp_path / "job", *ECHO, "cluster.gpus_per_node=8")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "job")["run"]["machine"]["gpus"] == 1


def test_a_job_that_sees_fewer_gpus_than_it_asked_for_ends_before_anything_loads(
    slurm: Environment, tmp_path: Path
) -> None:
    done = submit(
        slurm, tmp_path / "job", *ECHO, "cluster.gpus_per_node=8", "+cluster.additional_parameters.gpus_per_node=0"
    )
    assert done.returncode == 1
    assert "cluster.gpus_per_node: the job requested 1 GPUs and sees 0" in done.stderr
    assert not (tmp_path / "job/server.log").exists()


def test_each_point_of_a_sweep_asks_for_its_own_size_and_awaits_its_turn(slurm: Environment, tmp_path: Path) -> None:
    """The launcher's keys are those of hydra-submitit-launcher. Nothing is waited for; the sweep is asked about."""
    launch, folder = (sys.executable, str(ROOT / "launch.py")), tmp_path / "sweep"
    keys = ("hydra.launcher.gpus_per_node=8", "hydra.launcher.array_parallelism=1", "hydra.launcher.name=sizes")
    given = ("cluster=slurm", "cluster.wait=false", "+hydra.launcher.additional_parameters.hold=true", *keys)
    done = call(slurm, *launch, "-m", *given, "parallelism.tensor=1,2,4", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr
    jobs = [job_of(folder / str(n)) for n in range(3)]
    shown = [call(slurm, "scontrol", "show", "job", job).stdout for job in jobs]
    for text, gpus, ahead in zip(shown, (1, 2, 4), (None, *jobs), strict=False):
        assert f"TresPerNode=gres:gpu:{gpus}" in text
        assert f"NumCPUs={gpus} " in text
        assert "JobName=sizes" in text
        assert (f"Dependency=afterany:{ahead}" if ahead else "Dependency=(null)") in text
    asked = call(slurm, *launch, "mode=status", f"run={folder}")
    assert asked.stdout.splitlines()[0] == f"point 0: job {jobs[0]} · PENDING (JobHeldUser) · 0 samples"
    assert call(slurm, *launch, "mode=cancel", f"run={folder}").returncode == 0
    for job in jobs:
        assert state(slurm, job) == "CANCELLED"


def test_a_sweep_is_one_job_for_each_server(slurm: Environment, tmp_path: Path) -> None:
    """The launcher does not wait: mode=status updates the comparison of the points."""
    given = (
        "-m",
        "engine=echo",
        "model=none",
        "evaluate.limit=6",
        "tasks=[addition],[capitals],[sequences]",
        "model.name=a,b",
    )
    launch = (sys.executable, str(ROOT / "launch.py"))
    together, here = tmp_path / "together", tmp_path / "here"
    done = call(slurm, *launch, *given, "cluster=slurm", "cluster.wait=false", f"hydra.sweep.dir={together}")
    assert done.returncode == 0, done.stderr
    done = call(slurm, *launch, *given, f"hydra.sweep.dir={here}")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: all((together / str(n) / "slurm/outcome.json").exists() for n in range(6)), "the end of the jobs")
    status = call(slurm, *launch, "mode=status", f"run={together}")
    assert status.returncode == 0, status.stderr
    there, local_one = (json.loads((folder / "sweep.json").read_text()) for folder in (together, here))
    for key in ("points", "starts"):
        assert [d[key] for d in there["deployments"]] == [d[key] for d in local_one["deployments"]]
    assert [d["starts"] for d in there["deployments"]] == [1, 1]
    assert [p["tasks"] for p in there["points"]] == [p["tasks"] for p in local_one["points"]]
    assert len({job_of(together / str(n)) for n in range(6)}) == 2
    assert "6 of 6 points" in (together / "sweep.html").read_text()
    wait_for(lambda: not left_behind(together), "the end of the jobs' processes, which have left their outcomes")


def test_a_point_that_fails_in_a_job_does_not_lose_the_others(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    paths = "tasks.addition.path=/nowhere.jsonl,package:launcher/assets/tasks/addition.jsonl"
    given = ("-m", "engine=echo", "model=none", "evaluate.limit=6", "tasks=[addition]", paths)
    cluster = ("cluster=slurm", "cluster.poll_s=0.2", f"hydra.sweep.dir={folder}")
    done = call(slurm, sys.executable, str(ROOT / "launch.py"), *given, *cluster)
    assert done.returncode == 1
    assert [p["status"] for p in json.loads((folder / "sweep.json").read_text())["points"]] == ["error", "ok"]


def test_a_cancelled_sweep_is_continued_where_it_was(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    given = ("-m", *SHORT, *SLOW, "evaluate.limit=8", "evaluate.seed=1,2,3", f"hydra.sweep.dir={folder}")
    with following(slurm, folder, *given) as process:
        wait_for(lambda: len(samples(folder / "1")) >= 2, "samples")
        process.send_signal(2)
        _, said = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert not left_behind(folder)
    assert [p["status"] for p in json.loads((folder / "sweep.json").read_text())["points"]] == [
        "ok",
        "interrupted",
        "missing",
    ]
    kept = [s for s in samples(folder / "1") if s["status"] == "scored"]
    done = call(slurm, sys.executable, str(ROOT / "launch.py"), f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stderr
    assert [p["status"] for p in json.loads((folder / "sweep.json").read_text())["points"]] == ["ok"] * 3
    assert all(sample in samples(folder / "1") for sample in kept)
