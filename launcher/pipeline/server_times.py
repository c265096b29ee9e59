"""Times of tokens from the histograms of vLLM, whose answers do not say them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from launcher.core.errors import HttpError
from launcher.core.http import authorization, fetch
from launcher.core.types import Endpoint, Json
from launcher.pipeline.record import RunRecord

NAMES = {
    "ttft_s": ("vllm:time_to_first_token_seconds",),
    "tpot_s": (
        "vllm:request_time_per_output_token_seconds",
        "vllm:time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds",
    ),
}
"""vLLM counts them in its engine, so also of answers that are not streamed; which it has depends on its version."""
SOURCE = "vLLM's /metrics, of all its requests in this time"
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PATIENCE_S = 5.0
Buckets = Mapping[float, float]
"""The number of values up to each bound."""


@contextmanager
def server_times(endpoint: Endpoint, record: RunRecord) -> Iterator[None]:
    """Add the times of tokens to the throughput of what is evaluated inside, where the server's answers lack them.

    They hold for runs that only generate: the histograms do not tell prompts that were scored from answers.
    """
    before = {} if endpoint.is_builtin else _histograms(endpoint)
    yield
    found = dict(record.throughput)
    if before and found.get("generations") and not found.get("scored_prompts") and not found.get("ttft_s"):
        after = _histograms(endpoint)
        record.throughput = found | _times(before, after)


def _histograms(endpoint: Endpoint) -> dict[str, Buckets]:
    """Return the histograms of a server; none of one without them."""
    try:
        answer = fetch("GET", f"{endpoint.root}/metrics", timeout_s=PATIENCE_S, headers=authorization(endpoint.api_key))
        return read(answer.body.decode(errors="replace")) if answer.status == 200 else {}
    except (HttpError, ValueError):
        return {}


def read(text: str) -> dict[str, Buckets]:
    """Return the histograms with these names, summed over their labels. Raises `ValueError`."""
    from prometheus_client.parser import text_string_to_metric_families

    wanted = {f"{name}_bucket": name for names in NAMES.values() for name in names}
    found: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if name := wanted.get(sample.name):
                bound = float(sample.labels["le"])
                buckets = found.setdefault(name, {})
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return dict(found)


def _times(before: Mapping[str, Buckets], after: Mapping[str, Buckets]) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for key, names in NAMES.items():
        for name in names:
            if key not in made and name in before and name in after:
                new = {bound: count - before[name].get(bound, 0.0) for bound, count in after[name].items()}
                if (found := percentiles(new)) is not None:
                    made[key] = found | {"source": SOURCE}
    return made


def percentiles(buckets: Buckets) -> dict[str, Json] | None:
    """Return percentiles, interpolated within a bucket, and how many values there are; None without any."""
    total = buckets.get(math.inf, 0.0)
    if total <= 0:
        return None
    values = {name: round(_quantile(buckets, share * total), 6) for name, share in PERCENTILES.items()}
    return {**values, "answers": round(total)}


def _quantile(buckets: Buckets, rank: float) -> float:
    low, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank:
            share = (rank - below) / (count - below) if count > below else 1.0
            return low if math.isinf(bound) else low + (bound - low) * share
        low, below = bound, count
    return low
