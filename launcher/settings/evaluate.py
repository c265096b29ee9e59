"""How tasks are asked."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

from launcher.core.errors import UserError
from launcher.settings.component import component


@component("evaluate/evaluate")
class Evaluate:
    """How the samples of all tasks are asked.

    ``concurrency``: requests in flight. ``repeats``: how often every sample is asked. ``limit``: the first samples of
    each task only. ``temperature``, ``max_tokens`` and ``seed`` replace what the tasks say (null: as the tasks say) for
    requests that generate; log-likelihood requests stay as they are. Repeat number r is asked with ``seed`` + r.
    ``timeout_s`` bounds one request, ``max_answer_mb`` the size of one answer in MiB. An answer without a
    ``finish_reason`` may have been cut: it fails, unless ``accept_missing_finish``; either way it is counted. While the
    server is gone or restarts the evaluation pauses: nothing is sent, nothing fails, and what was under way is asked
    again; after ``max_pause_s`` seconds it stops with exit code 3, to be continued with ``resume=``. ``min_coverage``
    is the share of a task's samples that must be scored for the run to be complete.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset(
        {"concurrency", "timeout_s", "max_answer_mb", "max_pause_s", "accept_missing_finish", "min_coverage"}
    )
    """Fields that a resumed run may change."""

    concurrency: int = 16
    repeats: int = 1
    limit: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    timeout_s: float = 600.0
    max_answer_mb: float = 64.0
    accept_missing_finish: bool = False
    max_pause_s: float = 600.0
    min_coverage: float = 0.95

    def __post_init__(self) -> None:
        for key, least in (("concurrency", 1), ("repeats", 1), ("limit", 1), ("max_tokens", 1), ("temperature", 0)):
            value = getattr(self, key)
            if isinstance(value, int | float) and value < least:
                raise UserError(f"evaluate.{key} is {value}; {least} or more is needed")
        for key in ("timeout_s", "max_answer_mb"):
            value = getattr(self, key)
            if isinstance(value, int | float) and not value > 0:
                raise UserError(f"evaluate.{key} is {value}; more than 0 is needed")
        if isinstance(self.max_pause_s, int | float) and not self.max_pause_s >= 0:
            raise UserError(f"evaluate.max_pause_s is {self.max_pause_s}; 0 or more is needed")
        if isinstance(self.min_coverage, int | float) and not 0 <= self.min_coverage <= 1:
            raise UserError(f"evaluate.min_coverage is {self.min_coverage}; a share from 0 to 1 is needed")

    @classmethod
    def answer_fields(cls) -> list[str]:
        """Return the fields that decide what is asked; a run is resumed only where they are equal."""
        return [field.name for field in fields(cls) if field.name not in cls.NEUTRAL]
