"""Typed reading of a checkpoint's configuration; an error names the field and the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoints.bounded import shown
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

LARGEST = 2**48
"""No size of a model comes near to it; larger ones are damage, and cost much to compute with."""

MOST_DIMENSIONS = 16
"""Axes of a tensor; those of models have up to five."""


def number(content: Mapping[str, Json], key: str, file: Path, default: int | None = None) -> int:
    """Return a positive whole number of the configuration; the default, if there is one, where it says nothing."""
    value = default if content.get(key) is None else content[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < LARGEST:
        raise CheckpointError(f"{file}: {key} is {shown(value)} (expected a positive whole number)")
    return value


def power_of_two(value: Json) -> bool:
    """Tell whether a value is a power of two, as sizes of blocks are.

    No two of them cut a weight into the same number of blocks in different ways, so that a wrong one is seen.
    """
    return type(value) is int and 0 < value < LARGEST and value & (value - 1) == 0


def positive(content: Mapping[str, Json], key: str, file: Path, default: float, most: float = math.inf) -> float:
    """Return a positive number; YAML's ``1e-5`` is a text, which is meant as one."""
    value = default if content.get(key) is None else content[key]
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 < found <= most or math.isinf(found):
        limit = "" if math.isinf(most) else f" of at most {most:g}"
        raise CheckpointError(f"{file}: {key} is {shown(value)} (expected a positive number{limit})")
    return found


def flag(content: Mapping[str, Json], key: str, file: Path, default: bool = False) -> bool:
    """Return true or false; the default where the configuration says nothing."""
    value = default if content.get(key) is None else content[key]
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {shown(value)} (expected true or false)")
    return value


def section(content: Mapping[str, Json], key: str, file: Path) -> Mapping[str, Json]:
    """Return the mapping under a key, empty if there is none; `CheckpointError` for anything else."""
    found = content.get(key)
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"{file}: {key} is {shown(found)} (expected a mapping)")
    return found or {}


def as_list(content: Mapping[str, Json], key: str, file: Path) -> list[Json]:
    """Return the list under a key, empty if there is none; `CheckpointError` for anything else."""
    found = content.get(key)
    if found is not None and not isinstance(found, list):
        raise CheckpointError(f"{file}: {key} is {shown(found)} (expected a list)")
    return found or []
