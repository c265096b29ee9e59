"""Finds references of a JSON schema that lead to themselves without end, so that no value can match them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from launcher.core.types import Json

LISTS, MAPS = ("allOf", "anyOf", "oneOf", "prefixItems"), ("properties", "patternProperties")


def endless_reference(schema: Json) -> str | None:
    """Return a reference that no finite value can match; None if each reference in use can end.

    A tree whose branches are optional, or may be null, ends.
    """
    if not isinstance(schema, Mapping):
        return None
    targets = dict(used_references(schema))
    ending = all_ending(targets, lambda ref, known: _Ends(known, targets).of(targets[ref]))
    return next((ref for ref in targets if ref not in ending), None)


def all_ending(names: Iterable[str], ends: Callable[[str, set[str]], bool]) -> set[str]:
    """Return the names of what can end; ``ends`` tells it of one, by those that are known to."""
    ending: set[str] = set()
    order, before = list(names), -1
    while before != len(ending):
        before = len(ending)
        order.reverse()
        for name in order:
            if name not in ending and ends(name, ending):
                ending.add(name)
    return ending


def used_references(root: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Yield the references that are reached from the whole schema, with their targets; not those that lead nowhere."""
    seen, todo = set(), [root]
    while todo:
        schema = todo.pop()
        todo.extend(part for part in _parts(schema) if isinstance(part, Mapping))
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref not in seen:
            seen.add(ref)
            target = target_of(root, ref)
            yield ref, target
            todo.extend([target] if isinstance(target, Mapping) else [])


def _parts(schema: Mapping[str, Any]) -> Iterator[Json]:
    for key in LISTS:
        yield from _list(schema.get(key))
    for key in MAPS:
        yield from schema[key].values() if isinstance(schema.get(key), Mapping) else ()
    yield from (schema[key] for key in ("items", "additionalProperties") if key in schema)


def _list(found: Json) -> list[Json]:
    return found if isinstance(found, list) else []


def target_of(root: Mapping[str, Json], ref: str) -> Json:
    """Return what a reference within the schema names; True, which any value matches, for another one."""
    base, _, pointer = ref.partition("#")
    if base and base != str(root.get("$id", "")).removesuffix("#"):
        return True
    found: Any = root
    if pointer and not pointer.startswith("/"):
        return next((part for part in _everywhere(root) if part.get("$anchor") == pointer), True)
    for key in map(_unescaped, pointer.split("/")[1:]):
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            return True
    return found


def _unescaped(key: str) -> str:
    return unquote(key).replace("~1", "/").replace("~0", "~")


def _everywhere(root: Json) -> Iterator[Mapping[str, Json]]:
    todo = [root]
    while todo:
        found = todo.pop()
        if isinstance(found, Mapping):
            yield found
        todo.extend(found.values() if isinstance(found, Mapping) else _list(found))


class _Ends:
    """Says whether a schema has finite values, as far as the references are known that do."""

    def __init__(self, ending: set[str], targets: Mapping[str, Json]) -> None:
        self._ending, self._targets = ending, targets

    def of(self, schema: Json) -> bool:
        if not isinstance(schema, Mapping):
            return True
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref in self._targets and ref not in self._ending:
            return False
        choices = [each for key in ("anyOf", "oneOf") if (each := _list(schema.get(key)))]
        if not all(map(self.of, _list(schema.get("allOf")))) or not all(any(map(self.of, each)) for each in choices):
            return False
        return "const" in schema or "enum" in schema or self._of_types(schema)

    def _of_types(self, schema: Mapping[str, Any]) -> bool:
        types = schema.get("type")
        given = set(types if isinstance(types, list) else [types])
        if not given <= {"object", "array"}:
            return True
        return ("object" in given and self._of_object(schema)) or ("array" in given and self._of_array(schema))

    def _of_object(self, schema: Mapping[str, Any]) -> bool:
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        other = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        return all(self.of(known.get(name, other)) for name in _list(schema.get("required")) if isinstance(name, str))

    def _of_array(self, schema: Mapping[str, Any]) -> bool:
        least = schema.get("minItems", 0)
        least = least if isinstance(least, int) else 0
        first = _list(schema.get("prefixItems"))
        rest = [schema.get("items", True)] if least > len(first) else []
        return all(map(self.of, [*first[: max(0, least)], *rest]))
