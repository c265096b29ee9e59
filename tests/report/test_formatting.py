import math

import pytest

from launcher.core.types import MetricResult
from launcher.report import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.5, "-0.500"), (1.0, "1.000"), (14.5, "14.5"), (12345.6, "12,346"), (4812, "4,812"),
     (8670244979.0, "8.670e+09"), (math.nan, "-"), (math.inf, "-"), (None, "-"), (True, "-"), ("x", "-")],
)  # fmt: skip
def test_number(value, text):
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0002, "0.2 ms"), (0.042, "42 ms"), (0.9996, "1.0 s"), (3.44, "3.4 s"), (59.97, "1 min 00 s"),
     (125, "2 min 05 s"), (3599.7, "1 h 00 min"), (3720, "1 h 02 min"), (math.nan, "-")],
)  # fmt: skip
def test_duration(seconds, text):
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (9999, 10000, "99.9 %"), (1, 100000, "0.1 %"), (1, 3, "33.3 %")],
)
def test_percent_rounds_to_0_or_100_only_when_it_is(part, whole, text):
    assert formatting.percent(part, whole) == text


def test_interval():
    assert formatting.interval(0.1, 0.25) == "[0.100, 0.250]"
    assert formatting.interval(0.1, None) == "-"


def test_plural():
    assert [formatting.plural(count, "line") for count in (0, 1, 1200)] == ["0 lines", "1 line", "1,200 lines"]


def test_p_value():
    assert [formatting.p_value(p) for p in (0.5, 0.0012, 1e-9)] == ["0.50", "0.0012", "< 0.0001"]


def test_coverage_counts():
    coverage = {"scored": 5, "truncated": 0, "refused": 1, "unparsed": 0, "failed": 2, "total": 10}
    assert formatting.lost(coverage) == {"refused": 1, "failed": 2}
    assert (formatting.not_asked(coverage), formatting.total(coverage), formatting.complete(coverage)) == (2, 10, False)
    assert formatting.complete({"scored": 3, "total": 3})


def test_bounded():
    metric = MetricResult(0.5, 0.1, 0.3, 0.7, 10, 0.4, 0.6)
    assert formatting.bounded(metric)
    assert not formatting.bounded(MetricResult(0.5, 0.1, 0.3, 0.7, 10, 0.5, 0.5))
    assert not formatting.bounded(MetricResult(math.nan, math.nan, math.nan, math.nan, 0, math.nan, math.nan))


@pytest.mark.parametrize(
    ("key", "shown"), [("gsm8k", "gsm8k"), ("lm_eval_arc_easy", "lm_eval/arc_easy"), ("my_lm_eval_x", "my_lm_eval_x")]
)
def test_a_task_of_lm_eval_is_written_as_its_option(key: str, shown: str) -> None:
    assert formatting.task_name(key) == shown


def test_where_nothing_was_generated_the_rates_are_those_of_prompts():
    scored = {"generations": 0, "scored_prompts_per_s": 8.0, "generated_tokens_per_s": 8.0, "prompt_tokens_per_s": 90.0}
    assert list(formatting.rates(scored).values()) == ["prompts scored/s", "prompt tokens/s"]
    assert formatting.token_times(scored) == []


def test_times_of_tokens_are_said_or_said_not_to_be_measured():
    assert formatting.token_times({"generations": 3, "ttft_s": None, "tpot_s": None}) == [formatting.NO_TOKEN_TIMES]
    found = {"generations": 3, "ttft_s": {"p50": 0.05, "p99": 0.07}, "tpot_s": {"p50": 0.01, "p99": 0.02}}
    assert formatting.token_times(found) == [
        "time to first token p50 50 ms p99 70 ms",
        "time per token p50 10 ms p99 20 ms",
    ]
    assert formatting.token_times({}) == [], "a report of an older run"
