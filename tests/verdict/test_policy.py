"""A policy file: what it says, and one line for each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.verdict import policy
from launcher.verdict.policy import Bound, DecideBy, Rule


def test_a_policy_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(
        "baseline: runs/base\ncoverage: 0.9\ndecide_by: value\n"
        "tasks: {arc: {acc: {at_least: 0.5, no_worse_by: 0.01}}, 'mmlu_*': {acc: {at_most: 1}}}\n"
    )
    assert policy.read(file) == policy.Policy(
        (
            Rule("arc", "acc", Bound.at_least, 0.5),
            Rule("arc", "acc", Bound.no_worse_by, 0.01),
            Rule("mmlu_*", "acc", Bound.at_most, 1.0),
        ),
        tmp_path / "runs/base",
        0.9,
        DecideBy.value,
    )
    assert policy.read(file, Path("other")).baseline == Path("other")


RULE = "tasks: {a: {acc: {at_least: 0.5}}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["gate.yaml: empty", "baseline, coverage, decide_by, tasks"]),
        ("- a", ["gate.yaml: ['a']"]),
        ("tasks: [", ["gate.yaml: not valid YAML"]),
        ("coverage: 1", ["tasks: empty"]),
        ("tasks: {}", ["tasks: {}"]),
        ("tasks: {a: 1}", ["tasks.a: 1"]),
        ("tasks: {a: {acc: 0.5}}", ["tasks.a.acc: 0.5", "at_least, at_most, no_worse_by"]),
        ("tasks: {a: {acc: {atleast: 0.5}}}", ["tasks.a.acc: atleast", "did you mean at_least?"]),
        ("tasks: {a: {acc: {at_least: high}}}", ["tasks.a.acc.at_least: 'high'", "a number"]),
        ("tasks: {a: {acc: {at_least: true}}}", ["tasks.a.acc.at_least: True"]),
        ("tasks: {a: {acc: {at_least: .nan}}}", ["tasks.a.acc.at_least: nan"]),
        ("tasks: {a: {acc: {no_worse_by: 0.1}}}", ["no_worse_by needs a baseline", "--baseline"]),
        ("baseline: b\ntasks: {a: {acc: {no_worse_by: -1}}}", ["no_worse_by: -1", "0 or more"]),
        (f"coverage: 2\n{RULE}", ["coverage: 2", "from 0 to 1"]),
        (f"decide_by: luck\n{RULE}", ["decide_by: 'luck'", "interval or value"]),
        (f"baseline: 3\n{RULE}", ["baseline: 3"]),
        ("tasks: {a: {acc: {at_least: .inf}}}", ["tasks.a.acc.at_least: inf"]),
        ("tasks: {1: {acc: {at_least: 0.5}}}", ["tasks: the key 1 is no text", "'1' in quotes"]),
        ("tasks:\n  a: {acc: {at_least: 0.9}}\n  a: {acc: {at_least: 0.1}}", ["the key a stands twice", "line 3"]),
        (f"covrage: 1\n{RULE}", ["covrage", "did you mean coverage?"]),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        policy.read(tmp_path / "gate.yaml")
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        policy.read(tmp_path / "gone.yaml")
