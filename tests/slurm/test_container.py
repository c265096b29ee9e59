"""What starts a job's processes in a container, as text: nothing here runs one."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.settings.cluster import Runtime, Slurm
from launcher.slurm.container import container_command


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package; runs are submitted from elsewhere."""
    (tmp_path / "work").mkdir()
    (tmp_path / "site/launcher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "site"


def test_pyxis_is_options_of_srun(code: Path, tmp_path: Path) -> None:
    slurm = Slurm(
        container_image="nvcr.io#nvidia/nemo:25.11",
        container_mounts=["/data", "/scratch:/tmp:ro"],
        environment=["HF_TOKEN", "WANDB_API_KEY"],
    )
    folders = [tmp_path / "sweep" / name for name in ("0", "1")]
    found = container_command(slurm, code, folders, "/models/a", gpus=True, mark=Path("/m"))
    own = [f"{path}:{path}" for path in (tmp_path / "work", tmp_path / "sweep", code / "launcher", Path("/models/a"))]
    assert found.srun_args == [
        "--container-image=nvcr.io#nvidia/nemo:25.11",
        f"--container-mounts={','.join([*own, '/data:/data', '/scratch:/tmp:ro'])}",
        f"--container-workdir={tmp_path / 'work'}",
        "--container-env=HF_TOKEN,WANDB_API_KEY",
    ]


@pytest.mark.parametrize("runtime", [Runtime.apptainer, Runtime.singularity])
def test_apptainer_stands_before_the_command(code: Path, tmp_path: Path, runtime: Runtime) -> None:
    slurm = Slurm(container_image="/images/nemo.sif", container_runtime=runtime, container_workdir="/w")
    found = container_command(slurm, code, [tmp_path / "work/outputs/1"], "", gpus=True, mark=Path("/m"))
    words = shlex.split(found.python)
    binds = f"{tmp_path / 'work'}:{tmp_path / 'work'},{code / 'launcher'}:{code / 'launcher'}"
    assert words[:9] == [runtime.value, "exec", "--nv", "--bind", binds, "--pwd", "/w", "/images/nemo.sif", "sh"]
    assert not found.srun_args
    assert "--nv" not in container_command(slurm, code, [tmp_path], "", gpus=False, mark=Path("/m")).python


def test_the_image_keeps_its_own_path_behind_our_code(code: Path, tmp_path: Path) -> None:
    slurm = Slurm(container_image="x", container_python="printenv")
    found = container_command(slurm, code, [tmp_path], "", gpus=False, mark=Path("/m"))
    environment = {"PYTHONPATH": "/opt/megatron", "PATH": "/usr/bin:/bin"}
    command = ["sh", "-c", f"{found.python} PYTHONPATH"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{code}:/opt/megatron"


def test_a_path_that_cannot_be_mounted_is_refused(code: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a=1,b=2 cannot be mounted"):
        container_command(Slurm(container_image="x"), code, [tmp_path / "a=1,b=2"], "", gpus=False, mark=Path("/m"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"container_mounts": ["/a"]}, "there is no cluster.container_image"),
        ({"container_image": "x", "container_mounts": ["a"]}, "cluster.container_mounts: a: "),
        ({"container_image": "x", "srun_args": ["--container-image=y"]}, "exclude each other"),
        ({"environment": ["KEY=sk-secret"]}, "cluster.environment: KEY: "),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Slurm(**given)
    assert "sk-secret" not in str(caught.value)
