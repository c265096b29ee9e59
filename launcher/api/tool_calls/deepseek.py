"""Calls of DeepSeek V3, R1 and V3.1: names and JSON between special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from launcher.api.tool_calls.base import Call, Frame, NotACall, ToolCallFormat, loaded, of_json
from launcher.core.types import Json

BAR = "\uff5c"
OPEN, CLOSE = f"<{BAR}tool▁calls▁begin{BAR}>", f"<{BAR}tool▁calls▁end{BAR}>"
BEGIN, END, BETWEEN = (f"<{BAR}tool▁{word}{BAR}>" for word in ("call▁begin", "call▁end", "sep"))
FENCED = re.compile(
    r"\s*function<sep>\s*(?P<name>\S+)\s*\n```json\n(?P<json>.*)\n```\s*".replace("<sep>", BETWEEN), re.DOTALL
)
PLAIN = re.compile(r"\s*(?P<name>[^\s{}]+)\s*<sep>(?P<json>\s*\{.*)".replace("<sep>", BETWEEN), re.DOTALL)


class DeepSeekV3(ToolCallFormat):
    """The kind ``function``, a name, and JSON in a fence of Markdown."""

    name = "deepseek_v3"
    marks = (OPEN,)
    more_marks = (CLOSE, BEGIN, END, BETWEEN)
    frame = Frame(OPEN, f"{BEGIN}function{BETWEEN}", "\n```json\n", f"\n```{END}", "\n", CLOSE)
    _call = FENCED

    def end(self, block: str) -> int | None:
        at = block.find(CLOSE)
        return None if at < 0 else at + len(CLOSE)

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        found = list(self._calls(block.removeprefix(OPEN).removesuffix(CLOSE)))
        if not found:
            raise NotACall("no call")
        return found

    def _calls(self, text: str) -> Iterator[Call]:
        while text := text.strip():
            whole, end, rest = text.partition(END)
            found = self._call.fullmatch(whole.removeprefix(BEGIN)) if whole.startswith(BEGIN) and end else None
            if found is None:
                raise NotACall("no name and arguments between the tokens of a call")
            yield from of_json({"name": found["name"], "arguments": loaded(found["json"])})
            text = rest


class DeepSeekV31(DeepSeekV3):
    """A name and JSON, without a kind and a fence."""

    name = "deepseek_v31"
    frame = Frame(OPEN, BEGIN, BETWEEN, END, "", CLOSE)
    _call = PLAIN
