"""The log of inspect_ai: what is read of it, and the line for what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness.base import Place
from launcher.tasks.harness.measured import Measured, ResultError, SampleCounts
from launcher.tasks.harness_inspect import HarnessInspect


def scored(name: str, value: Any, scored: int = 3, unscored: int = 0) -> dict[str, Any]:
    metrics = {"accuracy": {"name": "accuracy", "value": value}, "stderr": {"name": "stderr", "value": 0.1}}
    return {"name": name, "scorer": name, "scored_samples": scored, "unscored_samples": unscored, "metrics": metrics}


def log(*scores: dict[str, Any], task: str = "sums", status: str = "success", completed: int = 3) -> dict[str, Any]:
    results = {"total_samples": 4, "completed_samples": completed, "scores": list(scores), "headline": {"score": "b"}}
    error = {"message": "NotFoundError: no such model\nin full"} if status == "error" else None
    return {"status": status, "eval": {"task": task}, "results": results, "error": error}


def inspect(output: Path, logs: Any, **settings: Any) -> Measured:
    (output / "logs.json").write_text(json.dumps(logs))
    place = Place("http://127.0.0.1:1/v1", "m", output, Evaluate())
    return HarnessInspect(task="x", **settings).read(place, {})


def test_the_log_of_inspect_is_read(tmp_path: Path) -> None:
    found = inspect(tmp_path, {"a.eval": log(scored("a", 0.5))})
    assert list(found.metrics) == ["accuracy"]
    one = found.metrics["accuracy"]
    assert (one.value, one.stderr, one.n) == (0.5, 0.1, 3)
    assert found.samples == SampleCounts(4, failed=1)
    assert "ended with an error" in found.reasons["failed"]


def test_several_scorers_and_tasks_of_inspect(tmp_path: Path) -> None:
    found = inspect(tmp_path, {"a.eval": log(scored("a", 0.5), scored("b", 1.0, 2, 1), completed=4)})
    assert list(found.metrics) == ["b/accuracy", "a/accuracy"]
    assert found.notes == ("1 samples have no score of b",)
    assert found.samples == SampleCounts(4)
    both = {"a.eval": log(scored("a", 0.5)), "b.eval": log(scored("a", 0.25), task="more")}
    found = inspect(tmp_path, both, metric="more/accuracy")
    assert list(found.metrics) == ["more/accuracy", "sums/accuracy"]
    assert found.samples == SampleCounts(8, failed=2)


def test_a_log_that_was_killed_is_replaced_by_the_one_that_goes_on_with_it(tmp_path: Path) -> None:
    killed, after = log(status="started"), log(scored("a", 0.5))
    killed["eval"] |= {"task_id": "x", "created": "2026-11-30T10:00:00+00:00"}
    after["eval"] |= {"task_id": "x", "created": "2026-11-30T10:05:00+00:00"}
    for logs in ({"a.eval": killed, "b.eval": after}, {"b.eval": after, "a.eval": killed}):
        assert inspect(tmp_path, logs).metrics["accuracy"].value == 0.5
    with pytest.raises(ResultError, match="the status started"):
        inspect(tmp_path, {"b.eval": after, "c.eval": {**killed, "eval": {**killed["eval"], "created": "2027"}}})


@pytest.mark.parametrize(
    ("logs", "settings", "said"),
    [
        ({}, {}, "it has no log of inspect"),
        ({"a.eval": {}}, {}, "is not one of inspect that is known"),
        ({"a.eval": log(status="error")}, {}, "inspect ended sums with the status error: NotFoundError: no such model"),
        ({"a.eval": log(status="started")}, {}, "inspect ended sums with the status started"),
        ({"a.eval": {**log(), "results": None}}, {}, "inspect scored no sample of sums"),
        ({"a.eval": log(scored("a", math.nan))}, {}, "accuracy of a is nan, expected a finite number"),
        ({"a.eval": log()}, {}, "no scorer of the task gave a metric"),
        ({"a.eval": log(scored("a", 1))}, {"metric": "f1"}, "metric=f1: inspect has no such metric"),
    ],
)
def test_a_log_of_inspect_without_a_result_is_one_line(
    logs: Any, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultError) as caught:
        inspect(tmp_path, logs, **settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
