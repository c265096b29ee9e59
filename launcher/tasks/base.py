"""The task interface: `samples` makes the requests, `score` judges the responses, `metrics` sum the scores up."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar, TypeVar

from launcher.core.errors import DataMissing, TaskError, UserError
from launcher.core.types import Ask, Endpoint, Json, Response, Sample, Score
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric


@contextmanager
def naming(task: str) -> Iterator[None]:
    """Put the task's name before the message of a `TaskError` about its items."""
    try:
        yield
    except TaskError as error:
        raise type(error)(f"tasks.{task}: {error}") from None


def cluster_name(shared: Json) -> str:
    """Return a short name of what the samples of a cluster share."""
    return blake2b(json.dumps(shared, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def check_tasks(tasks: Mapping[str, Task], evaluate: Evaluate, *, may_lack_data: bool = False) -> None:
    """Raise `UserError` for a name that a sample's key cannot hold, and for metrics that cannot be used.

    These are none, two of one name, and such as raise an error. Raise it also for what a task's `Task.check` refuses.
    With ``may_lack_data``, a task is not checked whose data are not on this machine.
    """
    for name, task in tasks.items():
        if "/" in name or not name.strip():
            raise UserError(f"tasks: {name!r} cannot be the name of a task; expected a text without '/'")
        try:
            names = [metric.name for metric in task.metrics]
        except DataMissing as error:
            if may_lack_data:
                continue
            raise UserError(f"tasks.{name}: {error}") from None
        except UserError as error:
            raise UserError(f"tasks.{name}: {error}") from None
        except Exception as error:
            raise UserError(f"tasks.{name}: its metrics cannot be used: {type(error).__name__}: {error}") from error
        if not names and not task.metrics_in_results:
            raise UserError(f"tasks.{name}: {type(task).__name__} declares no metric; a task needs at least one")
        twice = next((metric for metric in names if names.count(metric) > 1), None)
        if twice is not None:
            raise UserError(f"tasks.{name}: {type(task).__name__} declares the metric '{twice}' more than once")
        try:
            task.check(evaluate)
        except UserError as error:
            raise UserError(f"tasks.{name}: {error}") from None


Method = TypeVar("Method", bound=Callable[..., object])


def faultless(kept: Method) -> Method:
    """Mark a `Task.kept` whose answers have no fault if those that it is given have none."""
    vars(kept)["is_faultless"] = True
    return kept


@dataclass
class Task(ABC):
    """The configuration of a task; a component of the group ``tasks``."""

    asks_judge: ClassVar[bool] = False
    """Whether `score` asks the endpoint named ``judge``; a run of such a task needs one."""
    metrics_in_results: ClassVar[bool] = False
    """Whether only the results say which metrics there are, besides those that `metrics` declares."""
    neutral: ClassVar[frozenset[str]] = frozenset()
    """Settings that a resumed run may change."""

    @property
    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """The metrics that `score` may give, the main one first."""

    def preview(self, name: str, model: str) -> Iterator[Sample]:
        """Yield the samples that are checked before anything is loaded; they show what the server must be able to do.

        A task that needs the endpoint to make its samples yields examples of them.
        """
        return self.samples(name, model)

    def prepare(self, endpoint: Endpoint) -> None:  # noqa: B027  (most tasks need nothing of it)
        """Get what `samples` needs of the endpoint, for instance its tokenizer; a thread calls it once, before them.

        Raises `TaskError`.
        """

    @abstractmethod
    def samples(self, name: str, model: str) -> Iterator[Sample]:
        """Yield the samples in their order, lazily. ``name`` is the task's name in the run, ``model`` the served one.

        Raises `TaskError` with file and line for an item that cannot be read, and for a task without items.
        """

    @abstractmethod
    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        """Score the responses, one for each of the sample's requests, all with a 2xx status.

        ``ask`` sends further requests, for instance to a judge. It runs on the event loop: work that is slow or has no
        bound belongs in `launcher.tasks.bounded`. Never raises for what a model may answer.
        """

    def kept(self, sample: Sample, bodies: Sequence[Json]) -> Sequence[Json]:
        """Return what ``samples.jsonl`` keeps of the answers to a scored sample: by default all.

        Scoring what is kept must give the same score: ``mode=score`` does that. Where what is kept has a fault, all is
        kept instead; a method that is `faultless` is not checked for that. With ``evaluate.store_prompt_logprobs`` this
        is not called.
        """
        return bodies

    def check(self, evaluate: Evaluate) -> None:
        """Raise `UserError` if the task cannot be evaluated with these settings, for instance with too few repeats."""
        return

    def check_data(self) -> None:
        """Raise `TaskError` for data or a package that is not there, without reading anything."""
        return

    def shots(self) -> int | None:
        """Return how many examples stand before each question, for a plan; None where that has no meaning."""
        return None

    def fingerprint(self) -> Json:
        """Return what changes answers besides the configuration, for instance a digest of the items' file."""
        return None

    def variables(self) -> Mapping[str, str]:
        """Return the environment variables with secrets that it needs, each by the key that names it."""
        return {}

    def size(self) -> int | None:
        """Return the number of samples if it is cheap to know, for progress; raises `TaskError` as `samples` does."""
        return None
