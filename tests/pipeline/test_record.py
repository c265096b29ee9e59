"""The ledger times steps and freezes what is known."""

from __future__ import annotations

import pytest

from launcher.pipeline.record import RunRecord


def test_a_step_is_timed_also_when_it_fails() -> None:
    ledger = RunRecord({})
    with pytest.raises(ValueError, match="no"), ledger.step("serve"):
        raise ValueError("no")
    assert ledger.timings["serve"] >= 0


def test_a_report_keeps_what_was_known_when_it_was_made() -> None:
    ledger = RunRecord({"config": {}})
    report = ledger.report("ok")
    ledger.timings["late"] = 1.0
    assert report.timings == {}
    assert report.status == "ok"
