"""Argument templates: a command whose names in braces stand for values of the configuration."""

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
"""A name in braces. JSON in an argument does not match, because its keys are quoted."""


def names(command: str) -> set[str]:
    """Return the names in braces."""
    return set(FIELD.findall(command))


def split(command: str, values: Mapping[str, Json]) -> list[str]:
    """Return the arguments of ``command`` as a POSIX shell would split them, each name replaced by its value.

    Raises `UserError` for an unknown name, for one without a value, and for a malformed command.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(f"backend.command={command}: {error}; must be a command as in a shell") from None
    if not arguments:
        raise UserError("backend.command: is empty; must be a command that starts a server")
    for name in sorted(names(command)):
        if name not in values:
            raise UserError(f"backend.command: {{{name}}} is unknown; expected one of {', '.join(values)}")
        if values[name] in (None, ""):
            raise UserError(f"backend.command: {{{name}}} has no value; set {SETTINGS.get(name, name)}")
    return [FIELD.sub(lambda match: str(values[match[1]]), word) for word in arguments]


def values(deployment: Deployment, allocation: Allocation, host: str, port: int | str) -> dict[str, Json]:
    """Return the value of each name that a command may contain."""
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


SETTINGS = {
    "checkpoint": "model.path",
    "tokenizer": "model.tokenizer",
    "context_length": "model.context_length",
    "tensor": "parallelism.tensor",
    "pipeline": "parallelism.pipeline",
    "context": "parallelism.context",
    "expert": "parallelism.expert",
}
"""The settings that a command must contain if they differ from their defaults."""


def check(command: str, model: Model, parallelism: Parallelism) -> None:
    """Raise `UserError` for a setting that differs from its default and is not in the command."""
    for name, key in SETTINGS.items():
        group, _, field = key.partition(".")
        holder = model if group == "model" else parallelism
        value = getattr(holder, field)
        if value != getattr(type(holder)(), field) and name not in names(command):
            raise UserError(f"{key}={value}: {{{name}}} is not in backend.command, so the server would not get it")


def _local(path: str) -> str:
    """Return an absolute path; the name of a model on a hub stays unchanged."""
    if not path:
        return ""
    try:
        found = resolve(path).absolute()
    except FileNotFoundError as error:
        raise UserError(f"model.path={path}: {error}") from None
    return str(found) if found.exists() else path
