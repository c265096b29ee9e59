"""The configuration of the load test."""

from __future__ import annotations

from dataclasses import field

from launcher.core.errors import UserError
from launcher.core.ranges import Count, Seconds
from launcher.settings.component import component


@component("load/load")
class Load:
    """How the endpoint's speed is measured, after its validation.

    ``test`` turns the load test on, as ``launcher check`` does. ``in_flight`` are the levels: how many requests are in
    flight at a time. Each level takes ``seconds``, or longer where answers do. The test ends after the knee, where more
    in flight bring no more tokens. Prompts have about ``prompt_tokens`` tokens of random words, fewer where the context
    is too short. Answers have ``max_tokens``: with ``ignore_eos``, the server is asked to go on after an answer's end,
    unless it refuses that key. ``budget_s`` and ``budget_tokens`` (prompt and generated) bound the whole test.
    ``timeout_s`` bounds the wait for each event of an answer.
    """

    test: bool = False
    in_flight: list[Count] = field(default_factory=lambda: [1, 4, 16, 64, 256])
    seconds: Seconds = 5.0
    prompt_tokens: Count = 128
    max_tokens: Count = 64
    ignore_eos: bool = True
    budget_s: Seconds = 60.0
    budget_tokens: Count = 1_000_000
    timeout_s: Seconds = 60.0

    def __post_init__(self) -> None:
        if not self.in_flight or sorted(set(self.in_flight)) != list(self.in_flight):
            raise UserError(f"load.in_flight={self.in_flight}: expected one or more rising numbers, such as [1,4,16]")
