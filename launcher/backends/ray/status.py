"""Health and metrics of all replicas together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, fields

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response, json_response
from launcher.backends.ray.balancer import NOBODY, RETRY_AFTER_S
from launcher.backends.ray.registry import ReplicaRegistry
from launcher.backends.ray.scaler import Scaler
from launcher.backends.ray.shared_secret import HEADER
from launcher.core.health import Health
from launcher.core.http import Answer, HttpError, exchange, netloc, parsed, session
from launcher.engines.base import EngineState

TIMEOUT_S = 5.0
HOLD_S = 60.0
"""So long a request waits for a replica; a client that asks five times then outlasts most replacements."""
STEP_S = 0.05
COUNTS = tuple(field.name for field in fields(EngineState) if field.name != "error")
LABELS = ("replica", "pid", "node")
GAUGES = {
    "requests": "Requests that the balancer has sent to a replica and that are under way",
    "running": "Sequences that a replica generates",
    "queued": "Sequences that wait in a replica",
    "tokens_per_s": "Tokens per second that a replica generated lately",
}


class Status:
    """Asks every replica what it would answer itself, and adds up."""

    def __init__(self, fleet: ReplicaRegistry, scaler: Scaler, secret: str) -> None:
        self._fleet = fleet
        self._scaler = scaler
        self._secret = secret

    def app(self) -> Starlette:
        """Return the app that answers ``/health`` and ``/metrics``, and lets everything else wait."""
        routes = [Route(f"/health{end}", self.health) for end in ("", "/")]
        routes += [Route(f"/metrics{end}", self.metrics) for end in ("", "/")]
        return Starlette(routes=[*routes, Route("/{path:path}", self.wait, methods=["GET", "POST"])])

    async def wait(self, request: Request) -> Response:
        """Hold a request that came while there was no replica, until there is one to ask again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                while not self._fleet.members():
                    await asyncio.sleep(STEP_S)
        return error_response(ApiError(503, NOBODY, code="no_replica", headers={"Retry-After": str(RETRY_AFTER_S)}))

    async def health(self, request: Request) -> Response:
        """Say that the service lives, with all engines' counters added up, and each replica's state."""
        answers = await self._ask("/health", request)
        states = [parsed(answer.body)["engine"] for answer in answers]
        total = EngineState(**{name: sum(state[name] for state in states) for name in COUNTS})
        answer: Health = {
            "status": "live" if len(states) >= self._scaler.wanted else "replacing",
            "engine": asdict(total),
            "replicas": self._fleet.describe(),
            "wanted": self._scaler.wanted,
            "scaled": self._scaler.decisions[-16:],
            "lost": self._fleet.lost(),
        }
        return json_response(answer)

    async def metrics(self, request: Request) -> Response:
        """Add up the replicas' counters for Prometheus, and show each replica's load."""
        answers = await self._ask("/metrics", request)
        refused = [answer for answer in answers if answer.status != 200]
        if refused:
            return Response(refused[0].body, refused[0].status, media_type="application/json")
        texts = [answer.body.decode() for answer in answers]
        if not texts:
            return error_response(ApiError(503, NOBODY, code="no_replica"))
        return Response(merge(texts) + self._replicas(), media_type=CONTENT_TYPE_LATEST)

    def _replicas(self) -> bytes:
        lines = self._fleet.describe()
        families = [
            GaugeMetricFamily("launcher_replicas", "Replicas that answer", value=len(lines)),
            GaugeMetricFamily("launcher_replicas_wanted", "Replicas that there should be", value=self._scaler.wanted),
        ]
        states = GaugeMetricFamily("launcher_replica_state", "live, or what is wrong", labels=(*LABELS, "state"))
        for line in lines:
            states.add_metric((line["id"], str(line["pid"]), line["node"], line["state"]), 1)
        families.append(states)
        for name, text in GAUGES.items():
            family = GaugeMetricFamily(f"launcher_replica_{name}", text, labels=LABELS)
            for line in lines:
                value = line[name]  # type: ignore[literal-required]  # a key of `ReplicaHealth`
                family.add_metric((line["id"], str(line["pid"]), line["node"]), value)
            families.append(family)
        return exposed([*families, self._losses()])

    def _losses(self) -> GaugeMetricFamily:
        """Return when each of the replicas that left lately did, and why."""
        text = "When a replica was lost, in seconds since 1970"
        family = GaugeMetricFamily("launcher_replica_lost_time", text, labels=("replica", "pid", "reason"))
        for loss in self._fleet.lost():
            family.add_metric((loss["id"] or "", str(loss["pid"] or ""), loss["reason"]), loss["time"])
        return family

    async def _ask(self, path: str, request: Request) -> list[Answer]:
        """Return what the replicas that are there answer; one that dies while it is asked is left out."""
        sent = {name: value for name, value in request.headers.items() if name == "authorization"}
        headers = sent | {HEADER: self._secret}
        urls = [f"http://{netloc(*m.address[:2])}{path}" for m in self._fleet.members()]

        async def read(url: str) -> Answer | None:
            try:
                return await exchange(http, "GET", url, timeout_s=TIMEOUT_S, headers=headers)
            except HttpError:
                return None

        async with session(max(1, len(urls))) as http:
            found = await asyncio.gather(*map(read, urls))
        return [answer for answer in found if answer is not None and answer.status < 500]


def merge(texts: Iterable[str]) -> bytes:
    """Add up, sample by sample, what several servers say in Prometheus' text format.

    The times at which their counters began are left out: they have no sum.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(lambda: defaultdict(float))
    for family in (f for text in texts for f in text_string_to_metric_families(text) if f.name[-8:] != "_created"):
        families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            values[family.name][sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return exposed(families.values())


def exposed(families: Iterable[Metric]) -> bytes:
    """Return metric families in Prometheus' text format."""
    collected = list(families)

    class Ready(Collector):
        def collect(self) -> Iterable[Metric]:
            return collected

    return generate_latest(Ready())
