"""What a server says of its own load: one of ours in ``/health``, another program's in its Prometheus metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.core.errors import HttpError
from launcher.core.http import authorization, fetch
from launcher.core.types import Endpoint, Json

TIMEOUT_S = 2.0
RUNNING, QUEUED, GENERATED = "running", "queued", "generated_tokens"
NAMES = {
    **dict.fromkeys(("vllm:num_requests_running", "num_requests_running", "sglang:num_running_reqs"), RUNNING),
    **dict.fromkeys(("vllm:num_requests_waiting", "num_requests_waiting", "sglang:num_queue_reqs"), QUEUED),
    **dict.fromkeys(("vllm:generation_tokens_total", "generation_tokens_total"), GENERATED),
    "sglang:generation_tokens_total": GENERATED,
    "llamacpp:requests_processing": RUNNING,
    "llamacpp:requests_deferred": QUEUED,
    "llamacpp:tokens_predicted_total": GENERATED,
    "launcher_engine_running": RUNNING,
    "launcher_engine_queued": QUEUED,
    "launcher_engine_generated_tokens_total": GENERATED,
}
"""The metrics of vLLM (NIM has the same without prefix), SGLang, llama.cpp, and another launcher."""
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? ([-+.\deE]+)(?: \d+)?$", re.M)


@dataclass(frozen=True)
class Counts:
    """Requests that a server computes, those that wait in it, and the tokens that it generated; None: not known."""

    running: int | None = None
    queued: int | None = None
    generated_tokens: int | None = None


def of_health(answer: Json) -> Counts:
    """Return what an answer of ``/health`` of a built-in server says."""
    engine = answer.get("engine") if isinstance(answer, Mapping) else None
    if not isinstance(engine, Mapping):
        return Counts()
    return Counts(*(value if type(value := engine.get(name)) is int else None for name in (RUNNING, QUEUED, GENERATED)))


class ServerMetrics:
    """Reads ``/metrics`` of another program; a server without metrics that it knows is asked once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._has_any = True

    def read(self) -> Counts:
        if not self._has_any:
            return Counts()
        url = f"{self._endpoint.root}/metrics"
        try:
            answer = fetch("GET", url, timeout_s=TIMEOUT_S, headers=authorization(self._endpoint.api_key))
        except HttpError:
            self._has_any = False  # the probes must not wait for it again
            return Counts()
        found = of_metrics(answer.body.decode(errors="replace")) if answer.status == 200 else Counts()
        self._has_any = found != Counts()
        return found


def of_metrics(text: str) -> Counts:
    """Return what metrics in Prometheus' text format say, summed over the engines of a server."""
    found = Counter[str]()
    for name, value in SAMPLE.findall(text):
        if (known := NAMES.get(name)) is not None:
            try:
                found[known] += int(float(value))
            except (ValueError, OverflowError):
                continue
    return Counts(*(found.get(name) for name in (RUNNING, QUEUED, GENERATED)))
