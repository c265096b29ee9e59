"""What a server's health says of its replicas, as a run shows it while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from launcher.core.console import one_line
from launcher.core.types import Json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("replica", "pid", "node", "state", "requests", "queued", "tokens/s")
LOSSES = 3
"""So many of the last losses are shown below the table."""


class Replicas:
    """Reads the last answer to ``/health`` each time that it is asked; a server without replicas shows nothing."""

    def __init__(self, health: Callable[[], Json]) -> None:
        self._health = health
        self._told = 0.0

    def summary(self) -> str:
        """Return for instance ``2 of 2 replicas, 812 tokens/s``."""
        detail = _detail(self._health())
        if "replicas" not in detail:
            return ""
        rate = sum(replica["tokens_per_s"] for replica in detail["replicas"])
        return f"{len(detail['replicas'])} of {detail['wanted']} replicas, {rate:.0f} tokens/s"

    def losses(self) -> list[str]:
        """Return a line for each loss that was not told before."""
        new = [loss for loss in _detail(self._health()).get("lost", ()) if loss["time"] > self._told]
        self._told = max((loss["time"] for loss in new), default=self._told)
        return [f"serve: {_loss(loss)}" for loss in new]

    def table(self) -> Table | None:
        """Return a row for each replica, and below them what was lost lately and why."""
        from rich.table import Table
        from rich.text import Text

        detail = _detail(self._health())
        if "replicas" not in detail:
            return None
        lost = Text("\n".join(map(_loss, detail["lost"][-LOSSES:])), style="red")
        table = Table(*COLUMNS, box=None, padding=(0, 2, 0, 0), caption=lost or None, caption_justify="left")
        for replica in detail["replicas"]:
            table.add_row(*(Text(cell) for cell in _cells(replica)))
        return table


def _detail(health: Json) -> Mapping[str, Json]:
    return health if isinstance(health, Mapping) else {}


def _cells(replica: Mapping[str, Json]) -> list[str]:
    names = ("id", "pid", "node", "state", "requests", "queued", "tokens_per_s")
    return [one_line(str(replica[name])) for name in names]


def _loss(loss: Mapping[str, Json]) -> str:
    if loss["pid"] is None:
        return one_line(str(loss["reason"]))
    return one_line(f"lost {loss['id'] or 'a process'} (pid {loss['pid']}): {loss['reason']}")
