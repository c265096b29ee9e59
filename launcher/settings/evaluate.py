"""How tasks are asked."""

from __future__ import annotations

from dataclasses import field, fields
from enum import Enum
from typing import Annotated, Any, ClassVar

from launcher.core.ranges import (
    Count,
    CountFromZero,
    CountOrAuto,
    Fraction,
    NonNegative,
    Positive,
    Range,
    Seconds,
    SecondsFromZero,
    Seed,
    Takes,
)
from launcher.settings.budget import Budget
from launcher.settings.component import component

Factor = Annotated[float, Range(above=1, most=1000)]
"""How many times more."""


class Choices(Enum):
    """How choices of one token are scored."""

    auto = "auto"
    echo = "echo"
    next_token = "next_token"


@component("evaluate/evaluate")
class Evaluate:
    """How the samples of all tasks are asked.

    ``concurrency`` is how many requests are in flight, or ``auto``, which follows what the server can take.
    ``repeats`` is how often every sample is asked. ``limit`` takes the first samples of each task only.
    ``temperature``, ``max_tokens`` and ``seed`` replace what the tasks say (null: as the tasks say) for requests that
    generate; log-likelihood requests stay as they are. Repeat number r is asked with ``seed`` + r. ``timeout_s`` bounds
    one request, ``max_answer_mb`` the size of one answer in MiB. An answer without a ``finish_reason`` may be
    incomplete: it fails unless ``accept_missing_finish`` is set, and is counted in both cases.

    With ``retry_truncated``, a factor such as 2, a truncated sample is asked once more with so many times its token
    limit, within the model's context. With ``retry_failed``, a failed sample is asked once more at the end, unless the
    20 before it changed nothing, or its scorer raised an error. A sample whose scoring takes longer than
    ``score_timeout_s`` is failed. The time in which the scoring waits for requests does not count.

    Of the echo of a log-likelihood, ``samples.jsonl`` keeps what its score reads: the context is one entry without a
    log-probability. ``store_prompt_logprobs`` keeps the log-probabilities of all tokens of the prompt, about 50 times
    as much for few-shot prompts.

    The first ``keep_failures`` samples that fail or are refused leave their requests and answers in ``failed/`` of the
    run folder. They are as they went over the wire, with secrets redacted.

    ``choices`` says how choices are scored that are one token each, as the letters of MMLU are. ``echo`` asks for the
    log-probabilities of one prompt per choice. ``next_token`` asks once for those of the tokens behind the context,
    which a server reads from its cache. The certificate must have proved that both are equal. ``auto`` is
    ``next_token`` where it has, and else ``echo``. Choices of several tokens, and those that merge with the end of the
    context, are always asked by an echo.

    ``budget`` ends an evaluation of a paid endpoint in order.

    ``until`` stops a task or group as soon as its interval is narrow enough (null: all samples are asked). It is such
    as ``width:0.02``, or a mapping of tasks and groups to widths. Questions are then asked in a random order, which
    ``order_seed`` decides.

    While the server is gone or restarts, the evaluation pauses, and then asks the interrupted requests again. After a
    pause of ``max_pause_s`` seconds the evaluation stops with exit code 3, and ``resume=`` continues it.
    ``min_coverage`` is the share of a task's samples that must be scored for the run to be complete.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset(
        {
            *("concurrency", "timeout_s", "max_answer_mb", "max_pause_s", "accept_missing_finish", "min_coverage"),
            *("retry_failed", "score_timeout_s", "keep_failures", "store_prompt_logprobs"),
            *("budget", "until", "choices"),
        }
    )
    """Fields that a resumed run may change."""

    concurrency: CountOrAuto = 16
    repeats: Count = 1
    limit: Count | None = None
    temperature: NonNegative | None = None
    max_tokens: Count | None = None
    seed: Seed | None = None
    timeout_s: Seconds = 600.0
    max_answer_mb: Positive = 64.0
    accept_missing_finish: bool = False
    retry_truncated: Factor | None = None
    retry_failed: bool = True
    score_timeout_s: Seconds = 600.0
    keep_failures: CountFromZero = 20
    store_prompt_logprobs: bool = False
    choices: Choices = Choices.auto
    budget: Budget = field(default_factory=Budget)
    until: Annotated[Any, Takes("width:NUMBER, or a mapping of tasks and groups to such widths, or null")] = None
    order_seed: Seed = 0
    max_pause_s: SecondsFromZero = 600.0
    min_coverage: Fraction = 0.95

    @classmethod
    def answer_fields(cls) -> list[str]:
        """Return the fields that decide what is asked; a run is resumed only where they are equal."""
        return [each.name for each in fields(cls) if each.name not in cls.NEUTRAL]
