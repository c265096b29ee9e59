"""Calls of Mistral models: behind ``[TOOL_CALLS]`` a JSON list, or a name, ``[ARGS]`` and JSON."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping, Sequence

from launcher.api.tool_calls.base import Call, Frame, NotACall, ToolCallFormat, json_end, loaded, of_json
from launcher.core.types import Json

OPEN, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
NAMED = re.compile(r"\s*(?P<name>[^\s\[\]{}]+)\s*(\[CALL_ID\][^\[\]{}]*)?(\[ARGS\])?\s*(?=\{)")
ALPHABET = string.ascii_letters + string.digits


class Mistral(ToolCallFormat):
    """A list of objects with ``name`` and ``arguments``. Ids have nine letters and digits, which templates check."""

    name = "mistral"
    marks = (OPEN,)
    more_marks = (ID, ARGS)
    frame = Frame(f"{OPEN}[", '{"name": "', '", "arguments": ', "}", ", ", "]")

    def end(self, block: str) -> int | None:
        rest = block.removeprefix(OPEN)
        named = NAMED.match(rest)
        start = named.end() if named else len(rest) - len(rest.lstrip())
        if rest[start : start + 1] not in ("[", "{") or rest.startswith((ID, ARGS), start):
            return None
        return json_end(block, len(OPEN) + start)

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        rest = block.removeprefix(OPEN)
        if named := NAMED.match(rest):
            return of_json({"name": named["name"], "arguments": loaded(rest[named.end() :])})
        if not rest.lstrip().startswith(("[", "{")):
            raise NotACall("neither a list nor a name with arguments")
        return of_json(loaded(rest))

    def new_id(self) -> str:
        return "".join(secrets.choice(ALPHABET) for _ in range(9))


class MistralNamed(Mistral):
    """The newer form, whose templates write ``[ARGS]`` between a name and its arguments."""

    frame = Frame("", OPEN, ARGS, "", "", "")
