"""What a form of tool calls says: where calls begin and end in an answer, what they mean, and how to force them."""

from __future__ import annotations

import json
import math
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.types import Json

NAME, ARGUMENTS = "name", ("arguments", "parameters")
SYNTAX = re.compile(r'["\\{}\[\]]')


@dataclass(frozen=True)
class Call:
    """A call of a tool; ``arguments`` is a JSON object as a text. Raises `NotACall` for what no answer can carry.

    ``id`` is what the model calls it itself.
    """

    name: str
    arguments: str
    id: str | None = None

    def __post_init__(self) -> None:
        try:
            f"{self.name}{self.arguments}".encode()
        except UnicodeEncodeError:
            raise NotACall("half a character (a lone surrogate)") from None


class NotACall(ValueError):
    """A text that looks like calls, and is none."""


class OtherText(NotACall):
    """A text that only begins like calls: an answer of its own."""


@dataclass(frozen=True)
class Frame:
    """The text around the names and arguments of forced calls, in the order in which it is written.

    ``between`` separates calls; None if the form has one call only. ``count`` stands before a number behind the name.
    """

    before: str
    name: str
    arguments: str
    end: str
    between: str | None
    after: str
    count: str = ""


@dataclass(frozen=True)
class Elements:
    """The text around a key and a value, up to the ``end`` of all arguments.

    A text ends at ``close``, and ``line`` is what stands before that. ``other`` stands instead of ``value`` before what
    is no text, if the form tells them apart. ``none`` is written where there are no arguments.
    """

    key: str
    value: str
    line: str
    close: str
    end: str
    after: str = "\n"
    other: str | None = None
    none: str = ""


JSON_LIST = Frame("[", '{"name": "', '", "parameters": ', "}", ", ", "]")
"""A list of calls in JSON, as vLLM forces it: for forms that no JSON grammar describes."""


class ToolCallFormat(ABC):
    """The form in which a family of models writes calls."""

    name: str
    """The value of ``model.tool_call_parser``."""
    marks: tuple[str, ...] = ()
    """Texts that begin calls, also where they are special tokens, which are in no other text."""
    more_marks: tuple[str, ...] = ()
    """Further special tokens within calls."""
    bare: str = ""
    """The character that begins calls without a mark, at the begin of an answer only."""
    separators: str = ""
    """What may stand between calls beside white space."""
    frame: Frame = JSON_LIST
    holds_chosen: bool = True
    """Whether a grammar holds calls that the model chooses: each way to begin one is known to it."""
    elements: Elements | None = None
    """How arguments are written that are no JSON object; a call of those is passed on when it is whole."""

    @property
    def end_marks(self) -> tuple[str, ...]:
        """Texts without a new one of which `end` returns what it did before; none where any text may end the calls."""
        return ()

    @abstractmethod
    def end(self, block: str) -> int | None:
        """Return where the calls end that ``block`` begins with; None as long as they go on."""

    def end_at_last(self, block: str) -> int | None:
        """Return where the calls end that ``block`` begins with, where no text follows; None if it is all theirs."""
        return self.end(block)

    @abstractmethod
    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        """Return the calls of a whole block, at least one. Raises `NotACall`.

        ``tools`` are the schemas of arguments by the names of their functions.
        """

    def forced(self) -> ToolCallFormat:
        """Return the form to read forced calls in."""
        return self

    def named(self, text: str) -> tuple[str, str | None]:
        """Return the name, and the id if the model writes one, of what stands before the arguments of a forced call."""
        return text, None

    def new_id(self) -> str:
        return f"call_{secrets.token_hex(12)}"


def json_end(text: str, start: int = 0) -> int | None:
    """Return where the JSON list or object ends that begins at ``start``; None if it goes on."""
    return JsonSpan().feed(text[start:], start)


class JsonSpan:
    """Finds the end of one JSON list or object in a text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str, offset: int = 0) -> int | None:
        """Return the index in ``text``, plus ``offset``, behind the value; None if it goes on."""
        skipped = 1 if self._escaped and text else 0
        self._escaped = self._escaped and not text
        for found in SYNTAX.finditer(text, skipped):
            if found.start() < skipped:
                continue
            if found[0] == "\\":
                skipped = found.end() + 1 if self._in_string else skipped
                self._escaped = skipped > len(text)
            elif self._closes(found[0]):
                return found.end() + offset
        return None

    def _closes(self, character: str) -> bool:
        if character == '"':
            self._in_string = not self._in_string
        elif not self._in_string:
            self._depth += 1 if character in "{[" else -1
            return self._depth <= 0
        return False


def loaded(text: str) -> Any:
    """Return JSON. Raises `NotACall`, also for NaN, which is none, and for numbers beyond a double."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotACall(str(error)) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        _refuse(number)
    return found


def of_json(found: Json) -> list[Call]:
    """Return the calls of an object with ``name`` and ``arguments`` or ``parameters``, or of a list of such objects."""
    objects = found if isinstance(found, list) else [found]
    if not objects:
        raise NotACall("no call")
    return [_of_object(each) for each in objects]


def _of_object(found: Json) -> Call:
    if not isinstance(found, Mapping) or not isinstance(found.get(NAME), str) or not found[NAME]:
        raise NotACall("no object with a name")
    given: Json = next((found[key] for key in ARGUMENTS if key in found), {})
    return Call(found[NAME], json.dumps(object_of(given), ensure_ascii=False, allow_nan=False))


def object_of(given: Json) -> dict[str, Json]:
    """Return arguments, which may be JSON as a text. Raises `NotACall` if they are no object."""
    arguments = loaded(given) if isinstance(given, str) else given
    if not isinstance(arguments, dict):
        raise NotACall("arguments that are no object")
    return arguments
