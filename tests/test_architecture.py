"""The names and the import layers that the architecture promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.core.files import conf_folder
from launcher.core.run_folder import File, RunFolder
from launcher.settings.component import COMPONENTS

ROOT = Path(__file__).parent.parent
GROUPS = {"backend": "backends", "engine": "engines", "adapters": "adapters", "tasks": "tasks"}
MODULES = sorted((ROOT / "launcher").rglob("*.py"))


def test_import_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_http_server_loads_no_engine() -> None:
    """What a proxy imports of it, and what that imports, has nothing of an engine or of the API over one."""
    modules = [f"launcher.asgi.{path.stem}" for path in (ROOT / "launcher" / "asgi").glob("[a-z]*.py")]
    found = f"import sys, {', '.join(modules)}; print(*(m for m in sys.modules if m.startswith('launcher.')))"
    loaded = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert {name.split(".")[1] for name in loaded.split()} <= {"asgi", "core", "settings"}


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
    workers = {"proxy/supervisor.py", "proxy/worker.py"}  # these pass typed settings to other processes
    allowed = {"settings/component.py", "settings/overrides.py", "pipeline/config.py", *workers}
    knows = {m.relative_to(ROOT / "launcher").as_posix() for m in MODULES if HYDRA.search(m.read_text())}
    assert {module for module in knows if not module.startswith("cli/")} <= allowed


def _strings(module: Path) -> Iterator[ast.Constant]:
    """Yield the strings of a module that are not docstrings."""
    tree = ast.parse(module.read_text())
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            yield node


def test_only_the_run_folder_knows_the_names_of_its_files() -> None:
    names = [file.name for file in vars(RunFolder).values() if isinstance(file, File) for file in [file.relative]]
    told = re.compile(
        rf"(?<![\w.-])({'|'.join(map(re.escape, (name for name in names if '.' in name)))})(?![\w-]|[.]\w)"
    )
    modules = [*MODULES, *(ROOT / "hydra_plugins").rglob("*.py")]
    found = [
        f"{module.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for module in modules
        if module != ROOT / "launcher" / "core" / "run_folder.py"
        for node in _strings(module)
        if told.search(str(node.value))
    ]
    assert len(names) > 20
    assert not found


@pytest.mark.parametrize(
    ("text", "module"),
    [("fsync(", "core/files.py"), ('}.partial"', "core/files.py"), ("file=sys.stderr", "core/console.py")],
)
def test_one_module_replaces_files_and_one_prints_on_standard_error(text: str, module: str) -> None:
    plugins = (ROOT / "hydra_plugins").rglob("*.py")
    assert [found for found in (*MODULES, *plugins) if text in found.read_text()] == [ROOT / "launcher" / module]


def test_config_yaml_lists_every_group() -> None:
    listed = (conf_folder() / "config.yaml").read_text()
    for group in (p.name for p in conf_folder().iterdir() if p.is_dir()):
        assert f"- {group}:" in listed
