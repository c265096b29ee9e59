"""GO, NO-GO and INCONCLUSIVE: rules on the intervals of a run, and against a baseline."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Check, Status
from launcher.verdict import exports, gate, policy, runs
from launcher.verdict.gate import Outcome
from tests.report.report_records import HOSTILE, record
from tests.verdict.run_folders import answered, run_folder


def decided(tmp_path: Path, rules: str, records=None, baseline=None, **changes) -> dict[str, tuple[Outcome, str]]:
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "gate.yaml"
    file.write_text(rules)
    run = runs.read(run_folder(tmp_path / "run", records or answered(set(range(80))), **changes), "run")
    held = baseline and runs.read(run_folder(tmp_path / "base", baseline), "baseline")
    findings = gate.decide(run, held or None, policy.read(file, tmp_path / "base" if baseline else None))
    return {finding.name: (finding.outcome, finding.detail) for finding in findings}


def rule(bound: str, extra: str = "") -> str:
    return f"{extra}\ntasks: {{addition: {{exact_match: {{{bound}}}}}}}"


@pytest.mark.parametrize(
    ("bound", "outcome"),
    [
        ("at_least: 0.6", Outcome.go),
        ("at_least: 0.79", Outcome.inconclusive),
        ("at_least: 0.81", Outcome.inconclusive),
        ("at_least: 0.95", Outcome.no_go),
        ("at_most: 0.95", Outcome.go),
        ("at_most: 0.79", Outcome.inconclusive),
        ("at_most: 0.5", Outcome.no_go),
    ],
)
def test_a_bound_is_held_against_the_interval(tmp_path: Path, bound: str, outcome: Outcome) -> None:
    found = decided(tmp_path, rule(bound))
    name = f"addition exact_match {bound.replace(':', '')}"
    assert found[name][0] is outcome


def test_a_bound_can_be_held_against_the_value(tmp_path: Path) -> None:
    found = decided(tmp_path, rule("at_least: 0.79, at_most: 0.8", "decide_by: value"))
    assert [outcome for outcome, _ in found.values()] == [Outcome.go] * len(found)
    assert found["addition exact_match at_least 0.79"][1] == "0.800"


def test_samples_without_a_score_widen_the_interval(tmp_path: Path) -> None:
    lost = [record(number, Status.failed) for number in range(100, 140)]
    rules = rule("at_least: 0.7", "coverage: 0.5")
    name = "addition exact_match at_least 0.7"
    assert decided(tmp_path / "whole", rules)[name][0] is Outcome.go
    assert decided(tmp_path / "lossy", rules, answered(set(range(80))) + lost)[name][0] is Outcome.inconclusive


@pytest.mark.parametrize(
    ("margin", "right", "outcome"),
    [(0.05, range(80), Outcome.go), (0.05, range(78), Outcome.go), (0.01, range(78), Outcome.inconclusive),
     (0.05, range(60), Outcome.no_go)],
)  # fmt: skip
def test_a_run_is_no_worse_than_its_baseline(tmp_path: Path, margin: float, right: range, outcome: Outcome) -> None:
    found = decided(tmp_path, rule(f"no_worse_by: {margin}"), answered(set(right)), baseline=answered(set(range(80))))
    assert found[f"addition exact_match no_worse_by {margin:g}"][0] is outcome


def test_a_baseline_that_measured_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not measure the same"):
        decided(tmp_path, rule("no_worse_by: 0.1"), evaluate={"seed": 3}, baseline=answered({1}))


def test_a_run_does_not_gain_by_failing_where_its_baseline_is_right(tmp_path: Path) -> None:
    """The questions that only the baseline scored widen the interval: the others alone would be GO."""
    base = answered(set(range(80)))
    lossy = [record(n, Status.failed if 60 <= n < 80 else Status.scored, right=n < 60) for n in range(100)]
    rules, name = rule("no_worse_by: 0.05", "coverage: 0.5"), "addition exact_match no_worse_by 0.05"
    outcome, detail = decided(tmp_path, rules, lossy, baseline=base)[name]
    assert outcome is Outcome.inconclusive
    assert detail.endswith("20 questions without a score in both widen the interval")
    by_value = decided(
        tmp_path / "value", rule("no_worse_by: 0.05", "coverage: 0.5\ndecide_by: value"), lossy, baseline=base
    )
    assert by_value[name][0] is Outcome.go


def test_a_bound_that_no_value_can_keep_is_a_mistake(tmp_path: Path) -> None:
    for bound in ("at_least: 60", "at_most: -0.1"):
        with pytest.raises(UserError, match=r"exact_match is from 0 to 1, so that no run can keep it"):
            decided(tmp_path / bound[:7], rule(bound))


def test_a_run_is_no_baseline_of_itself(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(rule("no_worse_by: 0.1", "baseline: run"))
    made = runs.read(run_folder(tmp_path / "run", answered({1})), "run")
    with pytest.raises(UserError, match="is its own baseline"):
        gate.decide(made, made, policy.read(tmp_path / "gate.yaml"))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"status": "interrupted"}, "status"),
        ({"checks": ()}, "certificate"),
        ({"checks": (Check("greedy repeats", False, "it does not"),)}, "certificate"),
        ({"records": [*answered(set(range(90))), record(200, Status.unparsed)]}, "coverage addition"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_inconclusive(tmp_path: Path, changes: dict, name: str) -> None:
    found = decided(tmp_path, rule("at_least: 0.5"), **changes)
    assert {key for key, (outcome, _) in found.items() if outcome is Outcome.inconclusive} == {name}


@pytest.mark.parametrize("tasks", ["{addtion: {exact_match: {at_least: 0}}}", "{addition: {acc: {at_least: 0}}}"])
def test_a_rule_without_a_metric_is_never_go(tmp_path: Path, tasks: str) -> None:
    found = decided(tmp_path, f"tasks: {tasks}")
    (missing,) = [detail for outcome, detail in found.values() if outcome is Outcome.inconclusive]
    assert "addition exact_match" in missing


def test_patterns_name_several_metrics(tmp_path: Path) -> None:
    found = decided(tmp_path, 'tasks: {"*": {"exact*": {at_least: 0.1}}}')
    assert found["addition exact_match at_least 0.1"][0] is Outcome.go


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [("ggg", Outcome.go), ("gig", Outcome.inconclusive), ("gin", Outcome.no_go), ("", Outcome.go)],
)
def test_the_worst_finding_decides(outcomes: str, whole: Outcome) -> None:
    kinds = {"g": Outcome.go, "i": Outcome.inconclusive, "n": Outcome.no_go}
    assert gate.overall([gate.Finding(letter, kinds[letter], "") for letter in outcomes]) is whole
    assert (whole.value, whole.word) in [(0, "GO"), (4, "NO-GO"), (5, "INCONCLUSIVE")]


def test_findings_are_written_for_ci(tmp_path: Path) -> None:
    findings = [
        gate.Finding("a", Outcome.go, "fine"),
        gate.Finding(f"b {HOSTILE}\x1b", Outcome.no_go, "a | b"),
        gate.Finding("c", Outcome.inconclusive, HOSTILE),
    ]
    suite = ElementTree.parse(exports.junit(findings, tmp_path / "gate.xml")).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [len(case) for case in suite] == [0, 1, 1]
    assert suite[1][0].get("message") == "NO-GO: a | b"
    lines = exports.markdown(findings, tmp_path / "gate.md").read_text().splitlines()
    assert lines[0] == "## NO-GO"
    assert "a \\| b" in lines[5]
    assert "<script>" not in "".join(lines)
