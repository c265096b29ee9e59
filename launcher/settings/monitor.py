"""How a run's health is read, and where its page is, while it goes on."""

from __future__ import annotations

from launcher.core.ranges import Port, Seconds
from launcher.settings.component import component


@component("monitor/monitor")
class Monitor:
    """How the health of server and processes is read, for ``health.jsonl`` and ``/metrics``, and the page of a run.

    There is a reading every ``period_s`` seconds. A canary is a completion of one token, which no score counts. It is
    sent beside an evaluation that got no answer since the last reading. A canary must be answered within
    ``canary_timeout_s``. It never passes an adapter. ``canary`` turns the canary on or off. Null: on, but for
    ``backend=external``, whose requests may cost money.

    The page shows a run, sweep or watch while it goes on, in a browser of this machine. ``port`` is the page's; 0 is
    any free port. ``page`` turns the page on or off. Null: on where standard error is a terminal, or ``port`` is given.
    ``launcher view`` shows the same, also of jobs and of runs that are over.
    """

    period_s: Seconds = 5.0
    canary: bool | None = None
    canary_timeout_s: Seconds = 30.0
    page: bool | None = None
    port: Port = 0
