from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.core.errors import CoverageTooLow, TaskError
from launcher.core.types import TaskResult
from launcher.pipeline.evaluation import check_main_metrics
from launcher.pipeline.validation import required_capabilities
from launcher.stats.metric import Metric
from launcher.tasks.generation import Generation

TASKS = {"a": Generation(), "b": Generation()}
FULL = TaskResult({"exact_match": Metric("exact_match").result([("1", 1.0)], 1)}, {"scored": 1, "total": 1})


def test_a_run_whose_first_metric_cannot_be_computed_is_not_ok() -> None:
    lost = TaskResult({}, {"scored": 1, "total": 1}, notes={"exact_match cannot be computed: ValueError: odd": 1})
    with pytest.raises(CoverageTooLow, match=r"^b\.exact_match cannot be computed from the scored samples"):
        check_main_metrics({"a": FULL, "b": lost}, TASKS)


def test_a_task_without_a_scored_sample_is_a_matter_of_its_coverage() -> None:
    check_main_metrics({"a": FULL, "b": TaskResult({}, {"scored": 0, "total": 3})}, TASKS)


def test_a_task_that_gives_no_samples_is_named_before_anything_is_loaded() -> None:
    class Texts(Generation):
        def samples(self, name: str, model: str) -> Any:
            yield "a text"

    run: Any = SimpleNamespace(tasks={"t": Texts()}, model=SimpleNamespace(name="m"))
    with pytest.raises(TaskError, match=r"^tasks\.t: samples\(\) gave 'a text', expected a Sample"):
        required_capabilities(run)
