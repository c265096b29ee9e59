"""How a training run is watched."""

from __future__ import annotations

from enum import Enum

from launcher.core.errors import UserError
from launcher.settings.component import component


class Order(Enum):
    """Which of several checkpoints that wait is evaluated next."""

    oldest = "oldest"
    newest = "newest"


@component("watch/watch")
class Watch:
    """What ``mode=watch`` looks at: ``folder`` is where a training run writes its checkpoints.

    It is looked at every ``poll_s`` seconds. A checkpoint without its writer's mark that it is complete must stay
    unchanged for ``settle_s`` seconds (one that does not open, six times as long). ``order``: which of those that wait
    is next, the ``oldest`` or the ``newest``. The watch ends when training has come to the step ``until`` (null: never)
    or, with ``once``, when all that is there is evaluated. At most ``jobs`` jobs of SLURM are there at the same time.
    """

    folder: str = ""
    poll_s: float = 30.0
    settle_s: float = 10.0
    order: Order = Order.oldest
    until: int | None = None
    once: bool = False
    jobs: int = 8

    def __post_init__(self) -> None:
        for name in ("poll_s", "settle_s"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise UserError(f"watch.{name}={value}: accepted is a number of seconds above 0")
        for name, least in (("jobs", 1), ("until", 0)):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise UserError(f"watch.{name}={value}: accepted is a number from {least}")
