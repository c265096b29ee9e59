"""Calls of Llama 3.1 to 3.3: a JSON object, alone or behind ``<|python_tag|>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.api.tool_calls.base import Call, Frame, NotACall, OtherText, ToolCallFormat, json_end, loaded, of_json
from launcher.core.types import Json

TAG, NAMED = "<|python_tag|>", '"name"'


class Llama3Json(ToolCallFormat):
    """An object with ``name`` and ``parameters``; several are separated by ``;``.

    Without the tag, the object must name one of the tools and have parameters: any other JSON is the answer itself.
    """

    name = "llama3_json"
    marks = (TAG,)
    bare = "{"
    separators = ";"
    frame = Frame("", '{"name": "', '", "parameters": ', "}", None, "")

    def end(self, block: str) -> int | None:
        start = len(block) - len(block.removeprefix(TAG).lstrip())
        return json_end(block, start) if block[start : start + 1] == "{" else None

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        if block.startswith(TAG):
            return of_json(loaded(block.removeprefix(TAG)))
        if NAMED not in block:
            raise OtherText("an object without a name")
        found = loaded(block)
        if found.get("name") not in tools or not {"parameters", "arguments"} & found.keys():
            raise NotACall("an object that calls none of the tools")
        return of_json(found)
