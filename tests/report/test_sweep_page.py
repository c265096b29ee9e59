"""What the page of a sweep says, before anyone reads its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.core.types import Status
from launcher.report import sweep, sweep_page, sweep_table
from tests.report.report_records import add_point, first_right, record


def page_of(folder: Path) -> str:
    sweep.write(folder)
    return (folder / "sweep.html").read_text(encoding="utf-8")


def sentences(folder: Path) -> list[str]:
    found = sweep_table.collect(folder)
    return [each.sentence for each in sweep_page.verdicts(found, sweep_table.table(found))]


@pytest.mark.parametrize(("rights", "says"), [
    ((90, 40, 30), "x=0 is best, 0.900: significantly better than every other point."),
    ((90, 88, 30), "x=0 has the best value, 0.900. It is significantly better than x=2. The difference to x=1 may be"),
    ((50, 51, 50), "x=1 has the best value, 0.510. No difference to it is significant: all may be chance."),
    ((51, 50, 51), "x=0, x=2 share the best value, 0.510. No difference to it is significant: all may be chance."),
    ((90, 30, 90), "x=0, x=2 share the best value, 0.900. They are significantly better than x=1."),
    ((50, 50, 50), "All points have the same value, 0.500."),
])  # fmt: skip
def test_the_verdict(rights: tuple[int, ...], says: str, tmp_path: Path) -> None:
    for number, right in enumerate(rights):
        add_point(tmp_path, str(number), ["a=1", f"x={number}"], first_right(right))
    assert sentences(tmp_path)[0].startswith(says)
    text = page_of(tmp_path)
    assert "<title>tiny-gpt: sweep over x</title>" in text
    assert text.index("<h2>Verdict</h2>") < text.index("<h2>Scores</h2>") < text.index("<h2>Speed</h2>")
    pairs = text.index("<details><summary>3 pairs of points</summary>")
    assert text.index("<h2>Every pair</h2>") < pairs, "pairs are shown on demand"


def test_lost_samples_are_part_of_the_verdict(tmp_path: Path) -> None:
    add_point(tmp_path, "0", ["x=1"], first_right(5, 10))
    add_point(tmp_path, "1", ["x=2"], [*first_right(1, 2), *(record(20 + n, Status.failed) for n in range(8))])
    assert sentences(tmp_path)[0].endswith("Not all samples were scored: x=2 2 of 10.")
    assert "2 of 10 scored" in (text := page_of(tmp_path))
    assert "<small>of 10 samples</small>" in text


def test_many_points_and_metrics_are_bounded(tmp_path: Path) -> None:
    for number in range(sweep_page.DRAWN + 5):
        add_point(tmp_path, str(number), [f"x={number}"], first_right(3, 5))
    text = page_of(tmp_path)
    assert "5 further points are in the table below" in text
    assert len(re.findall('class="bar-row" data-tip', text)) == sweep_page.DRAWN


def test_a_sweep_without_a_model_of_a_name_is_a_sweep_of_nothing():
    points = [{"model": name} for name in ("none", "model", None)]
    assert sweep_page.models({"points": points}) == ""  # type: ignore[typeddict-item]
    assert sweep_page.models({"points": [*points, {"model": "base"}]}) == "base"  # type: ignore[typeddict-item]
