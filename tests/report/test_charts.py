import math

import pytest

from launcher.core.types import MetricResult, TaskResult
from launcher.report import charts
from launcher.stats.distribution import MOST_EXACT, Distribution
from tests.report.report_records import mixed, task_results


def one(metric):
    (row,) = charts.score_rows({"t": TaskResult({"m": metric}, {})})
    return row


def test_a_proportion_lies_on_an_axis_from_0_to_1_with_its_interval_clipped():
    row = one(MetricResult(0.95, 0.05, 0.85, 1.05, 20, 0.9, 1.0))
    assert (row.axis, row.unusual) == (charts.Axis(0.0, 1.0), False)
    assert (row.value, row.ci, row.bounds) == (95.0, (85.0, 100.0), (90.0, 100.0))


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [
        (MetricResult(14.5, 0.7, 13.1, 15.9, 5, 14.5, 14.5), 0, 20),
        (MetricResult(-3.0, 0.5, -4.0, -2.0, 5, -3.0, -3.0), -4, 0),
        (MetricResult(1.5, math.nan, math.nan, math.nan, 1, 1.5, 1.5), 0, 1.5),
    ],
)
def test_other_numbers_get_an_axis_that_holds_them(metric, low, high):
    row = one(metric)
    assert row.unusual
    assert (row.axis.low, row.axis.high) == pytest.approx((low, high))
    assert 0 <= row.value <= 100


def test_nothing_is_drawn_of_a_metric_without_samples():
    row = one(MetricResult(math.nan, math.nan, math.nan, math.nan, 0, 0.0, 1.0))
    assert (row.value, row.ci, row.bounds) == (None, None, (0.0, 100.0))
    assert charts.describe(row) == "t m: -, possible 0.000 to 1.000"


def test_a_row_is_described_in_words():
    (row,) = charts.score_rows(task_results(mixed(100)))
    assert charts.describe(row).startswith("addition exact_match: 0.")
    assert "95 % confidence" in charts.describe(row)


def distribution(values):
    made = Distribution()
    for value in values:
        made.add(value)
    return made


def test_of_many_latencies_a_histogram_is_within_one_percent():
    latencies = [1 + number / MOST_EXACT for number in range(2 * MOST_EXACT)]
    found = charts.histogram(distribution(latencies))
    assert found.count == 2 * MOST_EXACT
    assert sum(int(bin.label.rsplit(": ", 1)[1].split(" ")[0].replace(",", "")) for bin in found.bins) == found.count
    assert [mark.label for mark in found.percentiles] in (["p50 2.0 s", "p90 2.8 s", "p99 3.0 s"],)


def test_a_histogram_holds_every_latency():
    latencies = [0.1 + number / 1000 for number in range(500)]
    found = charts.histogram(distribution(latencies))
    assert not found.axis.log
    assert sum(int(bin.label.rsplit(": ", 1)[1].split(" ")[0]) for bin in found.bins) == found.count == 500
    assert max(bin.height for bin in found.bins) == 1
    assert [mark.label for mark in found.percentiles] == ["p50 350 ms", "p90 549 ms", "p99 594 ms"]
    assert all(0 <= mark.x <= 100 for mark in (*found.ticks, *found.percentiles))


def test_a_long_tail_gets_a_logarithmic_axis_of_few_ticks():
    found = charts.histogram(distribution([0.01, 0.02, 0.02, 0.03, 40.0]))
    assert found.axis.log
    assert 2 <= len(found.ticks) <= 6
    assert [tick.x for tick in found.ticks] == sorted(tick.x for tick in found.ticks)


@pytest.mark.parametrize("latencies", [[0.0], [0.0, 0.0], [0.25] * 3, [1e-7, 100.0], [0.0, 100.0]])
def test_odd_distributions_are_drawn(latencies):
    found = charts.histogram(distribution(latencies))
    assert found.bins
    assert len(found.ticks) <= 12


@pytest.mark.parametrize("span", [1.0, 1.9, 2.3, 4.6, 9.2])
@pytest.mark.parametrize("scale", [0.001, 0.01, 1.0])
def test_an_axis_can_be_read_at_three_places(span, scale):
    found = charts.histogram(distribution([scale, scale * (1 + span / 2), scale * (1 + span)]))
    assert 3 <= len(found.ticks) <= 12


def test_without_latencies_there_is_no_histogram():
    assert charts.histogram(distribution([])) is None


@pytest.mark.parametrize(("x", "anchor"), [(0, "start"), (50, "middle"), (99, "end")])
def test_labels_stay_inside(x, anchor):
    assert charts.Mark(x, "1 s").anchor == anchor
