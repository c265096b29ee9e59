"""The names and the import layers that the architecture promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.app import conf_folder
from launcher.settings.component import COMPONENTS

ROOT = Path(__file__).parent.parent
GROUPS = {"backend": "backends", "engine": "engines", "adapters": "adapters", "tasks": "tasks"}
MODULES = sorted((ROOT / "launcher").rglob("*.py"))


def test_import_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(p for p in COMPONENTS if p.split("/")[0] in GROUPS))
def test_a_component_its_module_and_its_test_share_a_name(path: str) -> None:
    group, name = path.split("/")
    folder = GROUPS[group]
    module = ROOT / "launcher" / folder / name
    assert module.with_suffix(".py").exists() or module.is_dir()
    test = ROOT / "tests" / folder
    assert (test / f"test_{name}.py").exists() or (test / name).is_dir(), f"no test mirrors {module}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text())), f"{module} has no docstring"


HYDRA = re.compile(r"^\s*(from|import) (hydra|omegaconf)\b", re.M)


def test_only_the_composition_knows_hydra() -> None:
    allowed = {"settings/component.py", "settings/overrides.py", "pipeline/config.py"}
    knows = {m.relative_to(ROOT / "launcher").as_posix() for m in MODULES if HYDRA.search(m.read_text())}
    assert {module for module in knows if not module.startswith("cli/")} <= allowed


def test_config_yaml_lists_every_group() -> None:
    listed = (conf_folder() / "config.yaml").read_text()
    for group in (p.name for p in conf_folder().iterdir() if p.is_dir()):
        assert f"- {group}:" in listed
