"""Calls of Granite 3 models: a JSON list behind ``<|tool_call|>``, which some write as ``<tool_call>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.api.tool_calls.base import Call, Frame, NotACall, ToolCallFormat, json_end, loaded, of_json
from launcher.core.types import Json

TOKEN, TEXT = "<|tool_call|>", "<tool_call>"


class Granite(ToolCallFormat):
    """A list of objects with ``name`` and ``arguments``; its bracket ends the calls."""

    name = "granite"
    marks = (TOKEN, TEXT)
    holds_chosen = False
    frame = Frame(f"{TOKEN}[", '{"name": "', '", "arguments": ', "}", ", ", "]")

    def end(self, block: str) -> int | None:
        start = len(block) - len(_behind_mark(block).lstrip())
        return json_end(block, start) if block[start : start + 1] in ("[", "{") else None

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        rest = _behind_mark(block).lstrip()
        if not rest.startswith("["):
            raise NotACall("no list behind the mark")
        return of_json(loaded(rest))


def _behind_mark(block: str) -> str:
    return block.removeprefix(TOKEN).removeprefix(TEXT)
