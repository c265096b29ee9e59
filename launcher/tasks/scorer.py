"""Loads the scoring function of a user, and runs it in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json
from launcher.stats.metric import Metric
from launcher.tasks import bounded
from launcher.tasks.bounded_worker import imported
from launcher.tasks.locations import located

CPU_S = 10.0
"""The CPU time in seconds that scoring one answer may take."""
DEFAULT = "score"
"""The metric of a scorer that declares none."""


class ScorerFailed(Exception):
    """A scorer raised an error, took too long, or returned what is no score."""


@dataclass(frozen=True)
class Scorer:
    """A function ``score(prediction, item)``; its module's ``METRICS`` are names, or `Metric`, the main one first."""

    reference: str
    function: Callable[..., Any]
    metrics: tuple[Metric, ...]

    def digest(self) -> str:
        """Return the SHA-256 of its module, and of the loaded modules in the same folder."""
        own = Path(self.function.__code__.co_filename)
        paths = {own, *(path for module in list(sys.modules.values()) if (path := _file(module)).parent == own.parent)}
        made = hashlib.sha256()
        for path in sorted(paths):
            made.update(hashlib.sha256(path.read_bytes()).digest())
        return made.hexdigest()

    async def score(self, prediction: str, item: Json) -> dict[str, float]:
        """Return the value of each metric. Raises `ScorerFailed` with the reason."""
        try:
            found = await bounded.run(self.function, prediction, item, cpu_s=CPU_S)
        except bounded.TooSlow as error:
            raise ScorerFailed(f"scorer={self.reference} took {error}") from None
        except Exception as error:
            raise ScorerFailed(f"scorer={self.reference}: {type(error).__name__}: {error}") from None
        return self._values(found)

    def _values(self, found: Any) -> dict[str, float]:
        values = found if isinstance(found, Mapping) else {self.metrics[0].name: found}
        known = [metric.name for metric in self.metrics]
        for name, value in values.items():
            if name not in known:
                raise ScorerFailed(f"scorer={self.reference} gave {name!r}; METRICS of its module has {known}")
            if not isinstance(value, bool | int | float) or not math.isfinite(value):
                raise ScorerFailed(f"scorer={self.reference} gave {found!r}; expected finite numbers")
        if known[0] not in values:
            raise ScorerFailed(f"scorer={self.reference} gave no value for {known[0]}, its first metric")
        return {name: float(value) for name, value in values.items()}


@cache
def load(reference: str) -> Scorer:
    """Return the scorer that ``package.module.function`` or ``path/to/file.py:function`` names.

    Raises `UserError` for one that cannot be imported, or cannot be called with a prediction and an item.
    """
    module, name = _module(reference)
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        raise UserError(f"tasks: scorer={reference}: {_file(module)} has no function '{name}'")
    home = f"{function.__module__}.{function.__qualname__}"
    if home != f"{module.__name__}.{name}":
        raise UserError(f"tasks: scorer={reference} is defined elsewhere, as {home}")
    try:
        inspect.signature(function).bind("", {})
    except TypeError as error:
        raise UserError(f"tasks: scorer={reference}: it is called as {name}(prediction, item), but {error}") from None
    return Scorer(reference, function, _metrics(reference, getattr(module, "METRICS", (DEFAULT,))))


def plain_item(value: Any) -> Json:
    """Return an item's fields as JSON; bytes become base64."""
    if isinstance(value, Mapping):
        return {str(key): plain_item(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_item(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _module(reference: str) -> tuple[ModuleType, str]:
    if reference.endswith(".py"):
        raise UserError(f"tasks: scorer={reference} names no function; expected {reference}:<function>")
    where, colon, name = reference.rpartition(":" if ".py:" in reference else ".")
    if not colon or not name.isidentifier() or not where:
        raise UserError(f"tasks: scorer={reference!r}; expected package.module.function, or path/to/file.py:function")
    try:
        found = str(located(where).resolve()) if where.endswith(".py") else where
        if where.endswith(".py") and (folder := str(Path(found).parent)) not in sys.path:
            sys.path.append(folder)  # it may import modules beside it
        return imported(found), name
    except TaskError as error:
        raise UserError(f"tasks: scorer={reference}: {error}") from None
    except Exception as error:
        raise UserError(f"tasks: scorer={reference} cannot be imported: {type(error).__name__}: {error}") from None


def _metrics(reference: str, declared: Any) -> tuple[Metric, ...]:
    known = isinstance(declared, Sequence) and not isinstance(declared, str) and declared
    if not known or not all(isinstance(one, str | Metric) for one in declared):
        raise UserError(f"tasks: scorer={reference}: METRICS is {declared!r}; expected a list of names")
    return tuple(Metric(one) if isinstance(one, str) else one for one in declared)


def _file(module: Any) -> Path:
    return Path(getattr(module, "__file__", None) or "/nowhere/" + getattr(module, "__name__", "module"))
