"""Rules in llguidance's Lark form for arguments that are elements with a text each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from launcher.api.endless import target_of
from launcher.api.tool_calls.base import Elements
from launcher.api.tool_calls.elements import typed_value, types_of
from launcher.core.types import Json

NOTES = frozenset({"description", "title", "default", "examples", "deprecated", "$comment"})
PLACES = frozenset({"$defs", "definitions"})
OBJECT = NOTES | PLACES | {"type", "properties", "required", "additionalProperties", "$schema"}
TEXT = NOTES | {"type", "minLength", "maxLength"}
Literal = Callable[[str], str]
"""Writes a text into a grammar, with the special tokens by their numbers."""


class NotHeld(ValueError):
    """A schema that no grammar of this form holds a call to; the message says what in it."""


def free_rules(rule: str, end: str, literal: Literal) -> list[str]:
    """Return the rules of arguments that are held to no schema, with the element that ends them."""
    return [_until(rule, "(?s:.*)", end, literal)]


def rules(rule: str, schema: Mapping[str, Json], elements: Elements, literal: Literal, whitespace: str) -> list[str]:
    """Return the rules of the arguments of a schema, in its order. Raises `NotHeld`."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    _check(schema, OBJECT, "the schema")
    if missing := [key for key in required if key not in properties]:
        raise NotHeld(f"{missing[0]!r} is required, and no property")
    lines, parts = [], []
    for i, (key, each) in enumerate(properties.items()):
        if any(character in key for character in "<>\n") or key != key.strip() or not key:
            raise NotHeld(f"the name of the property {key!r}")
        name = f"{rule}p{i}"
        parts.append(name if key in required else f"{name}?")
        found = list(_Value(f"{name}v", key, schema, elements, literal, whitespace).rules(each))
        lines += [f"{name}: {literal(elements.key + key + elements.value)} {name}v {literal(elements.after)}", *found]
    return [f"{rule}: {' '.join(parts)}", *lines]


class _Value:
    """The rules of one argument's value, with the text that ends it."""

    def __init__(
        self, rule: str, key: str, root: Mapping[str, Json], elements: Elements, literal: Literal, whitespace: str
    ) -> None:
        self._rule, self._key, self._root, self._elements = rule, key, root, elements
        self._literal, self._guide = literal, {"x-guidance": {"whitespace_pattern": whitespace}}

    def rules(self, schema: Json) -> Iterator[str]:
        whole = list(_branches(schema, self._root))
        texts = [each for each in whole if "string" in types_of(each, self._root)]
        if not texts:
            yield from self._json(self._rule, schema)
            return
        free = [each for each in texts if not isinstance(each, Mapping) or not {"enum", "const"} & each.keys()]
        others = [each for each in whole if each not in texts]
        if free:
            yield self._free(free, others)
            return
        close = self._literal(self._elements.line + self._elements.close)
        names = [f"{self._rule}{i}" for i in range(len(others))]
        words = [json.dumps(word) for each in texts for word in self._words(each, schema)]
        yield f"{self._rule}: {' | '.join([*(f'{word} {close}' for word in words), *names])}"
        for name, each in zip(names, others, strict=True):
            yield from self._json(name, each)

    def _json(self, rule: str, schema: Json) -> Iterator[str]:
        if not isinstance(schema, Mapping) or not types_of(schema, self._root):
            raise NotHeld(f"the property {self._key!r}, which no value can match")
        places = {key: self._root[key] for key in PLACES & self._root.keys()}
        yield f"{rule}: {rule}j {self._literal(self._elements.line + self._elements.close)}"
        yield f"{rule}j: %json {json.dumps({**schema, **places, **self._guide})}"

    def _free(self, texts: Sequence[Json], others: Sequence[Json]) -> str:
        """Return the rule of any text; it is also read as another type that the schema allows, which must be plain."""
        if len(texts) > 1 or any(self._is_read_otherwise(each) for each in others):
            raise NotHeld(f"the property {self._key!r}, a text or something else that has conditions of its own")
        (only,) = texts
        least, most = 0, ""
        if isinstance(only, Mapping):
            _check(only, TEXT, f"the property {self._key!r}")
            least, most = only.get("minLength", 0), only.get("maxLength", "")
        line = json.dumps(self._elements.line)[1:-1]
        bounds = f"{{{least},{most}}}" if least or most != "" else "*"
        return _until(self._rule, f"(?s:.{bounds}){line}", self._elements.close, self._literal)

    def _is_read_otherwise(self, schema: Json) -> bool:
        conditions = set(schema) - NOTES - {"type"} if isinstance(schema, Mapping) else {"any"}
        return bool(conditions) or bool(types_of(schema, self._root) & {"array", "object"})

    def _words(self, leaf: Mapping[str, Json], schema: Json) -> Iterator[str]:
        """Yield the texts of an enumeration. Raises `NotHeld` for one that would be read as another value."""
        for value in [leaf["const"]] if "const" in leaf else leaf["enum"]:
            word = value if isinstance(value, str) else json.dumps(value)
            read = typed_value(word, schema, self._root)
            if read != value or isinstance(read, bool) != isinstance(value, bool) or self._elements.close in word:
                raise NotHeld(f"the property {self._key!r}, whose value {value!r} would be read as another")
            yield word


def _check(schema: Mapping[str, Json], known: frozenset[str], where: str) -> None:
    if unknown := sorted(schema.keys() - known):
        raise NotHeld(f"{unknown[0]!r} of {where}")


def _branches(schema: Json, root: Mapping[str, Json], depth: int = 8) -> Iterator[Json]:
    """Yield the schemas of which a value matches one."""
    if not isinstance(schema, Mapping) or depth == 0:
        yield schema
        return
    said = schema.keys() - NOTES
    if said == {"$ref"}:
        yield from _branches(target_of(root, schema["$ref"]), root, depth - 1)
    elif said in ({"anyOf"}, {"oneOf"}):
        (word,) = said
        for each in schema[word]:
            yield from _branches(each, root, depth - 1)
    elif isinstance(schema.get("type"), list):
        yield from ({**schema, "type": each} for each in schema["type"])
    else:
        yield schema


def _until(rule: str, pattern: str, end: str, literal: Literal) -> str:
    """Return the rule of a text that an element ends, which is not in it."""
    written = literal(end)
    if written.startswith("<["):
        return f"{rule}: {rule.upper()}? {written}\n{rule.upper()}: /{pattern}/"
    return f"{rule}[suffix={json.dumps(end)}]: /{pattern}/"
