"""Every command and snippet in the documentation works as it is written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.adapters.chain import pipeline
from launcher.cli.commands import COMMANDS
from launcher.cli.main import dispatch
from launcher.core.types import Request, Response
from launcher.pipeline.config import Run  # imports, and so registers, every component
from launcher.settings.component import COMPONENTS
from launcher.settings.overrides import in_grammar
from launcher.validate.certificate import CHECKS
from tests.cli.test_conf import composed
from tests.running import launch_here
from tests.validate.faults import FAULTS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:\|[^|\n]*\| `)?(?:\.venv/bin/)?python launch\.py(?P<rest>[^\n`]*)(?:` \|)?$", re.M)
"""A line of a code block, or the last cell of a table's row."""
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<code>.*?)^```", re.M | re.S)
BLOCKS = re.compile(r"^```[^\n]*\n(?P<code>.*?)^```", re.M | re.S)
STAND_INS = {
    "/ckpt/my_nemo": str(ROOT / "launcher/assets/tiny"),
    "/ckpt/my_model": str(ROOT / "launcher/assets/tiny"),
    "/ckpt/model": str(ROOT / "launcher/assets/tiny"),
    "/models/llama": str(ROOT / "launcher/assets/tiny"),
    "backend.api_key_env=MY_KEY": "backend.api_key_env=HOME",
    "X-Team=MY_HEADER": "X-Team=HOME",
}


def commands() -> list[str]:
    pages = (page.read_text().replace("\\\n", " ") for page in PAGES)
    found = {m["rest"].split("#")[0].strip() for page in pages for m in COMMAND.finditer(page)}
    return sorted(
        rest
        for rest in found
        if not any(word in rest for word in ("resume=", "<", "engine=constant", "--config-dir=options"))
    )


@pytest.mark.parametrize("rest", commands())
def test_a_documented_command_can_be_planned(rest: str, tmp_path: Path) -> None:
    for written, here in STAND_INS.items():
        rest = rest.replace(written, here)
    done = launch_here(tmp_path, *shlex.split(rest), "mode=plan")
    if re.search(r"is not installed: pip install|reading it needs the package", done.stderr):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


LINE = re.compile(r"^launcher (?P<rest>[\w-].*)$", re.M)
QUICKER = {"mmlu": "addition", "hellaswag": "capitals"}
"""Tasks whose plan reads many items, and those that stand for them."""
PLANNED = ("eval", "serve", "check", "convert")
"""Commands with ``--plan``."""
FILES_OF_ITS_PAGE = (
    "--config-dir",
    "resume=",
    "<",
    "harness/",
    "my.txt",
    "perplexity.path",
    "my_sums",
    "model.peft=",
    "tuned",
    "iter_0000100",
)
"""What stands in a line that needs a file or a folder which its page makes; such a page has a test of its own."""


def lines_with_commands() -> list[str]:
    pages = [*PAGES, *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
    texts = "\n".join(page.read_text().replace("\\\n", " ") for page in pages)
    found = {re.sub(r" +#.*", "", m["rest"]) for block in BLOCKS.finditer(texts) for m in LINE.finditer(block["code"])}
    found |= set(re.findall(r"`launcher ((?:eval|serve|check) [^`.]+)`", texts))
    return sorted(" ".join(line.split(" || ")[0].split()) for line in found)


@pytest.mark.parametrize("rest", lines_with_commands())
def test_a_documented_line_with_a_command_can_be_planned_or_read(
    rest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for written, here in {**STAND_INS, **QUICKER}.items():
        rest = rest.replace(written, here)
    words = shlex.split(rest)
    name = words[0]
    urls = sum("//" in word for word in words)
    if name in COMMANDS and (name not in PLANNED or urls > 1 or "TARGET" in words or "PATH" in words or "URL" in words):
        assert dispatch([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert [word for word in words if word.startswith("-") and word not in page] == []
        return
    if any(part in rest for part in FILES_OF_ITS_PAGE):
        pytest.skip("its page makes the files, and has a test of its own")
    done = launch_here(tmp_path, *words, "--plan" if name in COMMANDS else "mode=plan")
    if re.search(r"is not installed: pip install|reading it needs the package", done.stderr):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def module_from(code: str, name: str, folder: Path) -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_what_extending_shows_runs_as_it_is_written(tmp_path: Path) -> None:
    """Put the page's files into a copy of the program, and run the page's command."""
    for part in ("launcher", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text()
    codes = [block["code"] for block in BLOCK.finditer(text)]
    written = [_place(code, tmp_path) for code in codes if re.search(r"^# (launcher|conf)/", code, re.M)]
    with (tmp_path / "launcher" / "pipeline" / "components.py").open("a") as components:
        components.writelines(f"import {name}  # noqa\n" for name in written if name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "planets.jsonl").write_text('{"id": "1", "question": "Is it round?", "answer": "YES!"}\n')
    (tmp_path / "data" / "wordings.jsonl").write_text('{"wordings": ["Is it round?", "Is its shape round?"]}\n')

    command = re.search(r"^python launch\.py (?P<rest>engine=constant.*)$", text, re.M)
    assert command is not None
    arguments = [sys.executable, "launch.py", *shlex.split(command["rest"]), "hydra.run.dir=run"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (found["endpoint"]["backend"], found["endpoint"]["engine"]) == ("plain", "constant")
    assert found["tasks"]["planets"]["metrics"]["exact_match"]["value"] == 1
    assert found["tasks"]["wordings"]["metrics"]["agreement"]["value"] == 1
    assert found["groups"]["solar"]["metrics"]["exact_match"]["n"] > 1


def _place(code: str, folder: Path) -> str | None:
    """Write a file that names itself in a comment at its top; return the name of a module."""
    named = re.match(r"(?:# @package .*\n)?# (\S+\.(?:py|yaml))\n", code)
    assert named is not None, code
    (folder / named[1]).write_text(code)
    return named[1].removesuffix(".py").replace("/", ".") if named[1].endswith(".py") else None


def test_troubleshooting_quotes_messages_that_the_program_has() -> None:
    rows = re.findall(r"^\| (?P<first>[^|]+) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    quoted = [message for row in rows for message in re.findall(r"`([a-z][^`.]+ [^`]+)`", row)]
    source = "\n".join(file.read_text() for file in (ROOT / "launcher").rglob("*.py"))
    assert len(quoted) > 12
    assert [message for message in quoted if message not in source] == []


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    text = (ROOT / "docs" / "command_line.md").read_text()
    assert [name for name in COMMANDS if f"launcher {name}" not in text] == []


def test_the_documented_layers_are_those_that_are_held() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| package | what it holds |\n|---|---|\n")[2].partition("\n\n")[0]
    shown = [" | ".join(re.findall(r"`(\w+)`", row.split(" | ")[0])) for row in table.splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    assert shown == [layer.replace("launcher.", "") for layer in contract["layers"]]


@pytest.mark.parametrize(
    ("page", "least"),
    [("peers.md", 50), ("engines.md", 40), ("pytriton.md", 20), ("ray.md", 8), ("slurm.md", 20), ("security.md", 60)],
)
def test_the_tests_named_in_a_table_exist(page: str, least: int) -> None:
    named = set(re.findall(r"`(tests/[^`]+\.py::\w+)`", (ROOT / "docs" / page).read_text()))
    assert len(named) >= least
    gone = [name for name in named if not _is_test(*name.split("::"))]
    assert not gone


def _is_test(file: str, function: str) -> bool:
    path = ROOT / file
    return path.is_file() and re.search(rf"^(async )?def {function}\(", path.read_text(), re.M) is not None


def test_each_adapter_has_a_page_with_its_options_and_an_example_that_composes() -> None:
    ours = {path: cls for path, cls in COMPONENTS.items() if cls.__module__.startswith("launcher.adapters.")}
    index, given = (ROOT / "docs" / "adapters.md").read_text(), []
    for path, cls in ours.items():
        name, page = path.removeprefix("adapters/"), (ROOT / "docs" / f"{path}.md").read_text()
        assert f"[`{name}`]({path}.md)" in index
        for field in fields(cls):
            assert f"| `adapters.{name}.{field.name}` |" in page
        (block,) = BLOCK.finditer(page)
        program, script, choice, *overrides = shlex.split(block["code"])
        assert (program, script) == ("python", "launch.py")
        assert name in choice.removeprefix("adapters=[").removesuffix("]").split(",")
        given += overrides
    names = [path.removeprefix("adapters/") for path in ours]
    assert list(composed(f"adapters=[{','.join(names)}]", *given).adapters) == names


@pytest.mark.parametrize("base", ["Adapter", "Edit"])
async def test_the_documented_adapter_works(base: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    code = next(m["code"] for m in BLOCK.finditer(text) if f"class Shout({base})" in m["code"])
    code = code.replace("adapters/shout", "documented/shout")

    async def answer(request: Request) -> Response:
        return Response(200, {"choices": [{"text": "hello"}]})

    try:
        module = module_from(code, f"documented_shout_{base}", tmp_path)
        handler = pipeline([module.Shout(marks=2)], answer)
        response = await handler(Request("/v1/completions", {"prompt": "x"}))
    finally:
        COMPONENTS.pop("documented/shout", None)
    assert response.body == {"choices": [{"text": "HELLO!!"}]}


def test_the_page_of_the_checks_lists_every_check_and_planted_fault() -> None:
    text = (ROOT / "docs" / "checks.md").read_text()
    assert set(re.findall(r"^\| `[^`]+` \| `(\w+)` \|", text, re.M)) == {check.id for check in CHECKS}
    assert all(f"| {fault.what}" in text for fault in FAULTS)


def test_the_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`(?:launcher/)?([a-z_]+/[a-z_/]*(?:\.py)?)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 20
    assert not [path for path in named if not (ROOT / "launcher" / path).exists() and not (ROOT / path).exists()]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_every_link_of_a_page_outside_the_site_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert not [link for link in links if not (ROOT / link).is_file()]


KEY = re.compile(
    r"\b(adapters\.\w+|backend|cluster|engine|evaluate|model|optimizations|parallelism|validate|watch)\.([a-z_]+)"
)
NO_KEYS = {"cpp", "gguf", "html", "json", "py", "safetensors", "yaml", "cuda_graphs", "marks"}
"""Endings of files, a field of ``results.json``, and a setting of the page's own adapter."""


def test_every_setting_that_a_page_names_exists() -> None:
    groups = {f.name for f in fields(Run)}
    known = {(part, f.name) for path, cls in COMPONENTS.items() for f in fields(cls) for part in _spellings(path)}
    assert {part for part, _ in known if "." not in part} <= groups
    named = {
        found for page in PAGES for code in re.findall(r"`[^`\n]+`", page.read_text()) for found in KEY.findall(code)
    }
    assert len(named) > 80
    assert not {".".join(key) for key in named - known if key[1] not in NO_KEYS}


GIVEN = re.compile(rf"(?<![\w./])\+?((?:{'|'.join(f.name for f in fields(Run))})(?:\.\w+)+)=([^\s`]+)")
NO_VALUES = {"N", "M", "x,4"}
"""Stand-ins for a value, and one that a page shows as wrong."""


def test_every_value_that_a_page_gives_a_setting_is_of_its_type() -> None:
    pages = [*PAGES, *sorted((ROOT / "docs").glob("[at]*/*.md"))]
    codes = {
        code for page in pages if page.name != "reference.md" for code in re.findall(r"`[^`\n]+`", page.read_text())
    }
    given = {found for code in codes for found in GIVEN.findall(code.strip("`"))}
    checked = {
        (key, value) for key, value in given if not re.search("[<'\"{]|\\.\\.\\.", value) and value not in NO_VALUES
    }
    assert len(checked) > 60
    assert [
        f"{key}={value}" for key, value in sorted(checked) if not (_takes(key, value) or key.endswith(".marks"))
    ] == []


def _takes(key: str, value: str) -> bool:
    """Tell whether a component with such a key takes a value, or each of those of a sweep."""
    parts = key.split(".")
    depth = 2 if parts[0] in ("adapters", "tasks", "groups") else 1
    kinds = [cls for path, cls in COMPONENTS.items() if path.split("/")[0] == parts[0]]
    read = OverridesParser.create().parse_override(in_grammar(f"{key}={value}", sweeps=True)).value()
    return any(
        all(_is_taken(kind, parts[depth:], one) for one in (read.list if isinstance(read, ChoiceSweep) else [read]))
        for kind in kinds
        if parts[depth] in {f.name for f in fields(kind)}
    )


def _is_taken(kind: type, names: list[str], value: object) -> bool:
    try:
        OmegaConf.update(OmegaConf.structured(kind), ".".join(names), value, force_add=len(names) > 1)
    except OmegaConfBaseException:
        return False
    return True


def _spellings(path: str) -> tuple[str, str]:
    return path.split("/")[0], path.replace("/", ".")


def test_the_walkthrough_of_an_own_task_runs_as_it_is_written(tmp_path: Path) -> None:
    """Write the page's files into an empty folder, and run the page's commands there."""
    text = (ROOT / "docs" / "tasks.md").read_text().partition("## Your own task")[2].partition("\n## ")[0]
    files = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.M | re.S)
    assert len(files) == 5
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    plan, run = re.findall(r"^launcher (.*--config-dir=options tasks=\[rivers.*)$", text, re.M)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for rest in (plan, f"{run} hydra.run.dir=run"):
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *shlex.split(rest)],
            capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]
    assert found["rivers"]["coverage"]["scored"] == 3
    assert found["capitals_of"]["metrics"]["close"]["value"] == 1.0, "the page says that the model knows them"
    assert set(found["capitals_of"]["metrics"]) == {"close", "words"}
    assert found["capitals_of"]["coverage"]["scored"] == 3
