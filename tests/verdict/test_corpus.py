"""Comparisons of one number of all samples: by the bootstrap over questions, or over passages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from launcher.core.errors import UserError
from launcher.core.types import Aggregation, Direction, Record
from launcher.evaluate.statistics import summarize
from launcher.report import sweep_table
from launcher.stats.metric import Metric
from launcher.tasks.continuation import perplexity
from launcher.verdict import collect, gate, policy, runs
from tests.report.report_records import record
from tests.verdict.run_folders import run_folder

PERPLEXITY = Metric("perplexity", Direction.lower, (1.0, None), Aggregation.corpus, perplexity)
COUNT = 80


def likelihoods(shift: float = 0.0, noise: float = 0.3) -> list[float]:
    draw = Random(1)
    return [min(0.0, -draw.uniform(0.5, 3) + shift + draw.gauss(0, noise)) for _ in range(COUNT)]


def folder(path: Path, values: list[float], **changes: Any) -> Path:
    clusters = changes.pop("clusters", None) or [None] * len(values)
    records: list[Record] = [
        record(number, scores={"perplexity": value}, cluster=cluster)
        for number, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]
    found = summarize(records, {"addition": len(records)}, {"addition": [PERPLEXITY]})
    return run_folder(path, records, tasks_found=found, **changes)


def compared(*folders: Path) -> dict[str, Any]:
    return dict(collect.collect(runs.read_all(folders)))


def test_a_perplexity_is_compared_by_the_bootstrap_over_questions(tmp_path: Path) -> None:
    a, b = likelihoods(), [value + 0.05 for value in likelihoods()]
    found = compared(folder(tmp_path / "a", a), folder(tmp_path / "b", b))
    (row,) = found["rows"]
    assert (row["test"], row["n"], row["verdict"], found["warnings"]) == ("bootstrap", COUNT, "better", [])
    assert (row["value_a"], row["value_b"]) == pytest.approx((perplexity(a), perplexity(b)))
    assert row["interval"][0] < row["difference"] < row["interval"][1] < 0
    assert row["half_width"] is None
    assert row["sentence"].startswith("B is better than A by ")
    assert "95 % interval [" in row["sentence"]


def test_the_interval_is_that_of_the_delta_method(tmp_path: Path) -> None:
    a, b = likelihoods(), [value + Random(number).gauss(0.02, 0.3) for number, value in enumerate(likelihoods())]
    (row,) = compared(folder(tmp_path / "a", a), folder(tmp_path / "b", b))["rows"]
    influence = [-perplexity(b) * y + perplexity(a) * x for x, y in zip(a, b, strict=True)]
    stderr = np.std(influence, ddof=1) / math.sqrt(COUNT)
    assert row["interval"][1] - row["interval"][0] == pytest.approx(2 * 1.96 * stderr, rel=0.15)


def test_a_run_against_itself_is_equal_and_few_questions_tell_nothing(tmp_path: Path) -> None:
    same = [folder(tmp_path / name, likelihoods()) for name in ("a", "b")]
    (row,) = compared(*same)["rows"]
    assert (row["verdict"], row["sentence"]) == ("equal", f"A and B have the same value over {COUNT} questions")
    few = [folder(tmp_path / f"few {name}", likelihoods(shift)[:9]) for name, shift in (("a", 0.0), ("b", 0.4))]
    (row,) = compared(*few)["rows"]
    assert (row["verdict"], row["interval"]) == ("may be chance", None)
    assert row["sentence"].endswith("9 questions are too few to tell")
    one = [folder(tmp_path / f"one {name}", likelihoods(shift)[:1]) for name, shift in (("a", 0.0), ("b", 0.4))]
    (row,) = compared(*one)["rows"]
    assert row["sentence"].endswith(": 1 question is too few to tell")


def test_passages_are_drawn_whole_in_comparisons_and_in_results(tmp_path: Path) -> None:
    a = [value for value in likelihoods()[:20] for _ in range(4)]
    b = [value + Random(number // 4).gauss(0, 0.3) for number, value in enumerate(a)]
    passages = [f"p{number // 4}" for number in range(COUNT)]
    widths = {}
    for name, clusters in (("alone", None), ("passages", passages)):
        made = [folder(tmp_path / f"{name} {label}", v, clusters=clusters) for label, v in (("a", a), ("b", b))]
        (row,) = compared(*made)["rows"]
        entry = json.loads((made[0] / "results.json").read_text())["tasks"]["addition"]["metrics"]["perplexity"]
        widths[name] = np.array([row["interval"][1] - row["interval"][0], entry["stderr"]])
    assert widths["passages"] / widths["alone"] == pytest.approx(2, rel=0.25), "four of a kind are as one"
    assert "80 questions in 20 passages" in row["sentence"]


def test_only_common_questions_count(tmp_path: Path) -> None:
    (row,) = compared(folder(tmp_path / "a", likelihoods()), folder(tmp_path / "b", likelihoods()[:50]))["rows"]
    assert (row["n"], row["left_out"], row["verdict"]) == (50, COUNT - 50, "equal")
    assert row["value_a"] == pytest.approx(perplexity(likelihoods()[:50]))


def test_a_gate_holds_it_against_the_baseline(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", likelihoods())
    text = "tasks: {addition: {perplexity: {no_worse_by: 0.5, at_most: 100}}}\nbaseline: base\n"
    (tmp_path / "gate.yaml").write_text(text)
    read = policy.read(tmp_path / "gate.yaml")
    outcomes = []
    for name, shift in (("same", 0.0), ("worse", -0.4)):
        run = folder(tmp_path / name, [value + shift for value in likelihoods()])
        outcomes.append(gate.overall(gate.decide(runs.read(run, "B"), runs.read(base, "A"), read)))
    assert outcomes == [gate.Outcome.go, gate.Outcome.no_go]


def test_samples_that_do_not_give_the_results_are_named(tmp_path: Path) -> None:
    made = folder(tmp_path / "a", likelihoods())
    text = (made / "samples.jsonl").read_text()
    first = json.dumps(likelihoods()[0])
    (made / "samples.jsonl").write_text(text.replace(f'"perplexity": {first}', '"perplexity": -9.5', 1))
    with pytest.raises(UserError, match=r"do not agree: addition perplexity"):
        runs.read(made, "A")


def test_a_sweep_tests_it_too(tmp_path: Path) -> None:
    for name, shift in (("0", 0.0), ("1", 0.3)):
        made = folder(tmp_path / name, [value + shift for value in likelihoods()])
        (made / ".hydra").mkdir()
        (made / ".hydra" / "overrides.yaml").write_text(f"[model.name=m{name}]")
    (entry,) = sweep_table.collect(tmp_path)["comparisons"]
    assert (entry["test"], entry["metric"]) == ("bootstrap", "perplexity")
    assert entry["p_holm"] < 0.05
