"""Failures in a row exhaust a budget; a long time of work restores it."""

from __future__ import annotations

from launcher.core.restart_budget import RestartBudget


def test_failures_in_a_row_exhaust_the_budget() -> None:
    budget = RestartBudget(3, stable_s=10)
    for ready_s in (0, 9, float("-inf")):
        assert not budget.exhausted
        budget.record_failure(ready_s)
    assert budget.exhausted


def test_a_failure_after_a_stable_time_starts_a_new_row() -> None:
    budget = RestartBudget(2, stable_s=10)
    for ready_s in (0, 11, 1000, 11):
        budget.record_failure(ready_s)
        assert budget.failures == 1
    budget.record_failure(1)
    assert budget.exhausted


def test_without_a_stable_time_all_failures_count() -> None:
    budget = RestartBudget(2)
    budget.record_failure(1e9)
    budget.record_failure(1e9)
    assert budget.exhausted
