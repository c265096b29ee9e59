from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.core.errors import CoverageTooLow, TaskError
from launcher.core.types import TaskResult
from launcher.pipeline.evaluation import check_coverage, check_main_metrics
from launcher.pipeline.validation import required_capabilities
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.tasks.generation import Generation
from tests.running import launch_here

TASKS = {"a": Generation(), "b": Generation()}
FULL = TaskResult({"exact_match": Metric("exact_match").result([("1", 1.0)], 1)}, {"scored": 1, "total": 1})


def some_run(tasks: dict[str, Generation], limit: int | None = None) -> Any:
    return SimpleNamespace(tasks=tasks, adapters={}, model=SimpleNamespace(name="m"), evaluate=Evaluate(limit=limit))


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

    run = some_run({"t": Texts()})
    with pytest.raises(TaskError, match=r"^tasks\.t: samples\(\) gave 'a text', expected a Sample"):
        required_capabilities(run)


def test_a_bad_item_far_behind_is_named_before_anything_is_served(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"q{n}", "answer": "a"}) for n in range(300)] + ['{"prompted": "x", "answer": "a"}']
    (tmp_path / "late.jsonl").write_text("\n".join(rows))
    given = ("engine=echo", "model=none", "tasks=[addition]", f"tasks.addition.path={tmp_path / 'late.jsonl'}")
    templates = ("tasks.addition.prompt='{{prompt}}'", "tasks.addition.target='{{answer}}'")
    done = launch_here(tmp_path, *given, *templates, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert f"tasks.addition: {tmp_path / 'late.jsonl'}:301: 'prompt' is undefined" in done.stderr
    assert "serve:" not in done.stderr
    task = Generation(path=str(tmp_path / "late.jsonl"))
    required_capabilities(some_run({"t": task}, limit=300))
    with pytest.raises(TaskError, match=r"late\.jsonl:301"):
        required_capabilities(some_run({"t": task}, limit=301))


@pytest.mark.parametrize(("lost", "rest"), [(1, ""), (6, ""), (57, "; and 52 more tasks")])
def test_of_many_tasks_with_too_few_scores_some_are_named(lost, rest):
    short = TaskResult({}, {"scored": 0, "refused": 3, "total": 3})
    with pytest.raises(CoverageTooLow) as error:
        check_coverage({f"task_{n}": short for n in range(lost)}, 0.95, None)
    assert str(error.value).count("0 of 3 scored (3 refused)") == (5 if rest else lost)
    assert str(error.value).endswith(rest or "(3 refused)")
