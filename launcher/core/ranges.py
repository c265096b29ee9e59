"""The types of settings: each says which values make sense, as ``Annotated[int, Range(...)]``."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from launcher.core.errors import UserError

MANY = 10**9
"""The largest count, and the longest time in seconds, that a setting takes: the system's own calls take no more."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``least``, or above ``above``, up to ``most``; ``word`` may stand in place of one."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    word: str | None = None

    def check(self, key: str, value: Any) -> None:
        """Raise `UserError` for a number out of this range, also one in a list; what is no number passes."""
        for number, one in enumerate(value if isinstance(value, Sequence) and not isinstance(value, str) else ()):
            self.check(f"{key}[{number}]", one)
        if isinstance(value, str) and self.word is not None and value != self.word:
            raise UserError(f"{key} is {value[:40]!r}; must be a whole number, or {self.word}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        for bound, holds, words in (
            (self.least, self.least is None or value >= self.least, "at least"),
            (self.above, self.above is None or value > self.above, "above"),
            (self.most, self.most is None or value <= self.most, "at most"),
        ):
            if not holds:
                raise UserError(f"{key} is {_shown(value)}; must be {words} {bound}")

    def __str__(self) -> str:
        return self._numbers() + (f", or {self.word}" if self.word else "")

    def _numbers(self) -> str:
        lower = f"above {self.above}" if self.above is not None else f"at least {self.least}"
        if self.most is None or self.most >= MANY:  # a bound that no setting comes near
            return "" if self.least is not None and self.least <= -MANY else lower
        return f"{self.least} to {self.most}" if self.above is None else f"{lower}, at most {self.most}"


@dataclass(frozen=True)
class Takes:
    """What a setting takes that has no single type, in words."""

    words: str


Count = Annotated[int, Range(1, MANY)]
"""How many of something there are, at least one."""
CountOrAuto = Annotated[int | str, Range(1, MANY, word="auto")]
"""How many of something there are, or ``auto``."""
CountFromZero = Annotated[int, Range(0, MANY)]
"""How many of something there are, possibly none."""
Seconds = Annotated[float, Range(above=0, most=MANY)]
"""A time to wait."""
SecondsFromZero = Annotated[float, Range(0, MANY)]
"""A time to wait, possibly none."""
Positive = Annotated[float, Range(above=0, most=10**15)]
"""A size or a rate."""
NonNegative = Annotated[float, Range(0, 10**15)]
"""A size or a rate, possibly 0."""
Seed = Annotated[int, Range(-(2**63), 2**62)]
"""What a server takes as a seed, with room for the number of a repeat."""
Bound = Annotated[float, Range(-1e6, 1e6)]
"""An end of a scale."""
Fraction = Annotated[float, Range(0, 1)]
"""A share of the whole."""
Bytes = Annotated[int, Range(1, 10**15)]
"""A size in bytes."""
Port = Annotated[int, Range(0, 65535)]
"""A TCP port; 0 is any free one."""


def takes(cls: type) -> Mapping[str, str]:
    """Return what those fields of a dataclass take that have words for it."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: each.words for name, hint in hints.items() for each in _marks(hint) if isinstance(each, Takes)}


def ranges(cls: type) -> Mapping[str, Range]:
    """Return the range of each field of a dataclass that has one."""
    return _cached_ranges(cls)


@cache
def _cached_ranges(cls: Hashable) -> Mapping[str, Range]:
    hints = get_type_hints(cls, include_extras=True)
    found = {name: [mark for mark in _marks(hint) if isinstance(mark, Range)] for name, hint in hints.items()}
    return {name: limits[0] for name, limits in found.items() if limits}


def _marks(hint: Any) -> Iterator[object]:
    """Yield what a type is annotated with, at any depth."""
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        yield from _marks(inner)


def _shown(value: float) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
