"""Comparisons within categories, and rules of a gate for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats
from statsmodels.stats.multitest import multipletests

from launcher.core.errors import UserError
from launcher.core.types import Record
from launcher.evaluate.statistics import summarize
from launcher.report import results
from launcher.stats.metric import Metric
from launcher.verdict import collect, gate, page, policy, runs, terminal
from tests.report.report_records import record
from tests.verdict.run_folders import run_folder

KINDS = ("art", "bio", "chem")
ACC = Metric("exact_match")


def folder(path: Path, right: dict[str, int], each: int = 60, **changes: Any) -> Path:
    """Write a run that answers so many of ``each`` questions right in each category."""
    records: list[Record] = [
        record(kind * each + number, right=number < right[name], category=name)
        for kind, name in enumerate(KINDS)
        for number in range(each)
    ]
    found = summarize(records, {"addition": len(records)}, {"addition": [ACC]})
    return run_folder(path, records, tasks_found=found, **changes)


def pair(tmp_path: Path) -> list[runs.Run]:
    a = folder(tmp_path / "a", {"art": 30, "bio": 30, "chem": 30})
    b = folder(tmp_path / "b", {"art": 30, "bio": 50, "chem": 34})
    return runs.read_all([a, b])


def test_each_category_has_the_difference_of_its_questions(tmp_path: Path) -> None:
    found = collect.collect(pair(tmp_path))
    rows = {row["category"]: row for row in found["categories"]}
    assert list(rows) == list(KINDS)
    assert [rows[name]["difference"] for name in KINDS] == pytest.approx([0, 20 / 60, 4 / 60])
    assert rows["bio"]["p"] == pytest.approx(stats.binomtest(0, 20).pvalue)
    expected = multipletests([rows[name]["p"] for name in KINDS], method="holm")[1]
    assert [rows[name]["p_holm"] for name in KINDS] == pytest.approx([*expected])
    assert [rows[name]["verdict"] for name in KINDS] == ["equal", "better", "may be chance"]
    assert [row["n"] for row in found["rows"]] == [180], "the verdict of the task is that of all its questions"
    assert found["rows"][0]["p_holm"] == found["rows"][0]["p"], "categories do not weaken the verdict"


def test_terminal_and_page_show_them_as_exploratory(tmp_path: Path) -> None:
    found = collect.collect(pair(tmp_path))
    with (console := Console(width=200)).capture() as printed:
        terminal.show(found, console)
    assert "by category, exploratory (p corrected over its 3 categories)" in printed.get()
    assert printed.get().index("  bio  ") < printed.get().index("  chem  ")
    html = page.write(found, tmp_path / "out").read_text()
    assert "3 categories, the surest differences first" in html
    assert html.index(">bio<") < html.index(">chem<") < html.index(">art<")
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())["categories"]) == 3


def test_one_category_is_the_task_itself_and_has_no_row(tmp_path: Path) -> None:
    made = [
        run_folder(tmp_path / name, [record(number, right=number < right, category="art") for number in range(20)])
        for name, right in (("a", 5), ("b", 12))
    ]
    assert collect.collect(runs.read_all(made))["categories"] == []


def test_a_renamed_category_is_that_of_the_first_run(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    renamed = [record(number, right=number < 40, category="other") for number in range(180)]
    run_folder(tmp_path / "c", renamed)
    found = collect.collect([a, runs.read(tmp_path / "c", "C")])
    assert [row["category"] for row in found["categories"]] == list(KINDS)


def decided(tmp_path: Path, rules: dict[str, Any]) -> list[gate.Finding]:
    text = json.dumps({"tasks": {"addition": rules}, "baseline": "a"})
    (tmp_path / "gate.yaml").write_text(text)
    a, b = pair(tmp_path)
    return gate.decide(b, a, policy.read(tmp_path / "gate.yaml"))


@pytest.mark.parametrize(
    ("category", "bound", "outcome"),
    [
        ("bio", {"at_least": 0.6}, gate.Outcome.go),
        ("art", {"at_least": 0.9}, gate.Outcome.no_go),
        ("art", {"at_least": 0.5}, gate.Outcome.inconclusive),
        ("bio", {"no_worse_by": 0.0}, gate.Outcome.go),
        ("art", {"no_worse_by": 0.0}, gate.Outcome.go),
        ("*", {"at_least": 0.1}, gate.Outcome.go),
        ("*", {"at_least": 0.7}, gate.Outcome.no_go),
        ("physics", {"at_least": 0.1}, gate.Outcome.inconclusive),
    ],
)
def test_a_policy_bounds_a_category(
    tmp_path: Path, category: str, bound: dict[str, float], outcome: gate.Outcome
) -> None:
    findings = decided(tmp_path, {"categories": {category: {"exact_match": bound}}})
    assert gate.overall(findings) is outcome
    named = [finding for finding in findings if finding.name.startswith("addition ")]
    assert len(named) == (3 if category == "*" else 1)
    if category == "physics":
        assert "no such category; it has addition art, addition bio, addition chem" in named[0].detail


def test_a_metric_that_a_category_lacks_is_named_beside_those_that_it_has(tmp_path: Path) -> None:
    (finding,) = [
        each
        for each in decided(tmp_path, {"categories": {"bio": {"acc": {"at_least": 0.5}}}})
        if each.name.startswith("addition ")
    ]
    assert finding.outcome is gate.Outcome.inconclusive
    assert finding.detail == "the category has no such metric; it has exact_match"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            {"categories": {"bio": {"exact_match": {"at_least": 0.9, "at_most": 0.1}}}},
            r"tasks\.addition\.categories\.bio\.exact_match: at_least 0\.9 is above at_most 0\.1",
        ),
        ({"categories": {}}, r"tasks\.addition\.categories: \{\}, expected keys"),
        ({"categories": {"bio": {}}}, r"tasks\.addition\.categories\.bio: \{\}, expected keys"),
        ({"categories": {"bio": 0.5}}, r"categories\.bio: 0\.5, expected keys"),
        ({"categories": {"bio": {"exact_match": {"at_leest": 1}}}}, r"did you mean at_least"),
        ({"categories": {"bio": {"exact_match": {"no_worse_by": -1}}}}, r"bio\.exact_match\.no_worse_by: -1"),
    ],
)
def test_a_wrong_rule_of_a_category_names_its_place(tmp_path: Path, rules: dict[str, Any], said: str) -> None:
    (tmp_path / "gate.yaml").write_text(json.dumps({"tasks": {"addition": rules}, "baseline": "a"}))
    with pytest.raises(UserError, match=said):
        policy.read(tmp_path / "gate.yaml")


def test_a_category_without_all_of_its_samples_is_not_go(tmp_path: Path) -> None:
    """The results of a run that was cut short do not say how many samples a category has."""
    a = folder(tmp_path / "a", dict.fromkeys(KINDS, 30))
    whole = results.read(a)
    whole["tasks"]["addition"]["categories"]["bio"]["metrics"]["exact_match"]["low"] = None
    (a / "results.json").write_text(results.encode(whole))
    (tmp_path / "gate.yaml").write_text("tasks: {addition: {categories: {bio: {exact_match: {at_least: 0.1}}}}}")
    findings = gate.decide(runs.read(a, "A"), None, policy.read(tmp_path / "gate.yaml"))
    assert gate.overall(findings) is gate.Outcome.inconclusive
