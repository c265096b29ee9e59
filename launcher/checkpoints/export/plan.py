"""Which tensors of a conversion go into which file, decided before a weight is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from launcher.checkpoints import convert, parts
from launcher.checkpoints.base import Architecture

Shape = tuple[int, ...]
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Unit:
    """A whole parameter of Megatron's, which is read at once, and the tensors that it becomes."""

    module: str
    kind: str
    tensors: tuple[tuple[str, Shape], ...]

    @property
    def numbers(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors)


@dataclass(frozen=True)
class Shard:
    """A file of weights and what is in it, in this order."""

    name: str
    units: tuple[Unit, ...]


def units(a: Architecture, names: convert.Names) -> Iterator[Unit]:
    """Yield what is read, in the order in which it is written."""
    for module, kind in parts.parameters(a):
        yield Unit(module, kind, tuple(convert.split_shapes(module, kind, a, names)))


Naming = Callable[[int, int], str]
"""Returns the name of a file of weights by its number, which starts at 1, and how many there are."""


def safetensors_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def shards(found: Iterable[Unit], dtype: str, shard_bytes: int, naming: Naming = safetensors_name) -> list[Shard]:
    """Put tensors into files of at most ``shard_bytes``; a parameter that is larger has a file of its own."""
    groups: list[list[Unit]] = [[]]
    size = 0
    for unit in found:
        length = unit.numbers * BYTES[dtype]
        if groups[-1] and size + length > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += length
    return [Shard(naming(number, len(groups)), tuple(group)) for number, group in enumerate(groups, 1)]
