"""The settings of a judge: an endpoint beside the run's own, which tasks ask while they score."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter
from launcher.backends.base import Backend
from launcher.backends.external import External
from launcher.core.errors import UserError
from launcher.core.ranges import Count, Positive, Seconds, SecondsFromZero
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment, Engine
from launcher.engines.none import Nothing
from launcher.pipeline import peft
from launcher.settings.component import component, name_of
from launcher.settings.model import Model, Optimizations, Parallelism

IN_PROCESS = ("inline", "pytriton")
"""Backends that run the engine in the launcher's process."""


@dataclass(kw_only=True)
class Judge(ABC):
    """The configuration of a judge; a component of the group ``judge``.

    Requests pass through ``adapters``, which are its own, with at most ``concurrency`` in flight. ``timeout_s`` bounds
    one request, ``max_answer_mb`` the size of one answer in MiB. While the judge is gone or restarts, judging pauses.
    After ``max_pause_s`` seconds the evaluation stops; ``resume=`` continues it.
    """

    prefix: ClassVar[str] = "judge."
    """What replaces ``backend.`` in messages about its server."""

    adapters: dict[str, Adapter] = field(default_factory=dict)
    concurrency: Count = 16
    timeout_s: Seconds = 600.0
    max_answer_mb: Positive = 64.0
    max_pause_s: SecondsFromZero = 600.0

    serves: ClassVar[bool] = False
    """Whether the launcher starts its server, beside that of the run."""

    @property
    @abstractmethod
    def server(self) -> Backend:
        """The backend that yields its endpoint."""

    @abstractmethod
    def deployment(self, folder: Path) -> Deployment:
        """Return what the backend serves, with ``folder`` for its log."""

    @abstractmethod
    def identity(self, config: Mapping[str, Json]) -> dict[str, Json]:
        """Return which of its settings decide a verdict, besides its adapters; ``config`` is that of ``judge``."""

    def check(self, run_engine: Engine, run_backend: Backend, run_parallelism: Parallelism) -> None:
        """Raise `UserError` where it cannot work beside the run's own server."""
        return

    def plan(self, allocation: Allocation) -> dict[str, Json]:
        """Describe what would be served. Raises `UserError` as `Backend.plan` does."""
        with self.naming_keys():
            return {"backend": name_of(self.server)} | self.server.plan(self.deployment(Path()), allocation)

    @contextmanager
    def naming_keys(self) -> Iterator[None]:
        """Name the keys of the judge in errors, which its server knows as those of a run."""
        try:
            yield
        except UserError as error:
            raise type(error)(self.renamed(str(error))) from None

    def renamed(self, message: str) -> str:
        return re.sub(r"\bbackend\.(?=\w)", self.prefix, message)


@component("judge/url")
class Url(Judge):
    """A judge that runs already: the OpenAI-compatible server at ``url``, which ends in ``/v1``.

    ``api_key_env`` names the environment variable that holds the key. ``model`` is the name to send; by default the
    only one that the server lists. ``engine`` is the server's software in reports.
    """

    url: str
    api_key_env: str | None = None
    model: str | None = None
    engine: str = "unknown"

    @property
    def server(self) -> Backend:
        with self.naming_keys():
            return External(self.url, self.api_key_env, self.model, self.engine)

    def deployment(self, folder: Path) -> Deployment:
        return Deployment(Model("judge"), Nothing(), Parallelism(), Optimizations(), folder)

    def identity(self, config: Mapping[str, Json]) -> dict[str, Json]:
        return {"url": self.url.rstrip("/"), "model": self.model}


@component("judge/deployment")
class OwnDeployment(Judge):
    """A judge that the launcher serves beside the run's model, on the same machine.

    It starts before the evaluation, and ends after it. Its log and its certificate are in ``judge/`` of the run folder.
    Options are chosen by ``model@judge.model=``, ``engine@judge.engine=`` and ``backend@judge.backend=``.
    """

    prefix: ClassVar[str] = "judge.backend."
    serves: ClassVar[bool] = True

    model: Model
    engine: Engine
    backend: Backend
    parallelism: Parallelism = field(default_factory=Parallelism)
    optimizations: Optimizations = field(default_factory=Optimizations)

    @property
    def server(self) -> Backend:
        return self.backend

    def deployment(self, folder: Path) -> Deployment:
        return Deployment(self.model, self.engine, self.parallelism, self.optimizations, folder)

    def identity(self, config: Mapping[str, Json]) -> dict[str, Json]:
        neutral = set(type(self.engine).neutral)
        return {
            "checkpoint": self.engine.fingerprint(self.model) or config["model"]["path"] or None,
            "model": {k: config["model"][k] for k in ("name", "tokenizer", "context_length")},
            "engine": {k: v for k, v in config["engine"].items() if k not in neutral},
            "backend": {k: config["backend"][k] for k in sorted(type(self.backend).identity_fields)},
            "dtype": config["optimizations"]["dtype"],
        }

    def check(self, run_engine: Engine, run_backend: Backend, run_parallelism: Parallelism) -> None:
        engine, backend = name_of(self.engine), name_of(self.backend)
        if self.backend.runs_engine and engine == "none":
            raise UserError(f"judge.engine: backend={backend} needs an engine; add engine@judge.engine=huggingface")
        if not self.backend.runs_engine and engine != "none":
            raise UserError(f"judge.engine: backend={backend} has an engine of its own; set engine@judge.engine=none")
        if engine in ("megatron", "auto", "huggingface") and not self.model.path:
            raise UserError(f"judge.model.path: engine={engine} needs a checkpoint; give judge.model.path=<folder>")
        peft.check(self.model, self.engine, self.backend)
        layouts = {self.parallelism.world_size, run_parallelism.world_size}
        groups = all(name_of(each) in ("megatron", "auto") for each in (self.engine, run_engine))
        if groups and layouts != {1} and all(name_of(each) in IN_PROCESS for each in (self.backend, run_backend)):
            raise UserError(
                "judge.parallelism: two Megatron models of several processes cannot share the launcher's process; "
                "serve the judge by judge=command, or separately with judge=url"
            )

    def renamed(self, message: str) -> str:
        return re.sub(r"(?<![\w.@])(?=(?:backend|model|engine|parallelism|optimizations)[.=])", "judge.", message)


def check_allocation(judge: Judge, allocation: Allocation) -> None:
    """Raise `UserError` for a judge that would be served from one of several processes started together."""
    check_processes(judge, allocation.world_size)


def check_processes(judge: Judge, count: int) -> None:
    """Raise `UserError` for a judge that the launcher would serve in a run of several processes."""
    if judge.serves and count > 1:
        raise UserError(
            f"judge: a judge that the launcher serves needs a run of one process, this one has {count}; "
            "serve it separately, and use judge=url"
        )
