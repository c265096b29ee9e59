"""Calls in Python's syntax, as Llama 4 and ToolACE write them: ``[name(key=value), ...]``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.api.tool_calls.base import Call, NotACall, OtherText, ToolCallFormat
from launcher.core.types import Json

SYNTAX = re.compile(r"""'(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|[\[\](){}]""", re.DOTALL)
LIKE_CALLS = re.compile(r"\s*\[\s*[A-Za-z_][\w.]*\s*\(")
CONSTANTS = {"true": True, "false": False, "null": None}
LONGEST = 100_000
"""So many characters of calls are parsed."""


class Pythonic(ToolCallFormat):
    """A list of calls with keyword arguments, whose values are literals; JSON's ``true``, ``false``, ``null`` too."""

    name = "pythonic"
    bare = "["
    holds_chosen = False

    def end(self, block: str) -> int | None:
        depth = 0
        for found in SYNTAX.finditer(block):
            if found[0] in "[({":
                depth += 1
            elif found[0] in "])}":
                depth -= 1
                if depth <= 0:
                    return found.end()
        return None

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        if not LIKE_CALLS.match(block):
            raise OtherText("a list of something else")
        if len(block) > LONGEST:
            raise NotACall(f"more than {LONGEST} characters")
        try:
            tree = ast.parse(block.strip(), mode="eval").body
            found = tree.elts if isinstance(tree, ast.List) else []
            calls = [_call(node) for node in found]
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise NotACall(str(error)) from None
        if not calls:
            raise NotACall("no call")
        return calls


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or not all(keyword.arg for keyword in node.keywords):
        raise NotACall("no call with keyword arguments")
    arguments = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    return Call(ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False))


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return CONSTANTS[node.id]
    if isinstance(node, ast.List):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    return ast.literal_eval(node)


def _key(node: ast.expr | None) -> str:
    key = None if node is None else ast.literal_eval(node)
    if not isinstance(key, str):
        raise NotACall("a key that is no text")
    return key
