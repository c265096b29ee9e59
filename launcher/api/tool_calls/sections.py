"""Calls as JSON between special tokens, several in one section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from launcher.api.tool_calls.base import Call, NotACall, ToolCallFormat, json_end, loaded, of_json
from launcher.core.types import Json


class OfSection(ToolCallFormat):
    """What the forms have in common: a section with calls, each with a head, a JSON object, and a tail.

    A text within the JSON may be equal to a token: only behind a whole object a tail ends its call.
    """

    _open: str
    _close: str
    _head: re.Pattern[str]
    _tail: re.Pattern[str]

    @property
    def end_marks(self) -> tuple[str, ...]:
        return (self._close,)

    def end(self, block: str) -> int | None:
        at = block.find(self._close)
        while at >= 0 and self._is_within(block[:at]):
            at = block.find(self._close, at + 1)
        return None if at < 0 else at + len(self._close)

    def _is_within(self, text: str) -> bool:
        """Return whether a text ends within the arguments of a call."""
        try:
            return any(call is None for call in self._calls(text))
        except NotACall:
            return False

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        if not block.endswith(self._close):
            raise NotACall("a section without its end")
        found = [call for call in self._calls(block.removesuffix(self._close)) if call is not None]
        if not found:
            raise NotACall("no call")
        return found

    def _calls(self, text: str) -> Iterator[Call | None]:
        """Yield the calls of a section without its end, and None if it ends within one."""
        at = len(self._open)
        while text[at:].strip():
            head = self._head.match(text, at)
            if head is None:
                raise NotACall("no name and arguments between the tokens of a call")
            end = json_end(text, head.end()) if text.startswith("{", head.end()) else head.end()
            if end is None:
                yield None
                return
            tail = self._tail.match(text, end)
            if tail is None:
                raise NotACall("no end behind the arguments of a call")
            yield self._call(head, text[head.end() : end])
            at = tail.end()

    def _call(self, head: re.Match[str], arguments: str) -> Call:
        (call,) = of_json({"name": head["name"], "arguments": loaded(arguments)})
        return call
