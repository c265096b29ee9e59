"""Paired differences, what they are sure of, and how many questions would tell."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest
from scipy import stats

from launcher.core.types import GroupResult, Record
from launcher.report.compare import Comparison
from launcher.verdict import comparison, runs
from launcher.verdict.words import sentence
from tests.report.report_records import record, task_results
from tests.verdict.run_folders import answered, run_folder


def compared(tmp_path: Path, a: list[Record], b: list[Record], **how) -> list[comparison.Row]:
    return comparison.rows(runs.read_all([run_folder(tmp_path / "a", a), run_folder(tmp_path / "b", b)]), **how)


def test_a_clear_gain_is_better(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, answered(set(range(40))), answered(set(range(60))))
    assert row.verdict == "better"
    assert row.gain == pytest.approx(0.2)
    differences = [1.0] * 20 + [0.0] * 80
    half = stats.t.ppf(0.975, 99) * stats.sem(differences)
    assert row.half_width == pytest.approx(half, rel=1e-9)
    assert row.found.p == pytest.approx(stats.binomtest(0, 20).pvalue)
    assert sentence(row).startswith("B is better than A by 0.200 ± 0.080 (p < 0.0001, 100 questions)")


def test_a_clear_loss_is_worse(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, answered(set(range(60))), answered(set(range(40))))
    assert row.verdict == "worse"
    assert sentence(row).startswith("A is better than B by 0.200")


def test_a_small_gain_may_be_chance_and_says_how_many_questions_would_tell(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, answered(set(range(50))), answered(set(range(5, 57))))
    assert row.verdict == "may be chance"
    assert "may be chance" in sentence(row)
    assert "questions would tell" in sentence(row)
    assert row.needed is not None
    assert row.needed > 100


def test_the_questions_that_would_tell_tell_four_times_in_five() -> None:
    """Draw runs of that many questions at the difference found: about 80 % of them are significant."""
    gains, losses, n = 14, 8, 100
    stderr = float(stats.sem([1.0] * gains + [-1.0] * losses + [0.0] * (n - gains - losses)))
    difference = (gains - losses) / n
    row = comparison.Row(
        Comparison("t", "m", "A", "B", n, 0, difference, stderr, "sign", 0.3, 0.3), 0.5, 0.56, lower=False
    )
    assert row.needed is not None
    draw, told = Random(7), 0
    for _ in range(400):
        kinds = draw.choices((1, -1, 0), (gains, losses, n - gains - losses), k=row.needed)
        told += stats.binomtest(kinds.count(1), kinds.count(1) + kinds.count(-1)).pvalue < 0.05
    assert 0.7 < told / 400 < 0.88


def test_equal_answers_are_equal(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, answered({1, 2}), answered({1, 2}))
    assert row.verdict == "equal"
    assert row.needed is None
    assert sentence(row) == "A and B score the same in each of 100 questions"


def test_swapped_answers_are_not_said_to_be_equal(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, answered({1}), answered({2}))
    assert row.verdict == "may be chance"
    assert "not in each" in sentence(row)


def test_less_is_better_of_a_perplexity(tmp_path: Path) -> None:
    def scored(shift: float) -> list[Record]:
        return [record(n, scores={"perplexity": 10 + n % 7 + shift + n % 3 / 10}) for n in range(50)]

    high, low = scored(1.0), scored(0.0)
    (row,) = compared(tmp_path, high, low)
    assert row.lower
    assert row.verdict == "better"
    assert row.found.difference < 0


def test_many_metrics_are_corrected_together(tmp_path: Path) -> None:
    def run(shift: int) -> list[Record]:
        return [record(n, task=f"t{task}", right=n < 50 + shift + task % 2) for task in range(10) for n in range(60)]

    rows = compared(tmp_path, run(0), run(6))
    assert len(rows) == 10
    assert all(row.found.p < 0.05 and row.found.p_holm == pytest.approx(min(1, row.found.p * 10)) for row in rows[:1])


def grouped(folder: Path, right: dict[str, int], weight: str) -> runs.Run:
    sizes = {"t0": 40, "t1": 160}
    records = [record(n, task=task, right=n < right[task]) for task in right for n in range(sizes[task])]
    tasks = task_results(records)
    pooled = {"g": GroupResult(tuple(right), weight, (), tasks["t0"])}
    run_folder(folder, records, groups=pooled)
    return runs.read(folder, folder.name.upper())


@pytest.mark.parametrize(("weight", "shares"), [("size", (0.2, 0.8)), ("equal", (0.5, 0.5))])
def test_a_groups_difference_is_that_of_its_members(tmp_path: Path, weight: str, shares: tuple[float, float]) -> None:
    a = grouped(tmp_path / "a", {"t0": 10, "t1": 100}, weight)
    b = grouped(tmp_path / "b", {"t0": 20, "t1": 104}, weight)
    (row,) = comparison.rows([a, b])
    assert row.found.task == "g"
    assert row.found.n == 200
    parts = [(10 / 40, stats.sem([1.0] * 10 + [0.0] * 30)), (4 / 160, stats.sem([1.0] * 4 + [0.0] * 156))]
    difference = sum(share * part[0] for share, part in zip(shares, parts, strict=True))
    stderr = math.sqrt(sum((share * part[1]) ** 2 for share, part in zip(shares, parts, strict=True)))
    assert row.found.difference == pytest.approx(difference)
    assert row.found.stderr == pytest.approx(stderr)
    assert row.found.p == pytest.approx(2 * stats.t.sf(difference / stderr, 199))
    assert [each.found.task for each in comparison.rows([a, b], inside=True)] == ["g", "t0", "t1"]


def test_a_group_with_other_members_is_not_compared(tmp_path: Path) -> None:
    a = grouped(tmp_path / "a", {"t0": 10, "t1": 100}, "size")
    b = grouped(tmp_path / "b", {"t0": 20, "t1": 104}, "equal")
    assert comparison.rows([a, b]) == []
