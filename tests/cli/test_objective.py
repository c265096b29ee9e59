"""What a sweeper is told of a point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.hydra_launchers import check_sweeper
from launcher.cli.objective import value
from launcher.core.errors import UserError

ONE = {"a": {"exact_match": 0.5, "f1": 0.75}}
TWO = ONE | {"b": {"acc": 0.25}}


def metric(name: str, value: float) -> dict[str, Any]:
    return {"value": value, "direction": "lower" if name in ("loss", "word_perplexity") else "higher"}


def point(folder: Path, tasks: dict[str, dict[str, float]], status: str = "ok", groups: Any = None) -> Path:
    found = {
        task: {"metrics": {name: metric(name, value) for name, value in metrics.items()}}
        for task, metrics in tasks.items()
    }
    rest: dict[str, Any] = {"reason": None, "run": {}, "endpoint": None, "throughput": None, "certificate": None}
    whole = rest | {"schema_version": 2, "status": status, "groups": groups or {}, "tasks": found}
    (folder / "results.json").write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize(
    ("tasks", "objective", "expected"),
    [
        (ONE, None, 0.5),
        (TWO, None, 0.375),
        ({"a": {"loss": 2.0}, "b": {"word_perplexity": 4.0}}, None, 3.0),
        (TWO, "a.f1", 0.75),
        (TWO, ["b.acc", "a.f1"], [0.25, 0.75]),
        ({"a": {"f1,v1.5": 0.5}}, "a.f1,v1.5", 0.5),
        ({"a": {}}, "a.f1", None),
        (TWO | {"c": {}}, ["c.acc", "a.f1"], None),
        ({"c": {}}, None, None),
    ],
)
def test_the_value_is_that_of_the_metric_or_the_mean_of_the_first_ones(
    tmp_path: Path, tasks: Any, objective: Any, expected: Any
) -> None:
    assert value(point(tmp_path, tasks), objective) == expected


def test_a_group_counts_as_one_task(tmp_path: Path) -> None:
    groups = {"both": {"members": ["a", "b"], "metrics": {"acc": metric("acc", 0.75)}}}
    tasks = {"a": {"acc": 0.9}, "b": {"acc": 0.6}, "c": {"acc": 0.25}}
    assert value(point(tmp_path, tasks, groups=groups), None) == 0.5
    assert value(point(tmp_path, tasks, groups=groups), "both.acc") == 0.75
    assert value(point(tmp_path, tasks, groups=groups), "a.acc") == 0.9


def test_a_point_that_did_not_end_well_has_no_value(tmp_path: Path) -> None:
    assert value(tmp_path, None) is None
    assert value(point(tmp_path, ONE, "incomplete"), "a.f1") is None


@pytest.mark.parametrize(
    ("tasks", "objective", "words"),
    [
        (TWO, "a.acc", r"objective=a\.acc: .* expected one of a\.exact_match, a\.f1, b\.acc"),
        (ONE | {"b": {"loss": 2.0}}, None, r"one of a\.exact_match, a\.f1, b\.loss"),
    ],
)
def test_what_has_no_value_names_what_has(tmp_path: Path, tasks: Any, objective: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        value(point(tmp_path, tasks), objective)


def test_a_sweeper_that_needs_values_must_wait_for_its_jobs() -> None:
    optuna = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
    basic = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}
    check_sweeper(basic, {"wait": False})
    check_sweeper(optuna, {})
    with pytest.raises(UserError, match=r"cluster\.wait=false: .* set cluster.wait=true"):
        check_sweeper(optuna, {"wait": False})
