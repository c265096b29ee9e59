from __future__ import annotations

import math
from dataclasses import replace

import pytest

from launcher.core.types import Aggregation, Status
from launcher.evaluate.exchange import AnswerTiming
from launcher.evaluate.statistics import MANY, MOST_CATEGORIES, UNCOUNTED, Throughput, summarize
from launcher.stats.metric import Metric

DECLARED = {"t": (Metric("acc"),)}


def test_every_sample_is_counted_once_and_failures_enter_no_mean(record):
    ends = [Status.scored, Status.scored, Status.truncated, Status.refused, Status.unparsed, Status.failed]
    records = [record(f"t/{i}/0", status, value=float(i == 0)) for i, status in enumerate(ends)]
    found = summarize(records, {"t": 10}, DECLARED)["t"]
    assert found.coverage == {"scored": 2, "truncated": 1, "refused": 1, "unparsed": 1, "failed": 1,
                              "not_asked": 4, "total": 10}  # fmt: skip
    assert (found.metrics["acc"].value, found.metrics["acc"].n) == (0.5, 2)
    assert (found.metrics["acc"].low, found.metrics["acc"].high) == (0.1, 0.9)


def test_metrics_come_in_the_order_in_which_the_task_declares_them(record):
    records = [record("t/0/0", scores={"b": 1.0, "a": 0.0})]
    found = summarize(records, {"t": 1}, {"t": (Metric("a"), Metric("b"), Metric("c"))})["t"]
    assert list(found.metrics) == ["a", "b"]


def test_a_metric_that_cannot_be_computed_is_left_out_with_a_note(record):
    def fails(values):
        raise ZeroDivisionError("no words")

    broken = Metric("ppl", aggregation=Aggregation.corpus, combine=fails)
    found = summarize([record("t/0/0", scores={"ppl": [0, 0]})], {"t": 1}, {"t": (broken,)})["t"]
    assert found.metrics == {}
    assert found.notes == {"ppl cannot be computed: ZeroDivisionError: no words": 1}


def test_the_most_common_reasons_are_counted_per_status(record):
    said = ["full at 7", "full at 8", *["full at 9"] * 2, *["slow"] * 3, *["gone"] * 2, "odd"]
    lost = [replace(record(f"t/{i}/0", Status.failed), reason=reason) for i, reason in enumerate(said)]
    found = summarize([record("t/x/0", Status.scored), *lost], {"t": 11}, DECLARED)["t"]
    assert found.reasons == {"failed": {"full at 7": 4, "slow": 3, "gone": 2}}


def test_a_task_without_scores_has_no_metrics(record):
    found = summarize([record("a/0/0", Status.failed)], {"a": 1, "b": 3}, {})
    assert (found["a"].metrics, found["b"].metrics) == ({}, {})
    assert found["b"].coverage == {"scored": 0, "truncated": 0, "refused": 0, "unparsed": 0, "failed": 0,
                                   "not_asked": 3, "total": 3}  # fmt: skip


def throughput(answered, wall_s):
    made = Throughput()
    for answer in answered:
        made.add(answer)
    return made.facts(wall_s)


def test_throughput_counts_answers_and_their_tokens():
    answered = [*(AnswerTiming(float(i), 3, 2) for i in range(1, 5)), AnswerTiming(5.0, None, None)]
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
        "generations": 5,
        "scored_prompts": 0,
        "scored_prompts_per_s": 0.0,
        "ttft_s": None,
        "tpot_s": None,
        "wall_s": 10.0,
    }


def test_prompts_that_were_scored_and_times_of_tokens_are_apart():
    generated = [AnswerTiming(1.0, 3, 2, ttft_s=0.1 * i, tpot_s=0.01) for i in range(1, 4)]
    found = throughput([*generated, AnswerTiming(1.0, 40, 4, scored_prompts=4), AnswerTiming(1.0, 3, 1)], 2.0)
    assert (found["requests"], found["generations"], found["scored_prompts"]) == (5, 4, 4)
    assert found["scored_prompts_per_s"] == 2.0
    assert found["ttft_s"] == {"p50": 0.2, "p90": 0.28, "p99": 0.298, "answers": 3}
    assert found["tpot_s"] == {"p50": 0.01, "p90": 0.01, "p99": 0.01, "answers": 3}


def test_throughput_of_nothing():
    assert throughput([], 0.0)["requests_per_s"] == 0.0
    assert throughput([], 1.0)["latency_s"] == {}


@pytest.mark.parametrize("totals", [{"t": None}, {}])
def test_where_the_number_of_samples_is_not_known_there_are_no_bounds(record, totals):
    """A total of those that were asked would say that none is missing."""
    found = summarize([record("t/a/0", scores={"acc": 1.0})], totals, {"t": [Metric("acc")]})["t"]
    assert found.metrics["acc"].value == 1.0
    assert math.isnan(found.metrics["acc"].low)
    assert math.isnan(found.metrics["acc"].high)
    assert found.notes == {UNCOUNTED: 1}


def test_each_category_has_its_own_scores(record):
    given = [("b", 1.0), ("a", 0.0), ("a", 1.0), (None, 1.0)]
    records = [replace(record(f"t/{i}/0", value=value), category=name) for i, (name, value) in enumerate(given)]
    lost = replace(record("t/9/0", Status.unparsed), category="a")
    whole = summarize([*records, lost], {"t": 5}, DECLARED)["t"]
    assert list(whole.categories) == ["a", "b"]
    acc = whole.categories["a"].metrics["acc"]
    assert (acc.value, acc.n, acc.low, acc.high) == (0.5, 2, 1 / 3, 2 / 3)
    assert {name: each.coverage["total"] for name, each in whole.categories.items()} == {"a": 3, "b": 1}
    part = summarize([*records, lost], {"t": 6}, DECLARED)["t"]
    assert math.isnan(part.categories["a"].metrics["acc"].low), "the sample that was not asked may be of any category"


def test_a_field_that_is_another_in_each_sample_is_no_category(record):
    records = [replace(record(f"t/{i}/0"), category=str(i)) for i in range(MOST_CATEGORIES + 1)]
    found = summarize(records, {"t": len(records)}, DECLARED)["t"]
    assert (found.categories, found.notes) == ({}, {MANY: len(records)})
