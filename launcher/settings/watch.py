"""How a training run is watched."""

from __future__ import annotations

from enum import Enum

from launcher.core.ranges import Count, CountFromZero, Seconds
from launcher.settings.component import component


class Order(Enum):
    """Which of several checkpoints that wait is evaluated next."""

    oldest = "oldest"
    newest = "newest"


@component("watch/watch")
class Watch:
    """What ``mode=watch`` looks at: ``folder`` is where a training run writes its checkpoints.

    The folder is looked at every ``poll_s`` seconds. A checkpoint without its writer's mark that it is complete must
    stay unchanged for ``settle_s`` seconds (one that does not open, six times as long). ``order``: which of those that
    wait is next, the ``oldest`` or the ``newest``. The watch ends when training has come to the step ``until`` (null:
    never) or, with ``once``, when all that is there is evaluated. At most ``jobs`` jobs of SLURM are there at the same
    time.
    """

    folder: str = ""
    poll_s: Seconds = 30.0
    settle_s: Seconds = 10.0
    order: Order = Order.oldest
    until: CountFromZero | None = None
    once: bool = False
    jobs: Count = 8
