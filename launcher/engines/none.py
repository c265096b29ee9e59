"""No engine: the model is served elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager

from launcher.allocation import Allocation
from launcher.component import component
from launcher.core import Json
from launcher.engines.base import Engine, Runner
from launcher.errors import UserError
from launcher.model import Model, Optimizations, Parallelism


@component("engine/none")
class Nothing(Engine):
    """The engine of ``backend=external``: there is nothing to load here."""

    def plan(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> dict[str, Json]:
        return {"processes": 0}

    def load(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> AbstractContextManager[Runner]:
        raise UserError("engine=none: there is nothing to serve; accepted with backend=external only")
