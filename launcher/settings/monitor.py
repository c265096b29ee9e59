"""How a run's health is read while it goes on."""

from __future__ import annotations

from launcher.core.ranges import Seconds
from launcher.settings.component import component


@component("monitor/monitor")
class Monitor:
    """How the health of server and processes is read, for ``health.jsonl`` and ``/metrics``.

    There is a reading every ``period_s`` seconds. A canary is a completion of one token, which no score counts. It is
    sent beside an evaluation that got no answer since the last reading, and must be answered within
    ``canary_timeout_s``. It never passes an adapter. ``canary`` turns it on or off. Null: on, but for
    ``backend=external``, whose requests may cost money.
    """

    period_s: Seconds = 5.0
    canary: bool | None = None
    canary_timeout_s: Seconds = 30.0
