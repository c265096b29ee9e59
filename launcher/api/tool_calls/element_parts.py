"""Find names and arguments in calls that are written as elements, whose values may contain any of the elements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.api.tool_calls.base import NotACall, json_end, loaded

SPACE = re.compile(r"\s*")
STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*(?:"|(?P<open>\\?\Z))?')
MOST = 10_000
"""So many places are tried at which values may end."""


@dataclass(frozen=True)
class Syntax:
    """Expressions of the parts in their order: ``begin``, then calls with ``head``, arguments and ``tail``.

    A value between ``key`` and ``value_end`` may hold elements, from ``opens`` to ``closes``; where ``opens`` is None,
    none of them is looked at. ``several``: there may be more than one call.
    """

    begin: re.Pattern[str]
    head: re.Pattern[str]
    key: re.Pattern[str]
    opens: re.Pattern[str] | None
    closes: re.Pattern[str]
    value_end: re.Pattern[str]
    tail: re.Pattern[str]
    several: bool = False


@dataclass(frozen=True)
class Argument:
    """The text of an argument; ``is_text`` is what the model says of its type, None where it says nothing."""

    key: str
    text: str
    is_text: bool | None = None


@dataclass(frozen=True)
class Parts:
    """A name with arguments. ``is_open``: a value opens an element that does not close in it, so it may not be over."""

    name: str
    arguments: tuple[Argument, ...]
    is_open: bool


class WithinValue(NotACall):
    """A text that ends within a value."""


class WithinString(WithinValue):
    """A text that ends within a string of JSON, if it is JSON."""


@dataclass(frozen=True)
class _Step:
    """A part that was read, up to ``at``."""

    at: int
    before: _Step | None
    head: str | None = None
    argument: Argument | None = None
    in_call: bool = False


def parts(block: str, syntax: Syntax, *, first_only: bool = False, strict: bool = False) -> list[Parts]:
    """Return the calls of a whole block, the first way to read it; ``first_only`` tries no further ones.

    Raises `NotACall`, and `WithinValue` where the first way ends within a value; ``strict`` where it ends within a
    string of JSON, too.
    """
    begin = syntax.begin.match(block)
    if begin is None:
        raise NotACall("no call behind the mark")
    failure: NotACall | None = None
    seen: set[tuple[int, bool]] = set()
    ways = [iter([_Step(begin.end(), None)])]
    for _ in range(MOST):
        step = next(ways[-1], None) if ways else None
        if step is None:
            if not ways[1:]:
                break
            ways.pop()
            continue
        if (step.at, step.in_call) in seen:
            continue
        seen.add((step.at, step.in_call))
        if not step.in_call and step.before is not None and not block[step.at :].strip():
            return _found(step, syntax)
        try:
            ways.append(_steps(block, step, syntax, strict))
        except NotACall as reason:
            failure = failure or reason
        if first_only and failure is not None:
            break
    raise failure or NotACall("nothing that can be read to its end")


def _steps(block: str, step: _Step, syntax: Syntax, strict: bool) -> Iterator[_Step]:
    """Return the parts that may follow, the likeliest first. Raises `NotACall` where there is none."""
    if not step.in_call:
        head = syntax.head.match(block, step.at) if step.before is None or syntax.several else None
        if head is None:
            raise NotACall("text behind the call" if step.before else "no name behind the mark")
        return iter([_Step(head.end(), step, head=head["name"], in_call=True)])
    tail = syntax.tail.match(block, step.at)
    if tail is not None:
        return iter([_Step(tail.end(), step)])
    key = syntax.key.match(block, step.at)
    if key is None:
        raise NotACall("neither an argument nor the end of the call")
    if syntax.value_end.search(block, key.end()) is None:
        raise WithinValue("an argument without its end")
    is_text = {"true": True, "false": False}.get(key.groupdict().get("text") or "")
    json_ends = None if is_text else _json_end(block, key.end(), syntax)
    if strict and not is_text and json_ends is None and _is_in_string(block[key.end() :]):
        raise WithinString("a string of JSON without its end")
    return _values(block, key, is_text, json_ends, step, syntax)


def _values(
    block: str, key: re.Match[str], is_text: bool | None, json_ends: re.Match[str] | None, step: _Step, syntax: Syntax
) -> Iterator[_Step]:
    for end in _ends(block, key.end(), json_ends, syntax):
        argument = Argument(key["key"], block[key.end() : end.start()], is_text)
        yield _Step(end.end(), step, argument=argument, in_call=True)


def _ends(block: str, start: int, json_ends: re.Match[str] | None, syntax: Syntax) -> Iterator[re.Match[str]]:
    """Yield where a value may end: JSON at its bracket, then where no element within it is open, then the others."""
    if json_ends is not None:
        yield json_ends
    others = []
    for end in syntax.value_end.finditer(block, start):
        if _is_open(block[start : end.start()], syntax):
            others.append(end)
        else:
            yield end
    yield from others


def _json_end(block: str, start: int, syntax: Syntax) -> re.Match[str] | None:
    space = SPACE.match(block, start)
    begin = space.end() if space else start
    end = json_end(block, begin) if block[begin : begin + 1] in ("[", "{") else None
    if end is None:
        return None
    try:
        loaded(block[begin:end])
    except NotACall:
        return None
    space = SPACE.match(block, end)
    return syntax.value_end.match(block, end) or (syntax.value_end.match(block, space.end()) if space else None)


def _is_open(value: str, syntax: Syntax) -> bool:
    """Return whether an element that a value opens does not close in it."""
    if syntax.opens is None or syntax.opens.search(value) is None:
        return False
    marks = [(found.start(), 1) for found in syntax.opens.finditer(value)]
    marks += [(found.start(), -1) for found in syntax.closes.finditer(value)]
    depth = 0
    for _, change in sorted(marks):
        depth = max(0, depth + change)
    return depth > 0


def _is_in_string(value: str) -> bool:
    """Return whether JSON breaks off within a string; a string has no line breaks."""
    if value.lstrip()[:1] not in ("[", "{"):
        return False
    for found in STRING.finditer(value):
        if found["open"] is not None:
            return True
        if found[0] == '"' or not found[0].endswith('"'):
            return False
    return False


def _found(step: _Step, syntax: Syntax) -> list[Parts]:
    found: list[Parts] = []
    arguments: list[Argument] = []
    at: _Step | None = step
    while at is not None:
        if at.argument is not None:
            arguments.insert(0, at.argument)
        elif at.head is not None:
            if len({argument.key for argument in arguments}) < len(arguments):
                raise NotACall("an argument twice")
            is_open = any(_is_open(argument.text, syntax) for argument in arguments)
            found.insert(0, Parts(at.head, tuple(arguments), is_open))
            arguments = []
        at = at.before
    return found
