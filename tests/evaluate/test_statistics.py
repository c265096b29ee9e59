from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest

from launcher.core.types import Status
from launcher.evaluate.exchange import Timing
from launcher.evaluate.statistics import metric, percentile, summarize, throughput, wilson


def values(*numbers):
    return [(str(i), float(n)) for i, n in enumerate(numbers)]


def test_mean_and_standard_error_are_those_of_the_textbook():
    numbers = [0.2, 0.9, 0.4, 0.4, 1.0]
    found = metric(values(*numbers), 5)
    assert found.value == pytest.approx(statistics.mean(numbers))
    assert found.stderr == pytest.approx(statistics.stdev(numbers) / math.sqrt(5))
    assert found.ci_low == pytest.approx(found.value - 1.959964 * found.stderr)
    assert found.ci_high == pytest.approx(found.value + 1.959964 * found.stderr)
    assert found.n == 5


def test_zeros_and_ones_have_wilsons_interval():
    found = metric(values(*[1] * 8, 0, 0), 10)
    assert (found.value, found.stderr) == (0.8, pytest.approx(math.sqrt(0.16 / 9)))
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))


def test_all_right_is_not_certain():
    found = metric(values(*[1] * 10), 10)
    assert (found.value, found.stderr, found.ci_high) == (1.0, 0.0, 1.0)
    assert found.ci_low == pytest.approx(0.722467, abs=1e-6)


def test_a_single_sample_says_little():
    found = metric(values(1), 1)
    assert found.ci_low == pytest.approx(0.206549, abs=1e-6)
    assert found.stderr > 0.2
    assert metric(values(0.5), 1).ci_low == 0.0
    assert metric(values(0.5), 1).ci_high == 1.0


def test_the_bounds_count_what_was_not_scored_as_all_wrong_and_all_right():
    found = metric(values(1, 1, 0), 10)
    assert (found.low, found.high) == (0.2, 0.9)


def test_repeats_of_one_question_are_no_new_questions():
    once = metric([(str(i), float(i % 2)) for i in range(20)], 20)
    five_times = metric([(str(i), float(i % 2)) for i in range(20) for _ in range(5)], 100)
    assert five_times.stderr == pytest.approx(once.stderr)
    assert five_times.ci_low == pytest.approx(once.ci_low, abs=0.02)
    assert five_times.ci_high == pytest.approx(once.ci_high, abs=0.02)
    same = metric([(str(i), 1.0) for i in range(4) for _ in range(5)], 20)
    assert same.ci_low == pytest.approx(wilson(1.0, 4)[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, inside = random.Random(0), 0
    for _ in range(400):
        found = metric(values(*(rng.random() < 0.3 for _ in range(60))), 60)
        inside += found.ci_low <= 0.3 <= found.ci_high
    assert 0.91 <= inside / 400 <= 0.99


def test_every_sample_is_counted_once_and_failures_enter_no_mean(record):
    ends = [Status.scored, Status.scored, Status.truncated, Status.refused, Status.unparsed, Status.failed]
    records = [record(f"t/{i}/0", status, value=float(i == 0)) for i, status in enumerate(ends)]
    found = summarize(records, {"t": 10})["t"]
    assert found.coverage == {"scored": 2, "truncated": 1, "refused": 1, "unparsed": 1, "failed": 1,
                              "not_asked": 4, "total": 10}  # fmt: skip
    assert (found.metrics["acc"].value, found.metrics["acc"].n) == (0.5, 2)
    assert (found.metrics["acc"].low, found.metrics["acc"].high) == (0.1, 0.9)


def test_the_most_common_reasons_are_counted_per_status(record):
    said = ["full at 7", "full at 8", *["full at 9"] * 2, *["slow"] * 3, *["gone"] * 2, "odd"]
    lost = [replace(record(f"t/{i}/0", Status.failed), reason=reason) for i, reason in enumerate(said)]
    found = summarize([record("t/x/0", Status.scored), *lost], {"t": 11})["t"]
    assert found.reasons == {"failed": {"full at 7": 4, "slow": 3, "gone": 2}}


def test_a_task_without_scores_has_no_metrics(record):
    found = summarize([record("a/0/0", Status.failed)], {"a": 1, "b": 3})
    assert (found["a"].metrics, found["b"].metrics) == ({}, {})
    assert found["b"].coverage == {"scored": 0, "truncated": 0, "refused": 0, "unparsed": 0, "failed": 0,
                                   "not_asked": 3, "total": 3}  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_numpys(share, count):
    np = pytest.importorskip("numpy")
    numbers = sorted(random.Random(count).random() for _ in range(count))
    assert percentile(numbers, share) == pytest.approx(float(np.percentile(numbers, share * 100)))


def test_throughput_counts_answers_and_their_tokens():
    answered = [*(Timing(float(i), 3, 2) for i in range(1, 5)), Timing(5.0, None, None)]
    assert throughput(answered, 10.0) == {
        "requests": 5,
        "requests_per_s": 0.5,
        "generated_tokens": 8,
        "generated_tokens_per_s": 0.8,
        "prompt_tokens": 12,
        "prompt_tokens_per_s": 1.2,
        "cached": 0,
        "without_usage": 1,
        "latency_s": {"p50": 3.0, "p90": 4.6, "p99": 4.96},
        "wall_s": 10.0,
    }


def test_throughput_of_nothing():
    assert throughput([], 0.0)["requests_per_s"] == 0.0
    assert throughput([], 1.0)["latency_s"] == {}
