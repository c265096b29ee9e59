"""The command line is read once, and the text of a path reaches the program as it was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.types import ChoiceSweep
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.errors import UserError
from launcher.settings.overrides import CommandLine

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
CHARACTERS = st.sampled_from("ab1e=,~ []{}()'\"$.:/x-_@#%&*!?;<>|+^")
AWKWARD = st.text(CHARACTERS, min_size=1).filter(lambda text: text[0] != "~")


def values(line: CommandLine, key: str) -> list[Any]:
    """Return the values that a key is swept over, or its only one."""
    found = line.get(key)
    return [getattr(one, "text", one) for one in found.list] if isinstance(found, ChoiceSweep) else [found]


@given(TEXTS)
def test_any_text_comes_back_from_a_run_folder_as_it_was(text: str) -> None:
    stored = yaml.safe_load(yaml.safe_dump(CommandLine().with_("model.path", text).texts))
    assert CommandLine.of(stored).get("model.path") == text


@given(st.lists(AWKWARD, min_size=1))
def test_a_comma_in_a_sweep_separates_unless_it_is_quoted(texts: list[str]) -> None:
    written = [CommandLine().with_("model.path", text).texts[0].removeprefix("model.path=") for text in texts]
    assert values(CommandLine.parse(["-m", f"model.path={','.join(written)}"]), "model.path") == texts


@given(st.text(st.sampled_from("ab1e=,[]{}()$.:/x-_@#%&*!?;<>|+^ "), min_size=1).filter(lambda text: "${" not in text))
def test_a_path_is_typed_without_quotes(text: str) -> None:
    """What Hydra would take for a number, a list or several values is one path."""
    path = f"/nowhere{text}".rstrip()
    for word in ("model.path", "++model.path", "hydra.run.dir", "resume", "run", "convert.output"):
        assert CommandLine.parse([f"{word}={path}"]).get(word.lstrip("+")) == path


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        (["model.path=/x/step=100"], "model.path", ["/x/step=100"]),
        (["-m", "model.path=/x/step=100,/x/step=200"], "model.path", ["/x/step=100", "/x/step=200"]),
        (["model.path=/x/a=1,/x/b", "--multirun"], "model.path", ["/x/a=1", "/x/b"]),
        (["-m", "model.path='/a,b',/c=1"], "model.path", ["/a,b", "/c=1"]),
        (["-m", "hydra.sweep.dir=/a,b"], "hydra.sweep.dir", ["/a,b"]),
        (["-m", "resume=/a,b"], "resume", ["/a,b"]),
        (["model.path='/x/step=100'"], "model.path", ["/x/step=100"]),
        (["model.path=/x/step\\=100"], "model.path", ["/x/step=100"]),
        (["model.path=1e3"], "model.path", ["1e3"]),
        (["backend.host=[::1]"], "backend.host", ["[::1]"]),
        (["backend.address=[::1]:6379"], "backend.address", ["[::1]:6379"]),
        (["model.tokenizer=null"], "model.tokenizer", [None]),
        (["model.path=${watch.folder}"], "model.path", ["${watch.folder}"]),
        (["hydra.run.dir=o/${now:%H,%M}"], "hydra.run.dir", ["o/${now:%H,%M}"]),
        (["watch.folder="], "watch.folder", [""]),
        (["backend.command=serve {checkpoint} --port={port}"], "backend.command", ["serve {checkpoint} --port={port}"]),
        (["backend.url=http://[::1]:8000/v1"], "backend.url", ["http://[::1]:8000/v1"]),
        (["mode=plan"], "mode", ["plan"]),
        (["++mode=plan"], "mode", ["plan"]),
        (['mode="plan"'], "mode", ["plan"]),
        (["mode=run", "mode=plan"], "mode", ["plan"]),
        (["~tasks"], "mode", [None]),
    ],
)
def test_what_is_typed_is_what_is_meant(words: list[str], key: str, expected: list[Any]) -> None:
    assert values(CommandLine.parse(words), key) == expected


def test_home_is_where_a_shell_finds_it() -> None:
    for key in ("model.path", "hydra.run.dir", "watch.folder", "resume"):
        for typed in ("~/x", '"~/x"', "'~/x'"):
            assert values(CommandLine.parse([f"{key}={typed}"]), key) == [str(Path.home() / "x")]


def test_several_paths_without_a_sweep_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    typed = f"model.path={tmp_path}/a,{tmp_path}/b"
    with pytest.raises(UserError, match="several values; sweep over them with -m"):
        CommandLine.parse([typed])
    assert values(CommandLine.parse(["-m", typed]), "model.path") == [f"{tmp_path}/a", f"{tmp_path}/b"]
    Path(f"{tmp_path}/a,{tmp_path}/b").mkdir(parents=True)
    assert CommandLine.parse([typed]).get("model.path") == f"{tmp_path}/a,{tmp_path}/b"


def test_flags_stand_anywhere_and_a_folder_of_options_becomes_absolute() -> None:
    found = CommandLine.parse(["a=1", "-cd", "x", "b=2", "--cfg=job"])
    assert found.arguments == ["--cfg=job", f"--config-dir={Path.cwd() / 'x'}", "a=1", "b=2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["help"], "help: expected group=option or key=value"),
        (["-m", "evaluate.temperature=0", "0.7"], "0.7: expected group=option or key=value"),
        (["--cfg", "foo"], "invalid choice: 'foo'"),
        (["--modle"], "--modle: no such flag"),
    ],
)
def test_what_is_no_setting_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        CommandLine.parse(words)
    assert "\n" not in str(refused.value)


def test_a_line_is_changed_by_making_another() -> None:
    line = CommandLine.parse(["model=tiny", "++model.path=/a", "-m"])
    assert line.keys == {"model", "model.path"}
    assert line.without(lambda key: key == "model").with_("resume", None).texts == ["++model.path=/a", "resume=null"]
    assert line.flagged(config_dir="/c").arguments == ["--multirun", "--config-dir=/c", "model=tiny", "++model.path=/a"]
