"""The results of lm-eval's own command line: what is read of them, and the line for what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness.base import Place
from launcher.tasks.harness.measured import Measured, ResultError, SampleCounts
from launcher.tasks.harness_lm_eval_cli import HarnessLmEvalCli

LM_EVAL: dict[str, Any] = {
    "results": {
        "sums": {
            "alias": "sums",
            "sample_len": 4,
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "ppl,none": 9.0,
            "ppl_stderr,none": "N/A",
        }
    },
    "higher_is_better": {"sums": {"acc": True, "ppl": False}},
    "n-samples": {"sums": {"original": 9, "effective": 4}},
}


def lm_eval(output: Path, document: Any, **settings: Any) -> Measured:
    folder = output / "model"
    folder.mkdir(exist_ok=True)
    (folder / "results_2026.json").write_text(json.dumps(document))
    place = Place("http://127.0.0.1:1/v1", "m", output, Evaluate())
    return HarnessLmEvalCli(task="sums", **settings).read(place, {})


def test_the_results_of_lm_eval_are_read(tmp_path: Path) -> None:
    found = lm_eval(tmp_path, LM_EVAL)
    assert {name: (one.value, one.n, one.direction.value) for name, one in found.metrics.items()} == {
        "acc": (0.5, 4, "higher"),
        "ppl": (9.0, 4, "lower"),
    }
    assert found.metrics["acc"].stderr == 0.25
    assert math.isnan(found.metrics["ppl"].stderr)
    assert found.samples == SampleCounts(4)


def test_several_tasks_and_the_main_metric_of_lm_eval(tmp_path: Path) -> None:
    several = {
        **LM_EVAL,
        "results": {**LM_EVAL["results"], "qa": {"exact_match,strict": 1.0, "exact_match_stderr,strict": 0.0}},
        "n-samples": {**LM_EVAL["n-samples"], "qa": {"original": 2, "effective": 2}},
    }
    found = lm_eval(tmp_path, several, metric="qa/exact_match,strict")
    assert list(found.metrics) == ["qa/exact_match,strict", "sums/acc", "sums/ppl"]
    assert found.samples == SampleCounts(6)


@pytest.mark.parametrize(
    ("document", "settings", "said"),
    [
        ({}, {}, "it is not one of lm-eval that is known: KeyError('results')"),
        ([], {}, "it is not one of lm-eval that is known"),
        ({**LM_EVAL, "results": {"sums": {"acc,none": "N/A"}}}, {}, "acc,none of"),
        ({**LM_EVAL, "results": {}}, {}, "it has no metric"),
        (LM_EVAL, {"metric": "f1"}, "metric=f1: lm-eval has no such metric; expected one of acc, ppl"),
    ],
)
def test_a_result_of_lm_eval_that_is_none_is_one_line(
    document: Any, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultError) as caught:
        lm_eval(tmp_path, document, **settings)
    assert said in str(caught.value)
