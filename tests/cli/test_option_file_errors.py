"""What is wrong in an option file of a user's own is one line that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import launch_here

SCHEMA = "defaults:\n  - /schema/tasks/{}\n"
PACKAGE = "# @package tasks.own\n"
GOOD = SCHEMA.format("generation@_here_")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{GOOD}path: x.jsonl\n", "/schema/tasks/generation@_here_ lacks its first line, '# @package tasks.<name>'"),
        (SCHEMA.format("multiple_choice@_here_"), "/schema/tasks/multiple_choice@_here_ lacks its first line"),
        (f"{PACKAGE}{SCHEMA.format('generation')}path: x.jsonl\n", "write /schema/tasks/generation@_here_"),
        (f"{PACKAGE}path: x.jsonl\n", "tasks/own: it includes no schema, so that it has no key 'path'"),
        (f"{PACKAGE}{GOOD}promt: x\n", "tasks/own: no key 'promt' (did you mean prompt?); expected one of path, "),
        (f"{PACKAGE}{SCHEMA.format('generatoin@_here_')}", "no such kind (did you mean generation?); an option file"),
        (f"{PACKAGE}{GOOD}prompt: {{{{q}}}}\n", 'line 4: found unhashable key; a template stands in quotes: "{{...}}"'),
        (f"{PACKAGE}{GOOD}fewshot: five\n", "tasks/own: tasks.own.fewshot: Value 'five' of type 'str' could not be"),
        (
            f"{PACKAGE}{GOOD}stop: x\n",
            "tasks/own: tasks.own.stop: Invalid value assigned: one value is not a ListConfig",
        ),
        (f"{PACKAGE}{GOOD}prompt: '{{{{q'\n", "tasks.own: prompt: template '{{q': line 1: unexpected end"),
        ("path: x.jsonl\n", "tasks/own: its keys have no place; its first line is to be '# @package tasks.<name>'"),
        ("", "own.yaml is empty; it needs defaults: [/schema/tasks/<kind>@_here_]"),
        (f"{PACKAGE}---\n# later\n", "tasks=own: "),
    ],
)
def test_a_mistake_in_an_option_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "options" / "tasks").mkdir(parents=True)
    (tmp_path / "options" / "tasks" / "own.yaml").write_text(text)
    done = launch_here(tmp_path, "--config-dir=options", "tasks=[own]", "mode=plan")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert said in line


def test_an_option_that_is_not_there_may_be_one_of_the_users_own(tmp_path: Path) -> None:
    done = launch_here(tmp_path, "tasks=[own]", "mode=plan")
    assert "; --config-dir=<folder with tasks/own.yaml> adds one of your own" in done.stderr
