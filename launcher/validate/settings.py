"""The configuration of the validation."""

from __future__ import annotations

from dataclasses import field

from launcher.component import component


@component("validate/validate")
class Validate:
    """What the certificate checks. ``skip`` names checks to leave out; they are reported as such, never as passed.

    ``tolerance`` is the largest accepted difference between a log-probability from the server and one from a direct
    forward pass, in nats. ``timeout_s`` bounds each check in seconds. ``prompt`` is the text that most checks send.
    """

    skip: list[str] = field(default_factory=list)
    tolerance: float = 1e-4
    timeout_s: float = 60.0
    prompt: str = "The quick brown fox jumps over the lazy dog. 7+5="
