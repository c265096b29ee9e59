"""A JSON value that is not parsed: the bytes of a body, or of a part of a stream, that pass as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from launcher.core.errors import AdapterError
from launcher.core.types import Json


@dataclass(frozen=True, eq=False)
class Unread(Mapping[str, Json]):
    """Stands for a body, or for a part of a stream, that no adapter declares to read; ``raw`` are its bytes.

    In a stream a part need not be an event: it has the bytes that came together. Any look at the value raises
    `AdapterError`, so that an adapter which reads what it does not declare fails, and mistakes nothing for an answer.
    """

    raw: bytes

    def __getitem__(self, name: str) -> NoReturn:
        raise _undeclared()

    def __iter__(self) -> Iterator[str]:
        raise _undeclared()

    def __len__(self) -> NoReturn:
        raise _undeclared()

    def __contains__(self, name: object) -> NoReturn:
        raise _undeclared()

    def __str__(self) -> NoReturn:
        raise _undeclared()

    def __eq__(self, other: object) -> NoReturn:
        raise _undeclared()

    __hash__ = None  # type: ignore[assignment]


def _undeclared() -> AdapterError:
    return AdapterError("an adapter looks at a body that it does not declare in 'reads'")
