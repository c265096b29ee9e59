"""The words of a command, with what the launcher knows in the place of names in braces."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from launcher.core.errors import UserError
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.model import Model, Parallelism

FIELD = re.compile(r"\{([a-z_]+)\}")
"""A name in braces. JSON among the arguments stays what it is, for its keys are quoted."""


def names(command: str) -> set[str]:
    """Return the names that occur in it."""
    return set(FIELD.findall(command))


def split(command: str, values: Mapping[str, Json]) -> list[str]:
    """Return the words of ``command`` as a POSIX shell would split them, each name replaced by its value.

    Raises `UserError` for an unknown name, for one whose value is not set, and for what is no command.
    """
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise UserError(f"backend.command={command}: {error}; accepted is a command as in a shell") from None
    if not found:
        raise UserError("backend.command: it is empty; accepted is a command that starts a server")
    for name in sorted(names(command)):
        if name not in values:
            raise UserError(f"backend.command: {{{name}}} is not known; accepted are {', '.join(values)}")
        if values[name] in (None, ""):
            raise UserError(f"backend.command: {{{name}}} has no value; set {ORIGINS.get(name, name)}")
    return [FIELD.sub(lambda match: str(values[match[1]]), word) for word in found]


def values(deployment: Deployment, allocation: Allocation, host: str, port: int | str) -> dict[str, Json]:
    """Return all that a command can be told, by name."""
    model, parallelism = deployment.model, deployment.parallelism
    return {
        "host": host,
        "port": port,
        "model": model.name,
        "checkpoint": _local(model.path),
        "tokenizer": model.tokenizer,
        "context_length": model.context_length,
        "tensor": parallelism.tensor,
        "pipeline": parallelism.pipeline,
        "context": parallelism.context,
        "expert": parallelism.expert,
        "gpus": allocation.gpus,
    }


ORIGINS = {
    "checkpoint": "model.path",
    "tokenizer": "model.tokenizer",
    "context_length": "model.context_length",
    "tensor": "parallelism.tensor",
    "pipeline": "parallelism.pipeline",
    "context": "parallelism.context",
    "expert": "parallelism.expert",
}
"""The keys behind the names: who sets one wants the server to know."""


def check(command: str, model: Model, parallelism: Parallelism) -> None:
    """Raise `UserError` for what is set and not in the command: nobody else would tell the server."""
    for name, key in ORIGINS.items():
        group, _, field = key.partition(".")
        holder = model if group == "model" else parallelism
        value = getattr(holder, field)
        if value != getattr(type(holder)(), field) and name not in names(command):
            raise UserError(f"{key}={value}: {{{name}}} is not in backend.command, so the server would not know of it")


def _local(path: str) -> str:
    """Return a path that holds from any working directory; the name of a model on a hub stays as it is."""
    if not path:
        return ""
    try:
        found = resolve(path).absolute()
    except FileNotFoundError as error:
        raise UserError(f"model.path={path}: {error}") from None
    return str(found) if found.exists() else path
