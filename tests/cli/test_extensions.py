"""Components of other distributions: the examples of docs/extending.md, built as a wheel, installed and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\w+\n(?:# @package [^\n]*\n)?# (?P<file>\S+)\n.*?^```", re.M | re.S)
PACKAGE = "acme_launcher"
ACME = ("engine=constant", "model=none", "backend=plain", "adapters=[retry,shout,summary]", "tasks=[planets,wordings]")


def write_package(folder: Path) -> Path:
    """Write the page's files as a project of their own."""
    text = (ROOT / "docs" / "extending.md").read_text()
    for block in BLOCK.finditer(text):
        name, code = block["file"], block[0].split("\n", 1)[1].removesuffix("```")
        if name.startswith("launcher/"):
            name = f"{PACKAGE}/{Path(name).name}"
        elif name.startswith("conf/"):
            name = f"{PACKAGE}/{name}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    for package in (PACKAGE, f"{PACKAGE}/conf"):
        (folder / package / "__init__.py").touch()
    return folder


def install(project: Path, site: Path) -> Path:
    """Build a wheel and install it into a folder of its own."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(project / "dist")]
    subprocess.run(build, check=True, capture_output=True, cwd=project, timeout=120)
    (wheel,) = (project / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the example, installed from its wheel."""
    folder = tmp_path_factory.mktemp("acme")
    return install(write_package(folder / "project"), folder / "site")


def launch(*arguments: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}:{ROOT}"}
    command = [sys.executable, "-m", "launcher", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)


def test_a_task_an_adapter_an_engine_and_a_backend_run(site: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/planets.jsonl").write_text('{"id": "1", "question": "Is it round?", "answer": "YES!"}\n')
    (tmp_path / "data/wordings.jsonl").write_text('{"wordings": ["Is it round?", "Is its shape round?"]}\n')
    done = launch(*ACME, "hydra.run.dir=run", site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert (found["endpoint"]["backend"], found["endpoint"]["engine"]) == ("plain", "constant")
    assert found["tasks"]["planets"]["metrics"]["exact_match"]["value"] == 1, "the adapter adds the exclamation mark"
    assert found["run"]["versions"]["acme-launcher"] == "1.0"
    assert (tmp_path / "run/sessions.txt").read_text() == "ok\n"
    shown = launch("--help", site=site, cwd=tmp_path).stdout
    for line in (
        "engine: auto, constant, echo",
        "backend: command, external, inline, llama_cpp, nim, plain",
        "planets",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("engine=constnt", ["engine=constnt: no such option (did you mean constant?)", "constant, echo"]),
        ("tasks=[planet]", ["tasks=planet: no such option (did you mean planets?)"]),
        ("adapters.shout.marcs=1", ["adapters.shout.marcs: no such key (did you mean marks?)"]),
        ("backend.stop_timeout_s=nan", ["backend.stop_timeout_s is nan; must be a finite number"]),
    ],
)
def test_mistakes_are_said_as_for_built_in_options(argument: str, words: list[str], site: Path, tmp_path: Path) -> None:
    done = launch(*ACME, "mode=plan", argument, site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert [word for word in words if word not in line] == []


def installed(site: Path, group: str, code: str, options: tuple[str, ...] = ()) -> Path:
    """Write what an installer would leave of a small distribution."""
    info = site / "broken_thing-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-thing\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nthing = broken_thing.code\n")
    (site / "broken_thing/conf").mkdir(parents=True)
    (site / "broken_thing/code.py").write_text(code)
    for package in ("broken_thing", "broken_thing/conf"):
        (site / package / "__init__.py").touch()
    for option in options:
        file = site / f"broken_thing/conf/{option}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}\n")
    return site


@pytest.mark.parametrize("code", ["import no_such_package\n", "1 / 0\n", "raise SystemExit(3)\n", "def\n"])
def test_a_broken_module_ends_only_runs_that_need_it(code: str, tmp_path: Path) -> None:
    site = installed(tmp_path / "site", "launcher.tasks", code, ("tasks/thing",))
    done = launch("mode=plan", "engine=echo", site=site, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = launch("mode=plan", "tasks=[thing]", site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "tasks=thing: no such option" in line
    assert "broken-thing 2.0 cannot be loaded: module broken_thing.code: " in line


@pytest.mark.parametrize("group", ["launcher.task", "launcher.Tasks"])
def test_a_misspelt_group_of_entry_points_is_named(group: str, tmp_path: Path) -> None:
    site = installed(tmp_path / "site", group, "", ("tasks/thing",))
    done = launch("mode=plan", "tasks=[thing]", site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert (
        f"broken-thing 2.0 cannot be loaded: its entry point is of the group {group}; expected launcher.tasks" in line
    )


REGISTERS = """
from launcher.adapters.base import Edit
from launcher.settings.component import component

@component("adapters/thing")
class Thing(Edit):
    marks: int = 1
"""


@pytest.mark.parametrize("options", [(), ("adapter/thing",)])
def test_a_component_without_an_option_file_says_which_file_is_missing(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    site = installed(tmp_path / "site", "launcher.adapters", REGISTERS, options)
    done = launch("mode=plan", "engine=echo", "adapters=[retry,thing]", site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "adapters=thing: no such option: broken-thing 2.0 has the component, but no option file" in line
    assert line.endswith("must ship broken_thing/conf/adapters/thing.yaml, and an empty broken_thing/conf/__init__.py")


def test_a_module_in_no_package_is_told_to_be_in_one(tmp_path: Path) -> None:
    site = installed(tmp_path / "site", "launcher.adapters", "")
    (site / "lone.py").write_text(REGISTERS)
    (site / "broken_thing-2.0.dist-info/entry_points.txt").write_text("[launcher.adapters]\nthing = lone\n")
    done = launch("mode=plan", "engine=echo", "adapters=[thing]", site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "it must ship <package of the module>/conf/adapters/thing.yaml" in line


TAKEN = """
from launcher.adapters.base import Adapter
from launcher.settings.component import component

@component("adapters/retry")
class Retry(Adapter):
    marks: int = 1
"""


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        (TAKEN, (), "component adapters/retry of broken_thing.code has the name of one of launcher.adapters.retry"),
        ("", ("tasks/addition",), "option tasks/addition has the name of one of the launcher"),
    ],
)
def test_a_name_that_is_taken_is_refused_in_one_line(
    code: str, options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    site = installed(tmp_path / "site", "launcher.adapters", code, options)
    done = launch("mode=plan", "engine=echo", site=site, cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert line.startswith(f"launcher: broken-thing 2.0: {words}; uninstall broken-thing, or rename its ")
