"""Decides whether a run may pass: GO, NO-GO, or INCONCLUSIVE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from launcher.core.errors import UserError
from launcher.report import formatting
from launcher.report.compare import BOOTSTRAP
from launcher.report.schema import MetricEntry, TaskEntry
from launcher.verdict import categories, comparison, runs, sequential
from launcher.verdict.policy import Bound, DecideBy, Policy, Rule
from launcher.verdict.runs import Run
from launcher.verdict.words import sentence


class Outcome(Enum):
    """What a gate says; the value is the exit code."""

    go = 0
    no_go = 4
    inconclusive = 5

    @property
    def word(self) -> str:
        return {0: "GO", 4: "NO-GO", 5: "INCONCLUSIVE"}[self.value]


@dataclass(frozen=True)
class Finding:
    """What one rule, or one condition of the run, comes to, and why."""

    name: str
    outcome: Outcome
    detail: str


def decide(run: Run, baseline: Run | None, policy: Policy) -> list[Finding]:
    """Hold a run against each rule of a policy.

    Raises `UserError` where the baseline did not measure the same.
    """
    if baseline is not None:
        if baseline.folder.resolve() == run.folder.resolve():
            raise UserError(f"gate: {run.folder} is its own baseline; give that of another run")
        lines = runs.measured_otherwise(baseline, run)
        if lines:
            what = "\n".join(f"  {line}" for line in lines)
            raise UserError(
                f"gate: {baseline.folder} and {run.folder} did not measure the same; evaluate one of them again "
                f"with the other's settings, or name another baseline. The differences:\n{what}"
            )
    pairs = comparison.rows([baseline, run], inside=True) if baseline is not None else []
    held = (
        found
        for rule in policy.rules
        for found in (
            _held(rule, run, pairs, policy) if rule.category is None else _in_categories(rule, run, baseline, policy)
        )
    )
    return [*_trust(run, policy), *held]


def overall(findings: Sequence[Finding]) -> Outcome:
    """Return NO-GO if any rule is broken, else INCONCLUSIVE if any is undecided, else GO.

    All rules must hold, so that several of them need no correction (an intersection-union test, Berger 1982).
    """
    found = {finding.outcome for finding in findings}
    return next((outcome for outcome in (Outcome.no_go, Outcome.inconclusive) if outcome in found), Outcome.go)


def _trust(run: Run, policy: Policy) -> Iterator[Finding]:
    """Yield what must hold before a score counts: how the run ended, its certificate, and its coverage."""
    status, certificate = run.results["status"], run.results["certificate"]
    ended = Outcome.go if status in ("ok", "incomplete") else Outcome.inconclusive
    yield Finding("status", ended, f"the run ended {status}")
    if certificate is None:
        yield Finding("certificate", Outcome.inconclusive, "the endpoint was not validated")
    else:
        failed = ", ".join(check["name"] for check in certificate["failed_checks"])
        passed = f"{formatting.plural(certificate['passed'], 'check')} passed"
        yield Finding("certificate", _if(certificate["ok"]), f"failed: {failed}" if failed else passed)
    for name, entry in run.results["tasks"].items():
        scored, total = entry["coverage"]["scored"], formatting.total(entry["coverage"])
        share = scored / total if total else 0.0
        detail = f"{scored:,} of {total:,} samples scored, at least {policy.coverage:g} of them asked for"
        yield Finding(f"coverage {formatting.task_name(name)}", _if(share >= policy.coverage), detail)


def _if(fine: bool) -> Outcome:
    return Outcome.go if fine else Outcome.inconclusive


def _held(rule: Rule, run: Run, pairs: Sequence[comparison.Row], policy: Policy) -> Iterator[Finding]:
    every: dict[str, TaskEntry] = {**run.results["groups"], **run.results["tasks"]}
    names = [
        (name, metric)
        for name, entry in every.items()
        if _is_named(name, rule)
        for metric in entry["metrics"]
        if fnmatchcase(metric, rule.metric)
    ]
    if not names:
        yield Finding(str(rule), Outcome.inconclusive, f"the run has no such metric; it has {_listed(every)}")
    for name, metric in names:
        title = f"{formatting.task_name(name)} {metric} {rule.bound.value} {rule.limit:g}"
        if rule.bound is Bound.no_worse_by:
            row = next((row for row in pairs if (row.found.task, row.found.metric) == (name, metric)), None)
            yield Finding(title, *_against_baseline(row, every[name]["metrics"][metric], rule.limit, policy.decide_by))
        else:
            yield Finding(title, *_against_bound(every[name]["metrics"][metric], rule, policy.decide_by))


def _is_named(task: str, rule: Rule) -> bool:
    return fnmatchcase(task, rule.task) or fnmatchcase(formatting.task_name(task), rule.task)


def _in_categories(rule: Rule, run: Run, baseline: Run | None, policy: Policy) -> Iterator[Finding]:
    """Hold each category that a rule names against its bound."""
    named = [
        (task, category, metric, entry)
        for task, whole in run.results["tasks"].items()
        if _is_named(task, rule)
        for category, each in (whole.get("categories") or {}).items()
        if category == rule.category or fnmatchcase(category, rule.category or "")
        for metric, entry in each["metrics"].items()
    ]
    found = [each for each in named if fnmatchcase(each[2], rule.metric)]
    if named and not found:
        metrics = list(dict.fromkeys(metric for _, _, metric, _ in named))
        yield Finding(str(rule), Outcome.inconclusive, f"the category has no such metric; it has {_some(metrics)}")
    elif not found:
        every = run.results["tasks"].items()
        known = [
            f"{formatting.task_name(task)} {category}"
            for task, whole in [each for each in every if _is_named(each[0], rule)] or every
            for category in whole.get("categories") or {}
        ]
        yield Finding(str(rule), Outcome.inconclusive, f"the run has no such category; it has {_some(known)}")
    for task, category, metric, entry in found:
        title = f"{formatting.task_name(task)} {category} {metric} {rule.bound.value} {rule.limit:g}"
        if rule.bound is Bound.no_worse_by and baseline is not None:
            row = categories.of_task(baseline, run, task, metric).get(category)
            yield Finding(title, *_against_baseline(row, entry, rule.limit, policy.decide_by))
        else:
            yield Finding(title, *_against_bound(entry, rule, policy.decide_by))


def _listed(every: dict[str, TaskEntry]) -> str:
    names = [f"{formatting.task_name(name)} {metric}" for name, entry in every.items() for metric in entry["metrics"]]
    return _some(names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"


def _check_reach(entry: MetricEntry, rule: Rule) -> None:
    """Raise `UserError` for a bound that no value of the metric can keep: 60 where 0.6 is meant."""
    low, high = entry["range"]
    over = rule.bound is Bound.at_least and high is not None and rule.limit > high
    under = rule.bound is Bound.at_most and low is not None and rule.limit < low
    if over or under:
        ends = " to ".join("any number" if end is None else f"{end:g}" for end in (low, high))
        raise UserError(f"gate: {rule}: {rule.metric} is from {ends}, so that no run can keep it")


def _against_bound(entry: MetricEntry, rule: Rule, decide_by: DecideBy) -> tuple[Outcome, str]:
    """Hold an interval against a bound; samples without a score widen it as far as they could move the value."""
    _check_reach(entry, rule)
    value = entry["value"]
    if value is None:
        return Outcome.inconclusive, "it has no value"
    ends = _span(entry) if decide_by is DecideBy.interval else (value, value)
    shown = f"{formatting.number(value)}"
    if None in ends:
        return Outcome.inconclusive, f"{shown}, whose interval is not known; decide_by: value takes the value alone"
    low, high = (float(end) for end in ends if end is not None)
    span = f" in {formatting.interval(low, high)}" if decide_by is DecideBy.interval else ""
    sign = 1 if rule.bound is Bound.at_least else -1
    return _decided(min(sign * low, sign * high), max(sign * low, sign * high), sign * rule.limit), shown + span


def _span(entry: MetricEntry) -> tuple[float | None, float | None]:
    low, high, value = entry["ci_low"], entry["ci_high"], entry["value"]
    if low is None or high is None or value is None:
        return None, None
    if entry["low"] is None or entry["high"] is None:
        return None, None
    return low - (value - entry["low"]), high + (entry["high"] - value)


def _widened(row: comparison.Row, entry: MetricEntry) -> tuple[float, float] | None:
    """Return the interval of the gain, as far as the questions that are left out could move it.

    A confidence sequence has this in itself. None where the interval is not known, or they could move it by any number.
    """
    gains, lost, n = row.gains, row.found.left_out, row.found.n
    if gains is None or not lost or row.found.test == sequential.TEST:
        return gains
    low, high = entry["range"]
    if row.found.test == BOOTSTRAP or low is None or high is None:
        return None
    low_end, high_end = (
        (end * n + sign * lost * (high - low)) / (n + lost) for end, sign in zip(gains, (-1, 1), strict=True)
    )
    return low_end, high_end


def _against_baseline(
    row: comparison.Row | None, entry: MetricEntry, margin: float, decide_by: DecideBy
) -> tuple[Outcome, str]:
    if row is None:
        return Outcome.inconclusive, "the baseline has no question in common with it"
    gains = (row.gain, row.gain) if decide_by is DecideBy.value else _widened(row, entry)
    detail = sentence(row)
    if row.found.left_out and decide_by is DecideBy.interval:
        detail += f"; {formatting.plural(row.found.left_out, 'question')} without a score in both widen the interval"
    if gains is None or any(map(math.isnan, gains)):
        return Outcome.inconclusive, f"{detail}; the interval is not known"
    return _decided(*gains, -margin), detail


def _decided(low: float, high: float, limit: float) -> Outcome:
    """Tell whether all of an interval is at or above a limit, all of it below, or neither."""
    if low >= limit:
        return Outcome.go
    return Outcome.no_go if high < limit else Outcome.inconclusive
