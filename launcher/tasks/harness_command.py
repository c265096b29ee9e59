"""Any command that evaluates the endpoint."""

from __future__ import annotations

import glob
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from launcher.core import argv
from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.settings.component import component
from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness import json_path
from launcher.tasks.harness.base import ANSWER_SETTINGS, Harness, Place
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

SETTINGS = {name: f"evaluate.{name}" for name in (*ANSWER_SETTINGS, "concurrency")}
NO_KEY_IN_COMMANDS = ("api_key", "key", "token")


@dataclass
class ResultFile:
    """The result file of a command, and where the numbers stand in it.

    ``path`` may have ``{output}`` and the other names, and ``*``: of several files the newest counts. The file is JSON,
    or JSON lines, which are one list. ``metrics`` gives each metric its place: ``{accuracy: $.results.acc}``; the first
    is the main one. ``stderr`` gives metrics the places of their standard errors. ``samples`` and ``failed`` are the
    places of the number of samples, and of those without a score.
    """

    path: str = ""
    metrics: dict[str, str] = field(default_factory=dict)
    stderr: dict[str, str] = field(default_factory=dict)
    samples: str = ""
    failed: str = ""


@component("tasks/harness_command")
class HarnessCommand(Harness):
    """Runs ``command``, which evaluates the endpoint, and reads its ``result`` file.

    The command is split into arguments as a shell does, but no shell runs it. With ``shell`` it is a script for
    ``sh -c``, in which every value is quoted. Names in braces are replaced; ``{{name}}`` is the text ``{name}``:

    - ``{base_url}``, which ends in ``/v1``, ``{root_url}``, ``{completions_url}`` and ``{chat_url}``
    - ``{model}``: the name to send, ``{output}``: a folder of the run, ``{python}``: the Python of the launcher
    - ``{limit}``, ``{repeats}``, ``{temperature}``, ``{max_tokens}``, ``{seed}`` and ``{concurrency}`` of `evaluate`

    The key stands only in the environment, with the rest: ``OPENAI_BASE_URL``, ``OPENAI_API_BASE``, ``OPENAI_API_KEY``,
    ``OPENAI_MODEL`` and ``LAUNCHER_OUTPUT``. ``inputs`` are files and folders that decide what is asked, besides those
    that the command names: ``resume=`` refuses other contents.
    """

    _own_options: ClassVar[str] = "command"

    command: str = ""
    shell: bool = False
    result: ResultFile = field(default_factory=ResultFile)
    inputs: list[str] = field(default_factory=list)

    def words(self, place: Place) -> list[str]:
        for name in NO_KEY_IN_COMMANDS:
            if name in argv.names(self.command):
                raise UserError(f"command: the key is in no command; {{{name}}} is $OPENAI_API_KEY for the program")
        values = place.values()
        if not self.shell:
            return argv.split(self.command, values, "command", SETTINGS, "evaluates the endpoint")
        if not self.command.strip():
            raise UserError("command: is empty; must be a script that evaluates the endpoint")
        argv.check(self.command, values, "command", SETTINGS)
        return ["sh", "-c", argv.filled(self.command, values, shlex.quote)]

    def program(self) -> str:
        if self.shell:
            return "sh"
        first = shlex.split(self.command)[0]
        return sys.executable if first == "{python}" else first

    def takes_settings(self) -> frozenset[str]:
        return frozenset(argv.names(self.command))

    def ignores(self, setting: str) -> str:
        return f"the command would not get it; put {{{setting}}} into command, or leave it out"

    def check(self, evaluate: Evaluate) -> None:
        super().check(evaluate)
        if not self.result.path:
            raise UserError(
                "result.path is empty; expected the file that the command writes, such as {output}/out.json"
            )
        argv.check(self.result.path, Place("", "model", Path("output"), evaluate).values(), "result.path", SETTINGS)
        if not self.result.metrics:
            raise UserError("result.metrics is empty; expected names with their places: {accuracy: $.results.acc}")
        self._check_places()
        for name in self.result.stderr:
            if name not in self.result.metrics:
                raise UserError(f"result.stderr.{name}: there is no such metric in result.metrics")
        for name in self.lower_is_better:
            if name not in self.result.metrics:
                raise UserError(f"lower_is_better: {name}: there is no such metric in result.metrics")

    def _check_places(self) -> None:
        result = self.result
        places = {f"metrics.{name}": where for name, where in result.metrics.items()}
        places |= {f"stderr.{name}": where for name, where in result.stderr.items()}
        for key, where in {**places, "samples": result.samples, "failed": result.failed}.items():
            try:
                json_path.parse(where)
            except UserError as error:
                raise UserError(f"result.{key}: {error}") from None

    def metric_names(self) -> Sequence[str]:
        return tuple(self.result.metrics)

    def files(self) -> Sequence[str]:
        words = [] if self.shell else shlex.split(self.command)
        return [*dict.fromkeys([*(word for word in words[1:] if Path(word).is_file()), *self.inputs])]

    def pattern(self, place: Place) -> str:
        return argv.filled(self.result.path, place.values(), glob.escape)

    def read(self, place: Place, before: Mapping[Path, Identity]) -> Measured:
        path = written(self.pattern(place), before)
        document = read(path)
        total = self._count(document, "samples", path)
        failed = self._count(document, "failed", path) or 0
        if total is not None and failed > total:
            raise ResultError(f"{path}: {failed} of {total} samples failed")
        samples = None if total is None else SampleCounts(total, failed)
        n = None if samples is None else samples.scored
        metrics = {name: self._measurement(document, name, n, path) for name in self.result.metrics}
        reasons = {"failed": f"the harness counts them as failed ({self.result.failed})"} if failed else {}
        return Measured(metrics, samples, reasons, source=str(path))

    def _measurement(self, document: Json, name: str, n: int | None, path: Path) -> Measurement:
        value = number(*_found(document, self.result.metrics[name], f"result.metrics.{name}", path))
        where = self.result.stderr.get(name)
        error = number(*_found(document, where, f"result.stderr.{name}", path)) if where else math.nan
        return Measurement(value, error, n, self.direction(name))

    def _count(self, document: Json, name: str, path: Path) -> int | None:
        where = getattr(self.result, name)
        return count(*_found(document, where, f"result.{name}", path)) if where else None


def _found(document: Json, where: str, key: str, path: Path) -> tuple[Json, str]:
    """Return what stands at a place, and what it is called in messages. Raises `ResultError`."""
    try:
        return json_path.find(document, where), f"{key} ({where} of {path})"
    except LookupError as error:
        raise ResultError(f"{key}: {error.args[0]}, in {path}") from None
