"""The record times steps and freezes what is known."""

from __future__ import annotations

import pytest

from launcher.pipeline.record import RunRecord


def test_a_step_is_timed_also_when_it_fails() -> None:
    record = RunRecord({})
    with pytest.raises(ValueError, match="no"), record.step("serve"):
        raise ValueError("no")
    assert record.timings["serve"] >= 0


def test_a_report_keeps_what_was_known_when_it_was_made() -> None:
    record = RunRecord({"config": {}})
    report = record.report("ok")
    record.timings["late"] = 1.0
    assert report.timings == {}
    assert report.status == "ok"
