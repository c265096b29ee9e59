"""Calls of Kimi K2: an id with the name and a number, and JSON, between special tokens."""

from __future__ import annotations

import re
from dataclasses import replace

from launcher.api.tool_calls.base import Call, Frame
from launcher.api.tool_calls.sections import OfSection

OPEN, CLOSE = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
BEGIN, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
SPACE = "functions."
"""What stands before names. Models leave it out at times."""
COUNT = ":"


class KimiK2(OfSection):
    """``functions.NAME:NUMBER`` is the id of a call: templates write earlier calls by their ids alone."""

    name = "kimi_k2"
    marks = (OPEN,)
    more_marks = (CLOSE, BEGIN, ARGUMENTS, END)
    frame = Frame(OPEN, f"{BEGIN}{SPACE}", ARGUMENTS, END, "", CLOSE, count=COUNT)
    _open, _close = OPEN, CLOSE
    _head = re.compile(
        rf"\s*{re.escape(BEGIN)}\s*(?P<id>({re.escape(SPACE)})?(?P<name>[^\s{{}}<>]+):[0-9]+)\s*{re.escape(ARGUMENTS)}\s*"
    )
    _tail = re.compile(rf"\s*{re.escape(END)}")

    def _call(self, head: re.Match[str], arguments: str) -> Call:
        return replace(super()._call(head, arguments), id=head["id"])

    def named(self, text: str) -> tuple[str, str | None]:
        return text.rpartition(COUNT)[0], f"{SPACE}{text}"
