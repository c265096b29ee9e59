from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.response_stats import ResponseStats
from launcher.core.errors import TransportError, UserError
from launcher.core.types import Request, Response
from launcher.stats.sketch import Sketch

REQUEST = Request("/v1/completions", {})
ANSWER = Response(200, {"usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}})


async def session(tmp_path, *handlers):
    stats = ResponseStats()
    async with stats.running(tmp_path, Downstream(None)):
        for handler in handlers:
            try:
                found = await stats(REQUEST, handler)
            except TransportError:
                continue
            if found.events is not None:
                assert [event async for event in found.events]
    return json.loads((tmp_path / "response_stats.json").read_text())["/v1/completions"]


async def test_answers_are_counted_by_status_over_sessions(server, tmp_path):
    await session(tmp_path, server(ANSWER), server(Response(500, {})))
    found = await session(tmp_path, server(ANSWER), server(TransportError("gone")))
    assert {status: one["answers"] for status, one in found.items()} == {"200": 2, "500": 1, "no answer": 1}
    assert found["200"]["total_tokens"] == 10
    times = found["200"]["latency_s"]
    assert sum(times["buckets"].values()) == 2
    assert 0 < times["p50"] <= times["p99"] <= times["max"] * 1.01


async def test_a_mean_is_that_of_all_answers_of_all_sessions(server, tmp_path, monkeypatch):
    """NeMo Evaluator reports 887.5 for such times, and doubles the totals of a run that is repeated."""
    for latencies_s in ([1000, 1000, 1000], [100], []):
        moments = iter([moment for latency_s in latencies_s for moment in (0.0, latency_s)])
        clock = SimpleNamespace(perf_counter=lambda moments=moments: next(moments))
        monkeypatch.setattr("launcher.adapters.response_stats.time", clock)
        found = await session(tmp_path, *[server(ANSWER) for _ in latencies_s])
    assert found["200"]["latency_s"]["mean"] == 775
    assert (found["200"]["answers"], found["200"]["total_tokens"]) == (4, 20)


async def test_a_cached_answer_has_no_time(server, tmp_path):
    found = await session(tmp_path, server(Response(200, ANSWER.body, cached=True)))
    assert found["200"]["cached"] == 1
    assert "latency_s" not in found["200"]


async def test_a_cached_stream_has_no_time_either(server, stream, tmp_path):
    found = await session(tmp_path, server(Response(200, events=stream([{"choices": []}, ANSWER.body]), cached=True)))
    assert {name: found["200"].get(name) for name in ("answers", "cached", "total_tokens", "first_event_s")} == {
        "answers": 1, "cached": 1, "total_tokens": 5, "first_event_s": None,
    }  # fmt: skip
    assert "latency_s" not in found["200"]


async def test_a_stream_has_the_times_of_its_events(server, stream, tmp_path):
    events = [{"choices": []}, {"choices": []}, {"choices": [], "usage": {"completion_tokens": 7}}]
    found = await session(tmp_path, server(Response(200, events=stream(events))))
    counts = {name: sum(found["200"][name]["buckets"].values()) for name in ("first_event_s", "between_events_s")}
    assert counts == {"first_event_s": 1, "between_events_s": 2}
    assert found["200"]["completion_tokens"] == 7


async def test_a_damaged_file_is_named(server, tmp_path):
    (tmp_path / "response_stats.json").write_text("[]")
    with pytest.raises(UserError, match=r"response_stats\.json"):
        await session(tmp_path, server(ANSWER))


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.99, 1])
def test_a_quantile_is_within_a_hundredth(share):
    values = sorted(random.Random(1).lognormvariate(-2, 2) for _ in range(5000))
    sketch, other = Sketch(), Sketch()
    for n, value in enumerate(values):
        (sketch if n % 2 else other).add(value)
    merged = Sketch(sketch.buckets + other.buckets)
    assert merged.quantile(share) == pytest.approx(values[max(0, math.ceil(share * len(values)) - 1)], rel=0.0101)


def test_a_sketch_of_nothing_has_no_quantile():
    assert Sketch().quantile(0.5) is None
