"""Every number of a comparison is that of SciPy or statsmodels, on samples as runs leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from launcher.core.types import Aggregation, Record, TaskResult
from launcher.stats.metric import Metric
from launcher.tasks.code import pass_at_k
from launcher.verdict import collect, runs
from launcher.verdict.schema import RowEntry
from tests.report.report_records import record
from tests.verdict.run_folders import run_folder

pytest.importorskip("statsmodels")
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

COUNT = 150


def scored(values: list[float], task: str = "t", repeats: int = 1, passages: int = 0) -> list[Record]:
    """Return the records of questions with these scores; several repeats stand one after the other."""
    return [
        record(
            number // repeats, task=task, repeat=number % repeats, scores={"m": value},
            cluster=f"p{number // repeats % passages}" if passages else None,
        )
        for number, value in enumerate(values)
    ]  # fmt: skip


def compared(folder: Path, *each: list[Record]) -> list[RowEntry]:
    made = [run_folder(folder / f"{number}", records) for number, records in enumerate(each)]
    return collect.collect(runs.read_all(made))["rows"]


def draws(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if kind == "binary":
        return (rng.random(COUNT) < 0.5).astype(float), (rng.random(COUNT) < 0.62).astype(float)
    return rng.random(COUNT), np.clip(rng.random(COUNT) + 0.05, 0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_right_and_wrong_is_mcnemars_exact_test(seed: int, tmp_path: Path) -> None:
    a, b = draws(seed, "binary")
    (row,) = compared(tmp_path, scored([*a]), scored([*b]))
    table = [[((a == x) & (b == y)).sum() for y in (1, 0)] for x in (1, 0)]
    assert row["p"] == pytest.approx(float(mcnemar(table, exact=True).pvalue), rel=1e-9)
    assert row["test"] == "sign"
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert row["interval"] == pytest.approx([*interval], rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_other_scores_are_the_paired_t_test(seed: int, tmp_path: Path) -> None:
    a, b = draws(seed, "real")
    (row,) = compared(tmp_path, scored([*a]), scored([*b]))
    found = stats.ttest_rel(b, a)
    assert (row["test"], row["n"]) == ("t", COUNT)
    assert row["p"] == pytest.approx(found.pvalue, rel=1e-9)
    assert row["difference"] == pytest.approx(np.mean(b - a), rel=1e-9)
    assert row["interval"] == pytest.approx([*found.confidence_interval(0.95)], rel=1e-9)


def test_repeats_count_as_their_mean(tmp_path: Path) -> None:
    a, b = draws(9, "binary")
    (row,) = compared(tmp_path, scored([*a], repeats=3), scored([*b], repeats=3))
    means = [each.reshape(-1, 3).mean(axis=1) for each in (a, b)]
    assert row["n"] == COUNT // 3
    assert row["p"] == pytest.approx(stats.ttest_rel(means[1], means[0]).pvalue, rel=1e-9)


@pytest.mark.parametrize("passages", [12, 40])
def test_shared_passages_are_clustered_errors(passages: int, tmp_path: Path) -> None:
    a, b = draws(5, "binary")
    (row,) = compared(tmp_path, scored([*a], passages=passages), scored([*b], passages=passages))
    groups = np.arange(COUNT) % passages
    fitted = OLS(b - a, np.ones(COUNT)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert row["test"] == "clustered t"
    assert row["p"] == pytest.approx(float(fitted.pvalues[0]), rel=1e-9)
    assert row["interval"] == pytest.approx([*fitted.conf_int()[0]], rel=1e-9)


def test_all_rows_together_are_corrected_by_holm(tmp_path: Path) -> None:
    each: list[list[Record]] = [[], [], []]
    for place, task in enumerate(("t", "u", "v")):
        a, b = draws(20 + place, "binary")
        for records, values in zip(each, (a, b, np.maximum(a, b)), strict=True):
            records += scored([*values], task=task)
    found = compared(tmp_path, *each)
    assert len(found) == 6
    expected = multipletests([row["p"] for row in found], method="holm")[1]
    assert [row["p_holm"] for row in found] == pytest.approx([*expected], rel=1e-9)


def test_the_questions_that_would_tell_have_a_power_of_80_percent(tmp_path: Path) -> None:
    a, b = draws(3, "real")
    (row,) = compared(tmp_path, scored([*a]), scored([*(a + 0.2 * (b - a))]))
    assert row["needed"] is not None
    effect = abs(row["difference"]) / (0.2 * np.std(b - a, ddof=1))
    assert TTestPower().power(effect, row["needed"], 0.05) == pytest.approx(0.8, abs=0.01)


def test_flips_are_the_discordant_questions(tmp_path: Path) -> None:
    a, b = draws(6, "binary")
    made = [run_folder(tmp_path / name, scored([*values])) for name, values in (("a", a), ("b", b))]
    (flips,) = collect.collect(runs.read_all(made))["flips"]
    assert flips["total"] == int((a != b).sum()) == len(flips["shown"])
    assert {flip["id"] for flip in flips["shown"] if flip["gain"] > 0} == {
        str(number) for number in np.flatnonzero(b > a)
    }


def test_pass_at_k_is_tested_by_the_estimate_of_each_item(tmp_path: Path) -> None:
    a, b = (each.reshape(-1, 5) for each in draws(11, "binary"))
    records = [scored([*each.ravel()], repeats=5) for each in (a, b)]
    metric = pass_at_k.metric(2)
    made = []
    for name, found in zip("ab", records, strict=True):
        passed = [replace(one, scores={"pass@2": one.scores["m"]}) for one in found]
        value = metric.result([(one.id, one.scores["pass@2"]) for one in passed], len(passed))
        results = {"t": TaskResult({"pass@2": value}, {"scored": COUNT, "total": COUNT})}
        made.append(run_folder(tmp_path / name, passed, tasks_found=results))
    (row,) = collect.collect(runs.read_all(made))["rows"]
    each = [1 - special.comb(5 - x.sum(axis=1), 2) / special.comb(5, 2) for x in (a, b)]
    assert (row["n"], row["test"]) == (COUNT // 5, "t")
    assert (row["value_a"], row["value_b"]) == pytest.approx([x.mean() for x in each])
    assert row["p"] == pytest.approx(stats.ttest_rel(each[1], each[0]).pvalue, rel=1e-9)


def test_a_number_of_all_samples_is_named_without_a_test(tmp_path: Path) -> None:
    metric = Metric("ppl", aggregation=Aggregation.corpus, combine=lambda values: sum(map(float, values)) / 1000)
    made = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        given = [replace(one, scores={"m": 1.0, "ppl": value}) for one in scored([1.0] * 20)]
        mean = Metric("m").result([(one.id, 1.0) for one in given], 20)
        found = metric.result([(one.id, value) for one in given], 20)
        results = {"t": TaskResult({"m": mean, "ppl": found}, {"scored": 20, "total": 20})}
        made.append(run_folder(tmp_path / name, given, tasks_found=results))
    why = "it is one number of all samples, and the results do not name its function"
    line = f"t ppl of A and B is 0.020 -> 0.040, without a test: {why}"
    comparison = collect.collect(runs.read_all(made))
    assert (comparison["warnings"], [row["metric"] for row in comparison["rows"]]) == ([line], ["m"])


def test_values_are_those_of_the_compared_questions(tmp_path: Path) -> None:
    a, b = draws(12, "binary")
    (row,) = compared(tmp_path, scored([*a]), scored([*b])[:60])
    assert (row["n"], row["left_out"]) == (60, COUNT - 60)
    assert (row["value_a"], row["value_b"]) == (a[:60].mean(), b[:60].mean())
