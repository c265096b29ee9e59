"""The words of a command line that Python values become, and what Hydra reads in them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.python.arguments import check_mode, words
from launcher.settings.overrides import CommandLine

TEXTS = [
    "plain", "with space", "a,b", "a=b", "[x]", "{x}", "it's", 'say "x"', "back\\slash", "tail\\", "null", "true", "1",
    "1e3", "", " edge ", "${x}", "line\nbreak", "ünï ✓", "#hash", "a: b", "~/x", "(x)", "%", "'quoted'",
]  # fmt: skip


def read(key: str, word: str) -> object:
    value = CommandLine.parse([word]).get(key)
    return getattr(value, "text", value)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_reaches_hydra_as_it_is(text: str) -> None:
    (word,) = words((), {"tasks.addition.prompt": text})
    found = read("tasks.addition.prompt", word)
    assert str(found) == text or (found is None and text == "null")


@pytest.mark.parametrize("path", ["/ckpt/step=100,loss=2", "/a b/[x]", "/a'b", "/ckpt/{x}"])
def test_a_path_reaches_hydra_as_it_is(path: str) -> None:
    assert read("model.path", words((), {"model.path": Path(path)})[0]) == path
    assert read("model.path", words((), {"model": Path(path)})[1]) == path


@pytest.mark.parametrize("value", [None, True, False, 3, -1, 2.5, 1e-9, 10**30, [1, "a,b", None], ["x", ["y"]], []])
def test_other_values(value: object) -> None:
    (word,) = words((), {"objective": value})
    found = CommandLine.parse([word]).get("objective")
    plain = [getattr(item, "text", item) for item in found] if isinstance(found, list) else found
    assert plain == value


def test_nan() -> None:
    assert math.isnan(CommandLine.parse(words((), {"evaluate__temperature": math.nan})).get("evaluate.temperature"))


def test_groups_names_and_shorthands() -> None:
    assert words(("tasks=[a]",), {"evaluate": {"limit": 3}, "evaluate__seed": 1, "model": "tiny"}) == [
        "tasks=[a]", "evaluate.limit=3", "evaluate.seed=1", "model=tiny",
    ]  # fmt: skip
    assert words((), {"tasks": "a,b"}) == words((), {"tasks": ["a", "b"]}) == ["tasks=[a,b]"]
    assert words((), {"model": "http://127.0.0.1:1"}) == ["backend=external", "backend.url=http://127.0.0.1:1/v1"]


@pytest.mark.parametrize("value", [object(), {"a": object()}, b"x"])
def test_a_value_that_no_setting_has(value: object) -> None:
    with pytest.raises(UserError, match=r"evaluate\.seed="):
        words((), {"evaluate.seed": value})


def test_an_override_that_is_no_text() -> None:
    with pytest.raises(UserError, match="an override is a text"):
        words((3,), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["mode=serve", "mode=plan", "mode=watch", "mode=proxy", "-m", "--help", "--cfg"])
def test_what_another_function_does(word: str) -> None:
    with pytest.raises(UserError, match="launcher"):
        check_mode([word], "run")
