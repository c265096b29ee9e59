"""Frozen dataclasses and their copies, made fast enough for what happens with every sample."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def changed(value: T, **fields: object) -> T:
    """Do as ``dataclasses.replace`` in a fifth of its time.

    ``value`` is of a dataclass without ``__post_init__`` and without slots; ``fields`` are names of its fields. What it
    has cached must not depend on these, as `Request.route` does on ``path``.
    """
    made: T = object.__new__(type(value))
    made.__dict__.update(value.__dict__, **fields)
    return made


def made(kind: type[T], **fields: object) -> T:
    """Do as the constructor of a dataclass, in a third of its time; every field is given.

    ``kind`` is a dataclass without ``__post_init__`` and without slots.
    """
    value = object.__new__(kind)
    value.__dict__.update(fields)
    return value
