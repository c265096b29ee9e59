"""The replicas of a server, from its health, as a run shows them while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from launcher.core.console import one_line
from launcher.core.health import Health, LostProcess, ReplicaHealth
from launcher.core.types import Json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("replica", "pid", "node", "state", "requests", "queued", "tokens/s")
LOSSES = 3
"""The most losses below the table, the last ones."""


class Replicas:
    """Reads the last answer of ``/health`` at each call. A server without replicas shows nothing."""

    def __init__(self, health: Callable[[], Json]) -> None:
        self._health = health
        self._last_loss = 0.0

    def summary(self) -> str:
        """Return for instance ``2 of 2 replicas, 812 tokens/s``."""
        if (health := _of_replicas(self._health())) is None:
            return ""
        rate = sum(replica["tokens_per_s"] for replica in health["replicas"])
        return f"{len(health['replicas'])} of {health['wanted']} replicas, {rate:.0f} tokens/s"

    def losses(self) -> list[str]:
        """Return a line for each loss since the last call."""
        health = _of_replicas(self._health())
        new = [loss for loss in health["lost"] if loss["time"] > self._last_loss] if health else []
        self._last_loss = max((loss["time"] for loss in new), default=self._last_loss)
        return [f"serve: {_loss(loss)}" for loss in new]

    def table(self) -> Table | None:
        """Return a table with a row for each replica, and the last losses below it."""
        from rich.table import Table
        from rich.text import Text

        if (health := _of_replicas(self._health())) is None:
            return None
        lost = Text("\n".join(map(_loss, health["lost"][-LOSSES:])), style="red")
        table = Table(*COLUMNS, box=None, padding=(0, 2, 0, 0), caption=lost or None, caption_justify="left")
        for replica in health["replicas"]:
            table.add_row(*(Text(cell) for cell in _cells(replica)))
        return table


def _of_replicas(answer: Json) -> Health | None:
    """Return an answer of ``/health`` that has replicas, None for any other."""
    return cast(Health, answer) if isinstance(answer, Mapping) and "replicas" in answer else None


def _cells(replica: ReplicaHealth) -> list[str]:
    r = replica
    cells = (r["id"], r["pid"], r["node"], r["state"], r["requests"], r["queued"], r["tokens_per_s"])
    return [one_line(str(cell)) for cell in cells]


def _loss(loss: LostProcess) -> str:
    if loss["pid"] is None:
        return one_line(str(loss["reason"]))
    return one_line(f"lost {loss['id'] or 'a process'} (pid {loss['pid']}): {loss['reason']}")
