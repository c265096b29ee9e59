"""Changes the tools that a request offers to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from launcher.adapters.base import Edit, Part
from launcher.core.errors import AdapterError, UserError
from launcher.core.types import Json, Request
from launcher.settings.component import component


@component("adapters/modify_tools")
class ModifyTools(Edit):
    """Leaves out tools of a request, or keys of their JSON schemas, before the server sees them.

    ``keep`` are the names of the tools that stay (empty: all), ``remove`` those that do not. ``remove_keys`` are keys
    of the schemas that a server does not take, for instance ``additionalProperties``; the arguments of a tool keep
    their names. ``strict`` sets that field of every function (null: as it is). A request whose last tool is removed is
    sent without ``tools`` and ``tool_choice``. Raises `AdapterError` if ``tool_choice`` asks for a removed tool.

    Use it if a server refuses a key of the tools' schemas, or to evaluate with fewer tools than a harness offers.

    Example: ``python launch.py 'adapters=[retry,modify_tools]'
    'adapters.modify_tools.remove_keys=[additionalProperties]'``
    """

    copies = True
    reads = Part.request
    rewrites = Part.request

    keep: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    remove_keys: list[str] = field(default_factory=list)
    strict: bool | None = None

    def __post_init__(self) -> None:
        both = sorted(set(self.keep) & set(self.remove))
        if both:
            raise UserError(f"adapters.modify_tools: '{both[0]}' is in keep and in remove; name it once")

    def edit(self, request: Request) -> Request:
        tools = request.body.get("tools")
        if not tools:
            return request
        if not isinstance(tools, list) or not all(_is_function(tool) for tool in tools):
            raise AdapterError("modify_tools: 'tools' is not a list of functions with a name")
        kept = [self._changed(tool) for tool in tools if self._stays(tool["function"]["name"])]
        _check_choice(request.body.get("tool_choice"), kept)
        body = {**request.body, "tools": kept}
        gone = () if kept else ("tools", "tool_choice", "parallel_tool_calls")
        return request.with_body({k: v for k, v in body.items() if k not in gone})

    def _stays(self, name: str) -> bool:
        return name not in self.remove and (not self.keep or name in self.keep)

    def _changed(self, tool: Mapping[str, Json]) -> Json:
        function = dict(tool["function"])
        if "parameters" in function:
            function["parameters"] = _schema_without(function["parameters"], self.remove_keys)
        if self.strict is not None:
            function["strict"] = self.strict
        return {**tool, "function": function}


def _is_function(tool: Json) -> bool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _check_choice(choice: Json, kept: Sequence[Json]) -> None:
    """Raise `AdapterError` for a choice that the remaining tools cannot meet."""
    if choice == "required" and not kept:
        raise AdapterError("modify_tools: tool_choice is 'required', and every tool is removed")
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name is not None and name not in [tool["function"]["name"] for tool in kept]:
        raise AdapterError(f"modify_tools: tool_choice asks for '{name}', which is removed")


def _schema_without(schema: Json, keys: Sequence[str]) -> Json:
    """Return a JSON schema without ``keys``; the names of properties are no keys of a schema."""
    if isinstance(schema, list):
        return [_schema_without(inner, keys) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {name: _inner(name, value, keys) for name, value in schema.items() if name not in keys}


def _inner(name: str, value: Json, keys: Sequence[str]) -> Json:
    if name in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
        return {inner: _schema_without(schema, keys) for inner, schema in value.items()}
    return value if name in ("enum", "const", "default", "examples", "required") else _schema_without(value, keys)
