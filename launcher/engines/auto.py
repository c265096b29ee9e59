"""The component ``engine=auto``: megatron-core where it computes the checkpoint, else transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from launcher.checkpoints.base import NotComputed
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.engines.base import AsyncEngine, Deployment, Engine
from launcher.engines.huggingface import HuggingFace
from launcher.engines.megatron import Megatron
from launcher.engines.megatron.engine import open_checkpoint
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.sizing import BatchedEngine
from launcher.settings.component import component, name_of
from launcher.settings.model import Model


@dataclass(frozen=True)
class Choice:
    """The chosen engine, and why."""

    engine: Engine
    reason: str

    def facts(self) -> dict[str, Json]:
        return {"taken": name_of(self.engine), "taken_because": self.reason}


@component("engine/auto")
class Auto(BatchedEngine):
    """``megatron`` if it computes the checkpoint, else ``huggingface``; the plan and the report name the choice.

    Its settings are those that both engines have.
    """

    @contextmanager
    def load(self, deployment: Deployment, allocation: Allocation) -> Iterator[AsyncEngine]:
        choice = self.choose(deployment.model)
        with choice.engine.load(replace(deployment, engine=choice.engine), allocation) as runner:
            if isinstance(runner, BatchedAsyncEngine):
                runner.note(choice.facts())
            yield runner

    def check_packages(self, model: Model) -> None:
        self.choose(model).engine.check_packages(model)

    def check_tokenizer(self, model: Model) -> None:
        self.choose(model).engine.check_tokenizer(model)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        choice = self.choose(deployment.model)
        return choice.facts() | choice.engine.plan(replace(deployment, engine=choice.engine), allocation)

    def fingerprint(self, model: Model) -> str | None:
        return self.choose(model).engine.fingerprint(model)

    def choose(self, model: Model) -> Choice:
        """Choose by the checkpoint's files. Raises `CheckpointError` for one that neither engine serves."""
        settings = {field.name: getattr(self, field.name) for field in fields(BatchedEngine)}
        try:
            layout = open_checkpoint(model).layout
        except NotComputed as refused:
            return Choice(HuggingFace(**settings), f"engine=megatron does not compute it: {_shown(refused, model)}")
        return Choice(Megatron(**settings), f"it computes this {layout} checkpoint")


def _shown(refused: NotComputed, model: Model) -> str:
    """Return the megatron engine's reason, without the path of the checkpoint."""
    return str(refused.__cause__).removeprefix(str(resolve(model.path))).lstrip("/: ")
