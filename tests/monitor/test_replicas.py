"""What is shown of replicas while a run goes on."""

from __future__ import annotations

import io

from rich.console import Console

from launcher.core.types import Json
from launcher.monitor.replicas import Replicas

HEALTH = {
    "status": "replacing",
    "wanted": 2,
    "replicas": [
        {"id": "a", "pid": 11, "node": "n1", "state": "live", "requests": 7, "queued": 3, "tokens_per_s": 40.6}
    ],
    "lost": [{"id": "b", "pid": 12, "reason": "its process died", "time": 5.0}],
}
RAY = {"id": None, "pid": None, "reason": "Ray was lost: the raylet died", "time": 6.0}


def test_a_row_for_each_replica_and_the_last_losses() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(Replicas(lambda: HEALTH).table())
    head, row, loss = (line.split() for line in out.getvalue().splitlines())
    assert head == ["replica", "pid", "node", "state", "requests", "queued", "tokens/s"]
    assert row == ["a", "11", "n1", "live", "7", "3", "40.6"]
    assert " ".join(loss) == "lost b (pid 12): its process died"


def test_each_loss_is_told_once() -> None:
    seen: list[Json] = [HEALTH]
    replicas = Replicas(lambda: seen[-1])
    assert replicas.summary() == "1 of 2 replicas, 41 tokens/s"
    assert replicas.losses() == ["serve: lost b (pid 12): its process died"]
    assert replicas.losses() == []
    seen.append(HEALTH | {"lost": [*HEALTH["lost"], RAY]})
    assert replicas.losses() == ["serve: Ray was lost: the raylet died"]


def test_a_server_without_replicas_shows_nothing() -> None:
    for health in (None, {"status": "live"}, "ok"):
        replicas = Replicas(lambda health=health: health)
        assert (replicas.summary(), replicas.losses(), replicas.table()) == ("", [], None)
