"""Times of tokens from vLLM's histograms: the values between two readings, and only where they are those of answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from launcher.core.types import Endpoint
from launcher.pipeline.record import RunRecord
from launcher.pipeline.server_times import percentiles, server_times

BOUNDS = ("0.01", "0.1", "1.0", "+Inf")
GENERATED = {"generations": 10, "scored_prompts": 0, "ttft_s": None, "tpot_s": None}
EMPTY = (0, 0, 0, 0)


def exposition(first: tuple[int, ...], each: tuple[int, ...]) -> str:
    lines = []
    for name, counts in (("time_to_first_token", first), ("inter_token_latency", each)):
        lines.append(f"# TYPE vllm:{name}_seconds histogram")
        for bound, count in zip(BOUNDS, counts, strict=True):
            lines.append(f'vllm:{name}_seconds_bucket{{le="{bound}",model_name="m"}} {count}.0')
        lines += [f'vllm:{name}_seconds_count{{model_name="m"}} {counts[-1]}.0', f"vllm:{name}_seconds_sum 1.0"]
    return "\n".join([*lines, "# TYPE other counter", "other_total 3.0", ""])


@contextmanager
def serving(texts: list[str]) -> Iterator[Endpoint]:
    """Answer each request with the next text, and the last one again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write((texts.pop(0) if len(texts) > 1 else texts[0]).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            yield Endpoint(url, "m", "external", "vllm", is_builtin=False)
        finally:
            server.shutdown()
            thread.join()


def measured(texts: list[str], throughput: Mapping[str, Any]) -> dict[str, Any]:
    record = RunRecord(run={})
    with serving(texts) as endpoint, server_times(endpoint, record):
        record.throughput = throughput
    return dict(record.throughput)


def test_the_values_between_two_readings_count() -> None:
    found = measured([exposition((9, 9, 9, 9), EMPTY), exposition((9, 19, 19, 19), (50, 100, 100, 100))], GENERATED)
    assert found["ttft_s"]["answers"] == 10
    assert found["ttft_s"]["p50"] == pytest.approx(0.055), "all ten lie between 10 and 100 ms"
    assert found["tpot_s"]["p50"] == pytest.approx(0.01)
    assert "vLLM's /metrics" in found["ttft_s"]["source"]


@pytest.mark.parametrize(
    ("texts", "throughput"),
    [
        (["no metrics { here"], GENERATED),
        (["other_total 3.0\n"], GENERATED),
        ([exposition((1, 1, 1, 1), (1, 1, 1, 1))], GENERATED),
        ([exposition(EMPTY, EMPTY), exposition((5, 5, 5, 5), (5, 5, 5, 5))], GENERATED | {"scored_prompts": 4}),
        ([exposition(EMPTY, EMPTY), exposition((5, 5, 5, 5), (5, 5, 5, 5))], GENERATED | {"ttft_s": {"p50": 1.0}}),
        ([exposition(EMPTY, EMPTY), exposition((5, 5, 5, 5), (5, 5, 5, 5))], {}),
    ],
)
def test_what_is_not_known_or_known_better_is_left_as_it_is(texts: list[str], throughput: Mapping[str, Any]) -> None:
    assert measured(texts, throughput) == dict(throughput)


def test_percentiles_lie_within_their_buckets() -> None:
    found = percentiles({0.1: 50.0, 1.0: 90.0, float("inf"): 100.0})
    assert found is not None
    assert (found["p50"], found["p90"], found["p99"]) == (0.1, 1.0, 1.0)
    assert percentiles({float("inf"): 0.0}) is None
