"""Calls of DeepSeek V3, R1 and V3.1: names and JSON between special tokens."""

from __future__ import annotations

import re

from launcher.api.tool_calls.base import Frame
from launcher.api.tool_calls.sections import OfSection

BAR = "\uff5c"
OPEN, CLOSE = f"<{BAR}tool▁calls▁begin{BAR}>", f"<{BAR}tool▁calls▁end{BAR}>"
BEGIN, END, BETWEEN = (f"<{BAR}tool▁{word}{BAR}>" for word in ("call▁begin", "call▁end", "sep"))


class DeepSeekV3(OfSection):
    """The kind ``function``, a name, and JSON in a fence of Markdown."""

    name = "deepseek_v3"
    marks = (OPEN,)
    more_marks = (CLOSE, BEGIN, END, BETWEEN)
    frame = Frame(OPEN, f"{BEGIN}function{BETWEEN}", "\n```json\n", f"\n```{END}", "\n", CLOSE)
    _open, _close = OPEN, CLOSE
    _head = re.compile(rf"\s*{BEGIN}\s*function{BETWEEN}\s*(?P<name>[^\s<>]+)\s*\n```json\n\s*")
    _tail = re.compile(rf"\s*\n```\s*{END}")


class DeepSeekV31(DeepSeekV3):
    """A name and JSON, without a kind and a fence."""

    name = "deepseek_v31"
    frame = Frame(OPEN, BEGIN, BETWEEN, END, "", CLOSE)
    _head = re.compile(rf"\s*{BEGIN}\s*(?P<name>[^\s{{}}<>]+)\s*{BETWEEN}\s*")
    _tail = re.compile(rf"\s*{END}")
