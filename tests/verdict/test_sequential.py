"""Runs that stopped early are compared and gated by what is valid at any time."""

from __future__ import annotations

import json

import pytest

from launcher.evaluate.random_order import blocks
from launcher.verdict import collect, comparison, gate, policy, runs
from tests.report.report_records import record
from tests.verdict.run_folders import run_folder

TOTAL = 600
ORDER = [question for block in blocks({"addition": [f"addition/{n}" for n in range(TOTAL)]}, 0) for question in block]


def early(folder, right, count, *, until="race", **changes):
    """A run that asked the first questions of the random order; ``right`` tells which answers are right."""
    numbers = sorted(int(question.split("/")[1]) for question in ORDER[:count])
    made = run_folder(folder, [record(number, right=right(number)) for number in numbers], **changes)
    task = next(iter(runs.read(made, "A").tasks))
    asked = [[question.replace("addition", task)] for question in ORDER[:count]]
    facts = {"asked": count, "total": TOTAL, "decided": count < TOTAL, "metric": "exact_match"}
    facts |= {"factors": {task: 1.0}, "sizes": {task: TOTAL}, "blocks": asked}
    facts |= {"units": {task: TOTAL}, "largest": {task: 1}}
    header = json.loads((made / "journal.json").read_text())
    header["early_stop"] = {"until": until, "populations": {task: facts}}
    (made / "journal.json").write_text(json.dumps(header))
    return made


def rows(*folders):
    return comparison.rows(runs.read_all(folders))


def test_a_difference_has_bounds_and_a_p_that_hold_at_any_time(tmp_path):
    a = early(tmp_path / "a", lambda number: number % 2 == 0, 200)
    b = early(tmp_path / "b", lambda number: number % 4 != 1, 180)
    (row,) = rows(a, b)
    low, high = row.interval
    assert (row.found.test, row.verdict, row.found.n) == ("sequential", "better", 180)
    assert 0 < low < 0.25 < high
    assert row.found.p < 0.05
    (entry,) = collect.collect(runs.read_all([a, b]))["rows"]
    assert entry["sentence"].startswith("B is better than A by 0.2")
    assert "on all 600 questions by" in entry["sentence"]
    assert "at any time, after 180 questions)" in entry["sentence"]


def test_a_run_that_asked_all_is_compared_in_the_order_of_the_other(tmp_path):
    whole = run_folder(tmp_path / "a", [record(number, right=number % 2 == 0) for number in range(TOTAL)])
    part = early(tmp_path / "b", lambda number: number % 4 != 1, 180)
    for folders, better in (((whole, part), "better"), ((part, whole), "worse")):
        (row,) = rows(*folders)
        assert (row.found.test, row.verdict, row.found.n) == ("sequential", better, 180)


def test_equal_runs_that_asked_all_are_equal(tmp_path):
    a, b = (early(tmp_path / name, lambda number: number % 3 > 0, TOTAL) for name in "ab")
    (row,) = rows(a, b)
    assert (row.verdict, row.interval) == ("equal", (0.0, 0.0))


def test_a_gate_uses_bounds_that_hold_at_any_time(tmp_path):
    base = early(tmp_path / "a", lambda number: number % 2 == 0, 200)
    better = early(tmp_path / "b", lambda number: number % 4 != 1, 200)
    task = next(iter(runs.read(base, "A").tasks))
    for run, baseline, margin, outcome in (
        (better, base, 0.0, gate.Outcome.go),
        (base, better, 0.0, gate.Outcome.no_go),
        (base, better, 0.25, gate.Outcome.inconclusive),
    ):
        rule = policy.Rule(task, "exact_match", policy.Bound.no_worse_by, margin)
        given = policy.Policy((rule,), baseline, coverage=0.0)
        found = gate.decide(runs.read(run, "B"), runs.read(baseline, "A"), given)[-1]
        assert found.outcome is outcome, found.detail


def test_another_order_is_another_measurement(tmp_path):
    a = early(tmp_path / "a", lambda number: True, 200, evaluate={"order_seed": 1})
    b = early(tmp_path / "b", lambda number: True, 200, evaluate={"order_seed": 0})
    with pytest.raises(Exception, match=r"order_seed: 1 -> 0"):
        collect.collect(runs.read_all([a, b]))
