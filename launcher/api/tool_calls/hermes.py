"""Calls of Hermes and Qwen models: JSON between ``<tool_call>`` and ``</tool_call>``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from launcher.api.tool_calls.base import Call, Frame, ToolCallFormat, loaded, of_json
from launcher.core.types import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
QUOTE = re.compile(r'\\.|"', re.DOTALL)


class Hermes(ToolCallFormat):
    """One object, or a list of them as SmolLM2 writes it, with ``name`` and ``arguments``."""

    name = "hermes"
    marks = (OPEN,)
    more_marks = (CLOSE,)
    frame = Frame("", f'{OPEN}\n{{"name": "', '", "arguments": ', f"}}\n{CLOSE}", "\n", "")

    @property
    def end_marks(self) -> tuple[str, ...]:
        return (CLOSE,)

    def end(self, block: str) -> int | None:
        at = block.find(CLOSE)
        while at >= 0 and _in_string(block[len(OPEN) : at]):
            at = block.find(CLOSE, at + 1)
        return None if at < 0 else at + len(CLOSE)

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        return of_json(loaded(block.removeprefix(OPEN).removesuffix(CLOSE)))


def _in_string(text: str) -> bool:
    """Return whether a JSON text ends within a string."""
    quotes = [found for found in QUOTE.findall(text) if found == '"']
    return len(quotes) % 2 == 1
