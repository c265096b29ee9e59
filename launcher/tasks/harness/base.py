"""A task that another harness asks: a command that is pointed at the endpoint, and the reader of its results."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Seconds
from launcher.core.redaction import redact, reveal
from launcher.core.types import Ask, Direction, Json, Request, Response, Sample, Score
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.tasks.base import Task
from launcher.tasks.harness.measured import Identity, Measured

NO_KEY = "none"
"""What a harness gets as its key where the endpoint has none: clients refuse an empty one."""
ANSWER_SETTINGS = ("limit", "repeats", "temperature", "max_tokens", "seed", "retry_truncated")
"""Settings of the evaluation that decide what is asked. A harness must take those that are set."""
INSTALL = {
    "inspect": "inspect-ai",
    "lm_eval": "'lm-eval[api]'",
    "lm-eval": "'lm-eval[api]'",
    "lighteval": "'lighteval[litellm]'",
    "evalscope": "evalscope",
    "evalplus.evaluate": "evalplus",
    "evalplus.codegen": "evalplus",
    "bfcl": "bfcl-eval",
}
"""What installs the programs of well-known harnesses."""
MAX_DIGESTED_BYTES = 64 * 2**20
"""Larger files in a command are known by their size only."""


@dataclass(frozen=True)
class Place:
    """Where a command runs: the endpoint that it asks, the folder ``output`` for its files, the evaluation's settings.

    ``base_url`` ends in ``/v1``. ``has_tokenizer`` says that the server has ``/tokenizer_info``, and asks no key for
    it. ``context_length`` is that of the model, None where the server does not say it.
    """

    base_url: str
    model: str
    output: Path
    settings: Evaluate
    has_tokenizer: bool = True
    context_length: int | None = None

    @property
    def concurrency(self) -> int:
        asked = self.settings.concurrency
        return asked if isinstance(asked, int) else 16

    def values(self) -> dict[str, Json]:
        """Return the value of each name that a command may contain in braces."""
        asked = {name: getattr(self.settings, name) for name in ANSWER_SETTINGS if name != "retry_truncated"}
        return {
            "base_url": self.base_url,
            "root_url": self.base_url.removesuffix("/v1"),
            "completions_url": f"{self.base_url}/completions",
            "chat_url": f"{self.base_url}/chat/completions",
            "model": self.model,
            "output": self.output,
            "python": sys.executable,
            "concurrency": self.concurrency,
            **asked,
        }


@dataclass
class Harness(Task):
    """The keys of every harness.

    Its command has ``timeout_s`` seconds. Then, at an interrupt and when the launcher dies, it gets SIGTERM. What is
    left of it after ``stop_timeout_s`` gets SIGKILL, with all processes that it has started. ``environment`` is added
    to the launcher's own; ``environment_env`` gives variables the values of other variables, which the launcher never
    writes. ``lower_is_better`` names metrics.
    """

    metrics_in_results: ClassVar[bool] = True
    neutral: ClassVar[frozenset[str]] = frozenset({"timeout_s", "stop_timeout_s"})
    takes: ClassVar[frozenset[str]] = frozenset()
    """The settings of the evaluation that its command takes."""

    timeout_s: Seconds = 86400.0
    stop_timeout_s: Seconds = 10.0
    environment: dict[str, str] = field(default_factory=dict)
    environment_env: dict[str, str] = field(default_factory=dict)
    lower_is_better: list[str] = field(default_factory=list)

    @abstractmethod
    def words(self, place: Place) -> list[str]:
        """Return the words of the command. Raises `UserError` for one that cannot be made."""

    @abstractmethod
    def program(self) -> str:
        """Return the program of the command, as it is looked for."""

    @abstractmethod
    def pattern(self, place: Place) -> str:
        """Return the pattern of the files that hold the result."""

    @abstractmethod
    def read(self, place: Place, before: Mapping[Path, Identity]) -> Measured:
        """Return what the result file says; ``before`` are those that were there before the command ran.

        Raises `launcher.tasks.harness.measured.ResultError`.
        """

    def files(self) -> Sequence[str]:
        """Return the files and folders that decide what is asked."""
        return ()

    def previewed(self, model: str) -> Sequence[Request]:
        """Return an example of what it asks, where that is known."""
        return ()

    def metric_names(self) -> Sequence[str]:
        """Return the metrics that are known before the run, the main one first."""
        return ()

    @property
    def metrics(self) -> Sequence[Metric]:
        return tuple(Metric(name, self.direction(name), (None, None)) for name in self.metric_names())

    def direction(self, metric: str) -> Direction:
        return Direction.lower if metric in self.lower_is_better else Direction.higher

    def check(self, evaluate: Evaluate) -> None:
        """Raise `UserError` for a setting that the harness would ignore, and for a command that cannot be made."""
        default = Evaluate()
        for name in ANSWER_SETTINGS:
            if name not in self.takes_settings() and getattr(evaluate, name) != getattr(default, name):
                raise UserError(f"evaluate.{name}={getattr(evaluate, name)}: {self.ignores(name)}")
        if evaluate.budget.is_bound:
            raise UserError("evaluate.budget: it does not bound what a harness asks; leave it out")
        self.words(Place("http://127.0.0.1:1/v1", "model", Path("output"), evaluate))

    def planned(self, model: str, evaluate: Evaluate) -> str:
        """Return the command as it will be, but for the endpoint and the run folder."""
        place = Place("http://<endpoint>/v1", model, Path("<run folder>/output"), evaluate)
        return redact(" ".join(self.words(place)))

    def takes_settings(self) -> frozenset[str]:
        """Return the settings of the evaluation that its command takes."""
        return self.takes

    def ignores(self, setting: str) -> str:
        """Say that the harness does not take a setting of the evaluation."""
        return f"this harness has no option for it; leave it out, or put the harness's own into {self._own_options}"

    _own_options: ClassVar[str] = "arguments"

    def check_data(self) -> None:
        """Raise `TaskError` for a program that is not found, and for variables that are not set."""
        program = self.program()
        if find_program(program) is None:
            package = INSTALL.get(program)
            remedy = f"pip install {package}" if package else "install it, or give its path"
            raise TaskError(f"the program {program} is not found; {remedy}")
        for file in self.files():
            if not Path(file).exists():
                raise TaskError(f"there is no file or folder {file}")
        self._secrets()

    def preview(self, name: str, model: str) -> Iterator[Sample]:
        self.check_data()
        if requests := tuple(self.previewed(model)):
            yield Sample(name, "example", requests, None)

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        """Yield none: the harness asks its own."""
        return iter(())

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        raise NotImplementedError

    def size(self) -> int:
        return 0

    def fingerprint(self) -> Json:
        return {"files": {name: _digest(Path(name)) for name in self.files()}}

    def variables(self) -> Mapping[str, str]:
        return {f"environment_env.{name}": variable for name, variable in self.environment_env.items()}

    def _secrets(self) -> dict[str, str]:
        """Return the values of ``environment_env``. Raises `TaskError` for a variable that is not set."""
        try:
            return {name: reveal(of, f"environment_env.{name}") for name, of in self.environment_env.items()}
        except UserError as error:
            raise TaskError(str(error)) from None

    def environment_of(self, place: Place, key: str | None) -> dict[str, str]:
        """Return the variables that its command gets beside the launcher's own."""
        key = key or NO_KEY
        endpoint = {"OPENAI_BASE_URL": place.base_url, "OPENAI_API_BASE": place.base_url, "OPENAI_API_KEY": key}
        ours = {"LAUNCHER_BASE_URL": place.base_url, "LAUNCHER_API_KEY": key, "LAUNCHER_OUTPUT": str(place.output)}
        return {**endpoint, "OPENAI_MODEL": place.model, **ours, **self.environment, **self._secrets()}


def find_program(program: str) -> str | None:
    """Return the path of a program: on ``PATH``, or beside the Python that runs the launcher."""
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """Return ``PATH`` with the folder of this Python at its end."""
    return os.pathsep.join(filter(None, (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent))))


def _digest(path: Path) -> str:
    """Return a digest of a file, or of the files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            if file.stat().st_size <= MAX_DIGESTED_BYTES:
                digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
