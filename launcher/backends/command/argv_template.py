"""Argument templates: a command whose names in braces stand for values of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core import argv
from launcher.core.errors import UserError
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.model import Model, Parallelism, ToolCallParser


def names(command: str) -> set[str]:
    """Return the names in braces."""
    return argv.names(command)


def split(command: str, values: Mapping[str, Json]) -> list[str]:
    """Return the arguments of ``command`` as `launcher.core.argv.split` does."""
    return argv.split(command, values, "backend.command", SETTINGS)


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
        "tool_call_parser": model.tool_call_parser.asked,
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
    "tool_call_parser": "model.tool_call_parser",
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
        value = _told(getattr(holder, field))
        if value != _told(getattr(type(holder)(), field)) and name not in names(command):
            raise UserError(f"{key}={value}: {{{name}}} is not in backend.command, so the server would not get it")


def _told(value: Json | ToolCallParser) -> Json:
    """Return what a server is told of a setting."""
    return value.asked if isinstance(value, ToolCallParser) else value


def _local(path: str) -> str:
    """Return an absolute path; the name of a model on a hub stays unchanged."""
    if not path:
        return ""
    try:
        found = resolve(path).absolute()
    except FileNotFoundError as error:
        raise UserError(f"model.path={path}: {error}") from None
    return str(found) if found.exists() else path
