"""Calls of DeepSeek V3.2 and V4: elements that say themselves which values are texts."""

from __future__ import annotations

import re

from launcher.api.tool_calls.base import Elements, Frame
from launcher.api.tool_calls.deepseek import BAR
from launcher.api.tool_calls.element_parts import Syntax
from launcher.api.tool_calls.elements import OfElements

DSML = f"{BAR}DSML{BAR}"
"""A token of its own in some vocabularies."""
KEY, PARAMETER_END, INVOKE_END = f'<{DSML}parameter name="', f"</{DSML}parameter>", f"</{DSML}invoke>"


def _syntax(block: str) -> Syntax:
    return Syntax(
        begin=re.compile(rf"<{DSML}{block}>\s*"),
        head=re.compile(rf'\s*<{DSML}invoke name="(?P<name>[^"<>\s]+)">\s*'),
        key=re.compile(rf'{KEY}(?P<key>[^"\n]+)"(?:\s+string="(?P<text>true|false)")?\s*>'),
        opens=re.compile(rf'{KEY}[^"\n]+"[^<>\n]*>'),
        closes=re.compile(PARAMETER_END),
        value_end=re.compile(rf"{PARAMETER_END}\s*(?={KEY}|{INVOKE_END})"),
        tail=re.compile(rf"{INVOKE_END}\s*(?:</{DSML}{block}>)?"),
        several=True,
    )


def _frame(block: str) -> Frame:
    return Frame(
        f"<{DSML}{block}>\n", f'<{DSML}invoke name="', '">\n', f"{INVOKE_END}\n", "", f"</{DSML}{block}>"
    )  # fmt: skip


class DeepSeekV32(OfElements):
    """``invoke`` and ``parameter``, whose ``string`` is ``true`` before a text and ``false`` before JSON."""

    name = "deepseek_v32"
    marks = (f"<{DSML}function_calls>",)
    more_marks = (DSML,)
    frame = _frame("function_calls")
    elements = Elements(KEY, '" string="true">', "", PARAMETER_END, INVOKE_END, other='" string="false">', none="\n")
    _syntax = _syntax("function_calls")
    _close = f"</{DSML}function_calls>"


class DeepSeekV4(DeepSeekV32):
    """The same in an element with another name."""

    name = "deepseek_v4"
    marks = (f"<{DSML}tool_calls>",)
    frame = _frame("tool_calls")
    _syntax = _syntax("tool_calls")
    _close = f"</{DSML}tool_calls>"
