"""Decides whether a run may pass: GO, NO-GO, or INCONCLUSIVE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from launcher.core.errors import UserError
from launcher.report import formatting
from launcher.report.schema import MetricEntry, TaskEntry
from launcher.verdict import comparison, runs
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
        lines = runs.measured_otherwise(baseline, run)
        if lines:
            what = "\n".join(f"  {line}" for line in lines)
            raise UserError(
                f"gate: {baseline.folder} and {run.folder} did not measure the same; evaluate one of them again "
                f"with the other's settings, or name another baseline. The differences:\n{what}"
            )
    pairs = comparison.rows([baseline, run], inside=True) if baseline is not None else []
    return [*_trust(run, policy), *(found for rule in policy.rules for found in _held(rule, run, pairs, policy))]


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
        if fnmatchcase(name, rule.task) or fnmatchcase(formatting.task_name(name), rule.task)
        for metric in entry["metrics"]
        if fnmatchcase(metric, rule.metric)
    ]
    if not names:
        yield Finding(str(rule), Outcome.inconclusive, f"the run has no such metric; it has {_listed(every)}")
    for name, metric in names:
        title = f"{formatting.task_name(name)} {metric} {rule.bound.value} {rule.limit:g}"
        if rule.bound is Bound.no_worse_by:
            row = next((row for row in pairs if (row.found.task, row.found.metric) == (name, metric)), None)
            yield Finding(title, *_against_baseline(row, rule.limit, policy.decide_by))
        else:
            yield Finding(title, *_against_bound(every[name]["metrics"][metric], rule, policy.decide_by))


def _listed(every: dict[str, TaskEntry]) -> str:
    names = [f"{formatting.task_name(name)} {metric}" for name, entry in every.items() for metric in entry["metrics"]]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"


def _against_bound(entry: MetricEntry, rule: Rule, decide_by: DecideBy) -> tuple[Outcome, str]:
    """Hold an interval against a bound; samples without a score widen it as far as they could move the value."""
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


def _against_baseline(row: comparison.Row | None, margin: float, decide_by: DecideBy) -> tuple[Outcome, str]:
    if row is None:
        return Outcome.inconclusive, "the baseline has no question in common with it"
    gains = (row.gain, row.gain) if decide_by is DecideBy.value else row.gains
    detail = sentence(row)
    if gains is None or any(map(math.isnan, gains)):
        return Outcome.inconclusive, f"{detail}; the interval is not known"
    return _decided(*gains, -margin), detail


def _decided(low: float, high: float, limit: float) -> Outcome:
    """Tell whether all of an interval is at or above a limit, all of it below, or neither."""
    if low >= limit:
        return Outcome.go
    return Outcome.no_go if high < limit else Outcome.inconclusive
