"""What an evaluation sends to its server and gets back, as counts that the monitor reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """The counts so far, and the requests that are in flight now; ``path`` is that of the last request.

    ``failed`` counts requests without an answer and those that the server failed to answer (5xx), ``answered`` all
    others that ended. ``generated_tokens`` are those of the answers that samples ended with.
    """

    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    generated_tokens: int = 0
    path: str | None = None
