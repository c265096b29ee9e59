"""The shape of ``results.json``, for those who read it in Python; ``results.schema.json`` says the same in JSON."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from launcher.core.types import Json

VERSION = 2


class MetricEntry(TypedDict):
    """A `launcher.core.types.MetricResult`; a number that is not known is None.

    ``function`` is the name of what combines the values of samples, ``module:name``; a mean has none.
    """

    value: float | None
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    low: float | None
    high: float | None
    direction: str
    interval: str
    aggregation: str
    range: list[float | None]
    function: NotRequired[str]


class HarnessEntry(TypedDict):
    """A task that a harness asked; the number of samples is None where it is not known."""

    command: list[str]
    exit_code: int
    seconds: float
    requests: int
    samples: int | None
    source: NotRequired[str]


class EarlyStopEntry(TypedDict):
    """A task whose questions were drawn at random from those of its ``population``: itself, or a group.

    ``asked`` of the ``total`` questions have an answer. If ``decided``, the verdict ``until`` needs no more of them.
    """

    population: str
    until: Json
    level: float
    metric: str
    asked: int
    total: int
    decided: bool


class CategoryEntry(TypedDict):
    """The samples of a task's category that were asked."""

    metrics: dict[str, MetricEntry]
    coverage: dict[str, int]


class TaskEntry(TypedDict):
    """A task's metrics by name, its samples by status, and why samples were lost."""

    metrics: dict[str, MetricEntry]
    coverage: dict[str, int]
    reasons: dict[str, dict[str, int]]
    notes: NotRequired[dict[str, int]]
    retried: NotRequired[dict[str, dict[str, int]]]
    harness: NotRequired[HarnessEntry]
    early_stop: NotRequired[EarlyStopEntry]
    categories: NotRequired[dict[str, CategoryEntry]]


class GroupEntry(TaskEntry):
    """A group of tasks: the sums of its members, and the members without a score, for which it has no metrics."""

    members: list[str]
    weight: str
    missing: list[str]


class EndpointEntry(TypedDict):
    """The server that was evaluated."""

    url: str
    model: str
    backend: str
    engine: str


class PauseEntry(TypedDict):
    """A time in which the evaluation waited for its server."""

    start: str
    seconds: float
    reason: str


class CheckEntry(TypedDict):
    """A check: its ``id`` never changes, its ``name`` is for readers."""

    id: str
    name: str


class CertificateEntry(TypedDict):
    """The checks of the certificate, counted. Those that `validate.skip` names are ``left_out``.

    ``not_needed`` are those of ``not_applicable`` that are so because no task of the run needs what they test.
    """

    ok: bool
    passed: int
    failed: int
    warnings: int
    not_applicable: int
    left_out: int
    not_needed: NotRequired[int]
    failed_checks: list[CheckEntry]
    warned_checks: list[CheckEntry]
    left_out_checks: list[CheckEntry]


class SpreadEntry(TypedDict):
    """Percentiles in seconds; None where nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


class PartEntry(TypedDict):
    """A `launcher.load_test.measurement.Part`: a part of the time of a level; seconds, None for no answer."""

    generated_tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None


class LevelEntry(TypedDict):
    """A `launcher.load_test.measurement.Level`: what a number of requests in flight gave."""

    in_flight: int
    requests: int
    failed: int
    generated_tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    tokens_per_answer: float
    ttft_s: SpreadEntry
    tpot_s: SpreadEntry
    latency_s: SpreadEntry
    errors: list[str]
    parts: NotRequired[list[PartEntry]]


class PrefixCacheEntry(TypedDict):
    """The median times to the first token, in seconds, of new prompts and of those sent again.

    ``cached_tokens`` are those that the server says it had cached; None where it says nothing.
    """

    new_s: float
    again_s: float
    cached_tokens: NotRequired[int | None]
    found: bool


class LoadEntry(TypedDict):
    """The load test, as in ``load.json``. ``knee`` is the fewest in flight with nearly the most tokens per second."""

    path: str
    prompt_tokens: int
    max_tokens: int
    levels: list[LevelEntry]
    prefix_cache: PrefixCacheEntry | None
    seconds: float
    tokens: int
    ended: str
    knee: int | None
    ignore_eos: NotRequired[bool]


class EventEntry(TypedDict):
    """What happened to a server or a process at ``time``, UTC in ISO 8601."""

    time: str
    event: str


class HealthEntry(TypedDict):
    """The readings of ``health.jsonl``, counted, and their events, of which many are ``left_out``."""

    readings: int
    events: list[EventEntry]
    left_out: int


class ResultsFile(TypedDict):
    """``results.json``."""

    schema_version: int
    status: str
    reason: str | None
    run: dict[str, Json]
    endpoint: EndpointEntry | None
    engine: dict[str, Json]
    groups: dict[str, GroupEntry]
    tasks: dict[str, TaskEntry]
    throughput: dict[str, Json]
    timings: dict[str, float | None]
    pauses: list[PauseEntry]
    certificate: CertificateEntry | None
    load: NotRequired[LoadEntry]
    load_left_out: NotRequired[str]
    health: NotRequired[HealthEntry]
