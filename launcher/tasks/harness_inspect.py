"""A task of inspect_ai, asked by its own command line."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

from launcher.core.console import one_line
from launcher.core.errors import UserError
from launcher.core.types import Json, Request
from launcher.settings.component import component
from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness.base import Harness, Place
from launcher.tasks.harness.measured import (
    Identity,
    Measured,
    Measurement,
    ResultError,
    SampleCounts,
    count,
    number,
    read,
)
from launcher.tasks.locations import located

HEADERS = "logs.json"
"""The file in which ``inspect eval-set`` keeps the head of every log."""
MAX_RETRIES = 10
"""How often inspect repeats a request that fails; without a bound it never gives up."""
MEANS = ("accuracy", "mean")
"""The metrics whose standard error is inspect's ``stderr``."""


@component("tasks/harness_inspect")
class HarnessInspect(Harness):
    """Asks a task of inspect_ai over chat completions, by ``inspect eval-set``, which resumes its own log.

    ``task`` is a file with tasks, such as ``sums.py`` or ``sums.py@sums``, or a task of a package, such as
    ``inspect_evals/arc_easy``. ``task_args`` are given to it. ``arguments`` are further words of the command.
    ``metric`` is the main metric; empty takes the one that inspect shows first. A sample that ends with an error is
    counted as failed, and the others go on. ``limit``, ``repeats`` (epochs), ``temperature``, ``max_tokens``, ``seed``
    and ``concurrency`` are those of `evaluate`. ``executable`` is the program, for one in another environment.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"limit", "repeats", "temperature", "max_tokens", "seed"})

    task: str = ""
    task_args: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    metric: str = ""
    executable: str = "inspect"

    def words(self, place: Place) -> list[str]:
        settings = {
            "--limit": place.settings.limit,
            "--epochs": place.settings.repeats if place.settings.repeats > 1 else None,
            "--temperature": place.settings.temperature,
            "--max-tokens": place.settings.max_tokens,
            "--seed": place.settings.seed,
        }
        given = [word for name, value in settings.items() if value is not None for word in (name, str(value))]
        arguments = [word for name, value in self.task_args.items() for word in ("-T", f"{name}={_written(value)}")]
        return [
            *(self.executable, "eval-set", self._task(), "--model", f"openai-api/launcher/{place.model}"),
            *("--log-dir", str(place.output), "--display", "plain", "--no-fail-on-error", "--retry-attempts", "0"),
            *("--max-retries", str(MAX_RETRIES)),
            *("--max-connections", str(place.concurrency), "--ctl-server", "false"),
            *(*given, *arguments, *self.arguments),
        ]

    def program(self) -> str:
        return self.executable

    def check(self, evaluate: Evaluate) -> None:
        if not self.task:
            raise UserError("task is empty; expected a file with tasks, such as sums.py, or inspect_evals/arc_easy")
        super().check(evaluate)

    def check_data(self) -> None:
        if self._is_file:
            located(self.task.partition("@")[0])
        super().check_data()

    @property
    def _is_file(self) -> bool:
        return self.task.partition("@")[0].endswith((".py", ".ipynb"))

    def _task(self) -> str:
        """Return the task; a file with the path that it has beside the option file, where it is there.

        Without the name of a task in it, inspect takes the file for a pattern, and a pattern must be relative.
        """
        file, at, name = self.task.partition("@")
        if not self._is_file or not _is_there(file):
            return self.task
        return f"{located(file)}{at}{name}" if name else os.path.relpath(located(file))

    def files(self) -> Sequence[str]:
        return [str(located(self.task.partition("@")[0]))] if self._is_file else []

    def previewed(self, model: str) -> Sequence[Request]:
        return [Request("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "1"}]})]

    def metric_names(self) -> Sequence[str]:
        return (self.metric,) if self.metric else ()

    def pattern(self, place: Place) -> str:
        return glob.escape(str(place.output / HEADERS))

    def read(self, place: Place, before: Mapping[Path, Identity]) -> Measured:
        """Read the heads of the logs: an earlier session may have finished some."""
        path = place.output / HEADERS
        if not path.is_file():
            raise ResultError(f"the result file {path}: there is no such file")
        heads = read(path)
        if not isinstance(heads, dict) or not heads:
            raise ResultError(f"the result file {path}: it has no log of inspect")
        return _joined([self._measured(head, name) for name, head in _newest(heads).items()], self.metric, path)

    def _measured(self, head: Json, name: str) -> tuple[str, Measured]:
        try:
            task, status = str(head["eval"]["task"]), head["status"]
            if status != "success":
                said = one_line(str((head.get("error") or {}).get("message", "")))
                raise ResultError(f"inspect ended {task} with the status {status}{said and f': {said}'}")
            if not head.get("results"):
                raise ResultError(f"inspect scored no sample of {task}: all ended with an error, or it has none")
            return task, self._of(head["results"], task)
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultError(f"the log {name} is not one of inspect that is known: {error!r}") from None

    def _of(self, results: Json, task: str) -> Measured:
        total = count(results["total_samples"], f"total_samples of {task}")
        completed = count(results["completed_samples"], f"completed_samples of {task}")
        scores, first = results["scores"], (results.get("headline") or {}).get("score")
        found: dict[str, Measurement] = {}
        for score in sorted(scores, key=lambda each: each["name"] != first):
            prefix = f"{score['name']}/" if len(scores) > 1 else ""
            found |= {f"{prefix}{metric}": one for metric, one in self._metrics(score)}
        notes = tuple(
            f"{each['unscored_samples']} samples have no score of {each['name']}"
            for each in scores
            if each.get("unscored_samples")
        )
        lost = total - completed
        reasons = {"failed": f"the sample ended with an error; inspect log dump shows it ({task})"} if lost else {}
        return Measured(found, SampleCounts(total, failed=lost), reasons, notes)

    def _metrics(self, score: Json) -> Iterator[tuple[str, Measurement]]:
        metrics, n = score["metrics"], score.get("scored_samples")
        error = metrics.get("stderr", {}).get("value", math.nan)
        for name, metric in metrics.items():
            if name != "stderr" or len(metrics) == 1:
                value = number(metric["value"], f"{name} of {score['name']}")
                stderr = float(error) if name in MEANS and isinstance(error, int | float) else math.nan
                yield name, Measurement(value, stderr, n, self.direction(name))


def _newest(heads: Mapping[str, Json]) -> dict[str, Json]:
    """Return the last log of each task: one that was killed stays beside the one that goes on with it."""
    last: dict[Json, tuple[str, str]] = {}
    for name, head in heads.items():
        run = head.get("eval") if isinstance(head, dict) else None
        task, created = (run.get("task_id", name), str(run.get("created", ""))) if isinstance(run, dict) else (name, "")
        last[task] = max(last.get(task, ("", "")), (created, name))
    return {name: heads[name] for _, name in last.values()}


def _joined(found: Sequence[tuple[str, Measured]], main: str, path: Path) -> Measured:
    """Return all tasks as one; with several, a metric has the name of its task before its own."""
    named = [(f"{task}/" if len(found) > 1 else "", one) for task, one in found]
    metrics = {f"{prefix}{name}": value for prefix, one in named for name, value in one.metrics.items()}
    if main and main not in metrics:
        raise ResultError(f"metric={main}: inspect has no such metric; expected one of {', '.join(metrics)}")
    if not metrics:
        raise ResultError(f"{path}: no scorer of the task gave a metric")
    first = {main: metrics[main]} if main else {}
    counts = [one.samples for _, one in found if one.samples is not None]
    samples = SampleCounts(sum(each.total for each in counts), sum(each.failed for each in counts))
    reasons = {status: why for _, one in found for status, why in one.reasons.items()}
    notes = tuple(note for _, one in found for note in one.notes)
    return Measured(first | metrics, samples, reasons, notes, str(path))


def _is_there(file: str) -> bool:
    try:
        return bool(located(file))
    except UserError:
        return False


def _written(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
