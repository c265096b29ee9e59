"""Tasks of lm-evaluation-harness, asked by its own command line."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count, CountFromZero
from launcher.core.types import Direction, Json, Request
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
    written,
)
from launcher.tasks.lm_eval import index
from launcher.tasks.locations import located

DEFAULT = "lm_eval"
"""The program of lm-eval in the launcher's own environment."""
PATTERN = frozenset("*?[]/.\\")
"""Characters of a pattern or of a path."""
NOT_METRICS = frozenset({"alias", "name", "sample_len", "sample_count"})


@component("tasks/harness_lm_eval_cli")
class HarnessLmEvalCli(Harness):
    """Asks tasks of lm-evaluation-harness by its own command line and client; ``tasks=[lm_eval/<name>]`` needs neither.

    ``task`` are the names, with commas between them; ``num_fewshot`` is the number of examples (null: the task's own).
    ``include_path`` is a folder of YAML files. ``chat`` takes chat
    completions, for tasks that generate text. ``tokenizer`` is a folder; empty takes the endpoint's, where the server
    has ``/tokenizer_info`` and no key. Else text is sent, which is not enough for log-likelihoods. ``max_length`` is
    the context in tokens: lm-eval cuts a longer prompt on the left. Null takes what the server says. ``gen_kwargs`` and
    ``model_args`` are further ones of lm-eval, ``arguments`` further words of the command. ``metric`` is the main
    metric, such as ``acc`` or ``exact_match,strict-match``; empty takes the first.

    Answers are kept in ``output/cache``, so that ``resume=`` asks none of them again, except for sampled texts.
    ``limit``, ``seed``, ``temperature``, ``max_tokens`` and ``concurrency`` are those of `evaluate`. ``executable`` is
    the program, for one in another environment.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"limit", "temperature", "max_tokens", "seed"})

    task: str = ""
    include_path: str = ""
    chat: bool = False
    num_fewshot: CountFromZero | None = None
    tokenizer: str = ""
    max_length: Count | None = None
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    metric: str = ""
    executable: str = DEFAULT

    def words(self, place: Place) -> list[str]:
        settings = place.settings
        options = {
            "--limit": settings.limit,
            "--num_fewshot": self.num_fewshot,
            "--gen_kwargs": _pairs(self._gen_kwargs(settings), "gen_kwargs"),
            "--include_path": str(located(self.include_path)) if self.include_path else None,
        }
        given = [word for name, value in options.items() if value not in (None, "") for word in (name, str(value))]
        model = "local-chat-completions" if self.chat else "local-completions"
        return [
            *(self.executable, "run", "--model", model),
            *("--model_args", _pairs(self._model_args(place), "model_args"), "--tasks", self.task),
            *("--output_path", str(place.output), "--use_cache", str(place.output / "cache"), "--log_samples"),
            *(*(["--apply_chat_template"] if self.chat else []), *given, *self.arguments),
        ]

    def _model_args(self, place: Place) -> dict[str, Json]:
        made: dict[str, Json] = {
            "model": place.model,
            "base_url": f"{place.base_url}/{'chat/' if self.chat else ''}completions",
            "num_concurrent": place.concurrency,
            "timeout": math.ceil(place.settings.timeout_s),
        }
        made |= {} if place.settings.seed is None else {"seed": place.settings.seed}
        length = self.max_length or place.context_length
        made |= {"max_length": length} if length else {}
        if self.tokenizer:
            made |= {"tokenizer": str(located(self.tokenizer))}
        elif self.chat or not place.has_tokenizer:
            made |= {"tokenizer_backend": None, "tokenized_requests": False}
        else:
            made |= {"tokenizer_backend": "remote"}
        return {**made, **self.model_args}

    def _gen_kwargs(self, settings: Evaluate) -> dict[str, Json]:
        asked = {"temperature": settings.temperature, "max_gen_toks": settings.max_tokens}
        return {**self.gen_kwargs, **{name: value for name, value in asked.items() if value is not None}}

    def program(self) -> str:
        return self.executable

    def check(self, evaluate: Evaluate) -> None:
        if not self.task:
            raise UserError("task is empty; expected names of lm-eval's tasks, for instance task=arc_easy")
        super().check(evaluate)

    def check_data(self) -> None:
        super().check_data()
        if self.executable == DEFAULT and find_spec("lm_eval") is not None:
            self._check_names()

    def _check_names(self) -> None:
        """Raise `TaskError` for a name that lm-eval does not have; patterns and files are left to its command line."""
        known = index.read(str(located(self.include_path)) if self.include_path else "").names()
        for name in filter(None, map(str.strip, self.task.split(","))):
            if name not in known and not set(name) & PATTERN:
                like = " or ".join(get_close_matches(name, known, 3))
                hint = f"did you mean {like}?" if like else "launcher tasks lm_eval lists them"
                raise TaskError(f"task={name}: lm-eval {index.version()} has no such task, group or tag; {hint}")

    def files(self) -> Sequence[str]:
        return [str(located(each)) for each in (self.include_path, self.tokenizer) if each]

    def previewed(self, model: str) -> Sequence[Request]:
        if self.chat:
            return [Request("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "1"}]})]
        return [Request("/v1/completions", {"model": model, "prompt": "1"})]

    def metric_names(self) -> Sequence[str]:
        return (self.metric,) if self.metric else ()

    def pattern(self, place: Place) -> str:
        return f"{glob.escape(str(place.output))}/**/results_*.json"

    def read(self, place: Place, before: Mapping[Path, Identity]) -> Measured:
        path = written(self.pattern(place), before)
        document = read(path)
        try:
            return self._measured(document, path)
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultError(f"the result file {path}: it is not one of lm-eval that is known: {error!r}") from None

    def _measured(self, document: Json, path: Path) -> Measured:
        results = {**document["results"], **document.get("groups", {})}
        counts = {task: count(n["effective"], f"n-samples of {task}") for task, n in document["n-samples"].items()}
        metrics: dict[str, Measurement] = {}
        for task, found in results.items():
            prefix = f"{task}/" if len(results) > 1 else ""
            better = document.get("higher_is_better", {}).get(task, {})
            metrics |= {f"{prefix}{name}": one for name, one in self._metrics(found, better, counts.get(task), path)}
        if self.metric and self.metric not in metrics:
            raise ResultError(f"metric={self.metric}: lm-eval has no such metric; expected one of {', '.join(metrics)}")
        if not metrics:
            raise ResultError(f"the result file {path}: it has no metric")
        first = {self.metric: metrics[self.metric]} if self.metric else {}
        return Measured(first | metrics, SampleCounts(sum(counts.values())), source=str(path))

    def _metrics(
        self, found: Mapping[str, Json], better: Mapping[str, Json], n: int | None, path: Path
    ) -> Iterator[tuple[str, Measurement]]:
        for key, value in found.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or key in NOT_METRICS:
                continue
            name = metric if filter_name == "none" else key
            error = found.get(f"{metric}_stderr,{filter_name}")
            stderr = float(error) if isinstance(error, int | float) else math.nan  # "N/A" where lm-eval has none
            lower = better.get(metric) is False or name in self.lower_is_better
            direction = Direction.lower if lower else Direction.higher
            yield name, Measurement(number(value, f"{key} of {path}"), stderr, n, direction)


def _pairs(values: Mapping[str, Json], key: str) -> str:
    """Write values as lm-eval's command line takes them. Raises `UserError` for one that it would cut."""
    for name, value in values.items():
        if "," in str(value):
            raise UserError(f"{key}: {name}={value}: lm-eval's command line takes no comma in a value")
    return ",".join(f"{name}={value}" for name, value in values.items())
