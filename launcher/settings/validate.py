"""The configuration of the validation."""

from __future__ import annotations

from dataclasses import field

from launcher.core.errors import UserError
from launcher.core.ranges import Positive, Seconds
from launcher.settings.component import component


@component("validate/validate")
class Validate:
    """What the certificate checks. ``skip`` has names or ids of checks to leave out; they are reported as such.

    ``tolerance`` is the largest allowed difference, in nats, between log-probabilities of the server and of a direct
    forward pass. Greedy answers may differ only where two tokens are closer than that. null derives it from the
    rounding error of this model in its floating point type (docs/engines.md). ``timeout_s`` bounds each check in
    seconds. ``warm_up_timeout_s`` bounds the first request of each kind, for which a server may compile (null:
    ``backend.start_timeout_s``, else 600). ``prompt`` is the text that most checks send; it should have characters
    beyond ASCII, since servers that count bytes are right without them.
    """

    skip: list[str] = field(default_factory=list)
    tolerance: Positive | None = None
    timeout_s: Seconds = 60.0
    warm_up_timeout_s: Seconds | None = None
    prompt: str = "The quick brown fox jumps over the lazy dog in the café at Zürich. 7+5="

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("validate.prompt: it is empty; expected a text of a few words")
