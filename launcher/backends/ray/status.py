"""Health and metrics of all replicas together, and the requests that come while no replica is ready."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily
from starlette.requests import Request
from starlette.responses import Response

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response, json_response
from launcher.backends.balancer import NO_REPLICA
from launcher.backends.merged_metrics import exposed, merge
from launcher.backends.ray.registry import ReplicaRegistry
from launcher.backends.ray.scaler import Scaler
from launcher.backends.ray.shared_secret import HEADER
from launcher.backends.replica_status import ReplicaStatus
from launcher.core import health_metrics
from launcher.core.connections import Connections
from launcher.core.errors import HttpError
from launcher.core.health import Health
from launcher.core.http import Answer, exchange, netloc, parsed
from launcher.engines.base import EngineState

TIMEOUT_S = 5.0
COUNTS = tuple(field.name for field in fields(EngineState) if field.name != "error")
LABELS = ("replica", "pid", "node")
GAUGES = {
    "requests": "Open requests that the balancer has sent to a replica",
    "running": "Sequences that a replica generates",
    "queued": "Sequences that wait in a replica",
    "tokens_per_s": "Tokens per second that a replica generates",
}


class Status(ReplicaStatus):
    """Sends a request to every replica, and adds up the responses."""

    def __init__(self, registry: ReplicaRegistry, scaler: Scaler, secret: str, folder: Path) -> None:
        self._registry = registry
        self._scaler = scaler
        self._secret = secret
        self._folder = folder

    def has_replica(self) -> bool:
        return bool(self._registry.replicas())

    async def health(self, request: Request) -> Response:
        """Return the state of the service, the sum of all engines' counters, and each replica's state."""
        answers = await self._ask_replicas("/health", request)
        states = [parsed(answer.body)["engine"] for answer in answers]
        total = EngineState(**{name: sum(state[name] for state in states) for name in COUNTS})
        answer: Health = {
            "status": "live" if len(states) >= self._scaler.wanted else "replacing",
            "engine": asdict(total),
            "replicas": self._registry.describe(),
            "wanted": self._scaler.wanted,
            "scaled": self._scaler.decisions[-16:],
            "lost": self._registry.lost(),
        }
        return json_response(answer)

    async def metrics(self, request: Request) -> Response:
        """Return the sum of the replicas' counters for Prometheus, and each replica's load."""
        answers = await self._ask_replicas("/metrics", request)
        refused = [answer for answer in answers if answer.status != 200]
        if refused:
            return Response(refused[0].body, refused[0].status, media_type="application/json")
        texts = [answer.body.decode() for answer in answers]
        if not texts:
            return error_response(ApiError(503, NO_REPLICA, code="no_replica"))
        health = health_metrics.text(self._folder)
        return Response(merge(texts) + self._replicas() + health, media_type=CONTENT_TYPE_LATEST)

    def _replicas(self) -> bytes:
        lines = self._registry.describe()
        families = [
            GaugeMetricFamily("launcher_replicas", "Replicas that answer", value=len(lines)),
            GaugeMetricFamily("launcher_replicas_wanted", "Replicas that autoscaling wants", value=self._scaler.wanted),
        ]
        states = GaugeMetricFamily(
            "launcher_replica_state", "live, or the reason for the replacement", labels=(*LABELS, "state")
        )
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
        """Return the time and the reason of each of the last losses."""
        text = "When a replica was lost, in seconds since 1970"
        family = GaugeMetricFamily("launcher_replica_lost_time", text, labels=("replica", "pid", "reason"))
        for loss in self._registry.lost():
            family.add_metric((loss["id"] or "", str(loss["pid"] or ""), loss["reason"]), loss["time"])
        return family

    async def _ask_replicas(self, path: str, request: Request) -> list[Answer]:
        """Return the responses of the replicas, without those of replicas that die during the request."""
        sent = {name: value for name, value in request.headers.items() if name == "authorization"}
        headers = sent | {HEADER: self._secret}
        urls = [f"http://{netloc(*replica.address[:2])}{path}" for replica in self._registry.replicas()]

        async def read(url: str) -> Answer | None:
            try:
                return await exchange(connections, "GET", url, timeout_s=TIMEOUT_S, headers=headers)
            except HttpError:
                return None

        async with Connections() as connections:
            found = await asyncio.gather(*map(read, urls))
        return [answer for answer in found if answer is not None and answer.status < 500]
