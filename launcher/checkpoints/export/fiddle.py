"""The JSON in which fiddle keeps how objects are made, which NeMo's ``io.load_context`` reads.

The format is that of ``fiddle/_src/experimental/serialization.py`` (0.3), version 0.0.1. Only what NeMo's context
needs is written: calls with their arguments, names, lists, mappings and plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.core.types import Json

CONFIG = "fiddle._src.config"


@dataclass(frozen=True)
class Name:
    """Something that is used and not called: a function, or a type of numbers."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A class and the arguments that it is called with."""

    module: str
    name: str
    arguments: Mapping[str, Any]


def serialized(root: Call) -> dict[str, Json]:
    """Return the whole document of a call."""
    objects: dict[str, Json] = {}
    made = _written(root, "<root>", objects)
    return {"root": made, "objects": objects, "refcounts": dict.fromkeys(objects, 1), "version": "0.0.1"}


def _written(value: Any, path: str, objects: dict[str, Json]) -> dict[str, Json]:
    if isinstance(value, Name):
        return {**_reference(value.module, value.name), "paths": [path]}
    if isinstance(value, Call):
        return _call(value, path, objects)
    if isinstance(value, Mapping):
        items = [[f"Key(key={key!r})", _written(x, f"{path}[{key!r}]", objects)] for key, x in value.items()]
        return _object("dict", {"type": _builtin("dict"), "items": items, "metadata": _tuple(value)}, objects)
    if isinstance(value, list):
        items = [[f"Index(index={i})", _written(x, f"{path}[{i}]", objects)] for i, x in enumerate(value)]
        return _object("list", {"type": _builtin("list"), "items": items, "metadata": None}, objects)
    return {"type": "leaf", "value": value, "paths": [path]}


def _call(value: Call, path: str, objects: dict[str, Json]) -> dict[str, Json]:
    metadata: dict[str, Json] = {
        "type": _reference(CONFIG, "BuildableTraverserMetadata"),
        "items": [
            ["Attr(name='fn_or_cls')", _reference(value.module, value.name)],
            ["Attr(name='argument_names')", _tuple(value.arguments)],
            ["Attr(name='argument_tags')", _written({}, path, objects)],
            ["Attr(name='argument_history')", _written({}, path, objects)],
        ],
        "metadata": _reference(CONFIG, "BuildableTraverserMetadata"),
    }
    about = _object("metadata", metadata, objects)
    items = [[f"Attr(name={key!r})", _written(x, f"{path}.{key}", objects)] for key, x in value.arguments.items()]
    made: dict[str, Json] = {"type": _reference(CONFIG, "Config"), "items": items, "metadata": about, "paths": [path]}
    return _object(value.name.lower(), made, objects)


def _object(kind: str, content: dict[str, Json], objects: dict[str, Json]) -> dict[str, Json]:
    """Keep an object under a key of its own, and return what refers to it."""
    key = f"{kind}_{len(objects) + 1}"
    objects[key] = content
    return {"type": "ref", "key": key}


def _tuple(names: Mapping[str, Any]) -> dict[str, Json]:
    """Return the names as a tuple of texts, which fiddle writes without references."""
    items: list[Json] = [[f"Index(index={i})", name] for i, name in enumerate(names)]
    return {"type": _builtin("tuple"), "items": items, "metadata": None}


def _reference(module: str, name: str) -> dict[str, Json]:
    return {"type": "pyref", "module": module, "name": name}


def _builtin(name: str) -> dict[str, Json]:
    return _reference("builtins", name)
