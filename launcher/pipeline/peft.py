"""Refuses ``model.peft`` where nothing would merge the adapter."""

from __future__ import annotations

from launcher.backends.base import Backend
from launcher.backends.preset import Preset
from launcher.core.errors import UserError
from launcher.engines.base import Engine
from launcher.settings.component import name_of
from launcher.settings.model import Model

MERGE = ("megatron", "auto", "huggingface")


def check(model: Model, engine: Engine, backend: Backend) -> None:
    """Raise `UserError` for an adapter that neither the engine nor a ready-made server would get."""
    if model.peft is None or name_of(engine) in MERGE or isinstance(backend, Preset):
        return
    by = f"backend={name_of(backend)}" if name_of(engine) == "none" else f"engine={name_of(engine)}"
    raise UserError(
        f"model.peft={model.peft}: {by} would not merge it; expected engine={' or '.join(MERGE)}, or a ready-made "
        "server such as backend=vllm"
    )
