"""``launcher help``, ``models``, ``engines``, ``backends`` and ``adapters`` describe every group, option and key."""

from __future__ import annotations

import re

import pytest

from launcher.cli.main import dispatch
from launcher.cli.options import options_of
from launcher.cli.setting_help import settings_of
from launcher.cli.setting_pages import names
from launcher.pipeline.config import Run
from launcher.settings.component import COMPONENTS


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert dispatch(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(path for path, cls in COMPONENTS.items() if cls.__module__.startswith("launcher."))
)
def test_every_key_says_what_it_means(path: str) -> None:
    assert not [setting.key for setting in settings_of(COMPONENTS[path]) if not setting.meaning]


def test_every_group_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(names()) > 15
    assert [name for name in names() if len(printed(capsys, "help", name).strip()) < 30] == []


@pytest.mark.parametrize(
    ("command", "group"),
    [("models", "model"), ("engines", "engine"), ("backends", "backend"), ("adapters", "adapters")],
)
def test_a_list_has_a_line_for_each_option_and_a_page_for_each(
    command: str, group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = printed(capsys, command)
    for option in options_of(group):
        assert re.search(rf"^  {option} +\S", listed, re.M)
        page = printed(capsys, command, option)
        assert page.startswith(f"{group}/{option}: ")
        assert page == printed(capsys, "help", group, option) == printed(capsys, "help", f"{group}={option}")


@pytest.mark.parametrize(
    "path", sorted(path for path, cls in COMPONENTS.items() if cls.__module__.startswith("launcher."))
)
def test_every_key_says_what_it_takes(path: str) -> None:
    assert not [setting.key for setting in settings_of(COMPONENTS[path]) if setting.type in ("Any", "any value")]


@pytest.mark.parametrize("group", ["adapters", "tasks", "convert"])
def test_a_word_that_is_a_command_and_a_group_shows_both(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "help", group)
    assert page.startswith(f"usage: launcher {group}")
    assert page.partition("As settings:")[2].strip()


@pytest.mark.parametrize("group", ["evaluate", "validate", "cluster", "judge", "optimizations", "parallelism", "proxy"])
def test_a_group_has_a_page(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "help", group)
    assert f"{group}." in page or "OPTION" in page


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("evaluate.concurrency", ["default 16", "or auto", "how many requests are in flight"]),
        ("backend.replicas", ["default 1"]),
        ("adapters.caching.max_gib", ["float, above 0", "default 10.0"]),
        ("evaluate.budget.usd", ["float or null", "default null"]),
        ("tasks.generation.max_tokens", ["int"]),
        ("mode", ["one of run, serve", "default run", "`plan` starts nothing"]),
        ("evaluate.until", ["width:NUMBER, or a mapping", "It is such as `width:0.02`"]),
        ("tasks.generation.match", ["one of exact_match, contains", "or a list of them"]),
        ("evaluate.budget", ["evaluate.budget.usd float", "evaluate.budget.tokens int"]),
    ],
)
def test_a_key_has_its_type_range_default_and_meaning(
    key: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = " ".join(printed(capsys, "help", key).split())
    assert page.startswith(key)
    assert not [word for word in words if word not in page], page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["help", "evaluate.concurency"], "did you mean evaluate.concurrency"),
        (["help", "enginees"], "no such command, group or key (did you mean "),
        (["engines", "megatorn"], "engine has no option megatorn (did you mean megatron?); expected one of auto, echo"),
        (["help", "engine", "x", "y"], "expected a command, a group with at most one option, or one key"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said


def test_the_run_has_a_page_of_the_keys_without_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "help", "run")
    own = [setting.key for setting in settings_of(Run, deep=False) if setting.key in ("mode", "resume", "run")]
    assert own == ["mode", "resume", "run"]
    assert all(re.search(rf"^  {key}   ", page, re.M) for key in own)


def test_the_name_of_an_option_leads_to_its_page_also_without_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    for option, group in (("capitals", "tasks"), ("gpu", "optimizations")):
        assert printed(capsys, "help", option) == printed(capsys, "help", group, option)
    several = printed(capsys, "help", "none")
    assert several.startswith("none is an option of several groups:")
    assert re.findall(r"launcher help (\S+)", several) == ["engine/none", "judge/none", "model/none"]
