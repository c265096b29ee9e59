"""Rules in llguidance's Lark form for arguments that are elements with a text each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from launcher.api.endless import target_of
from launcher.api.tool_calls.base import Elements
from launcher.api.tool_calls.elements import typed_value, types_of, types_of_value
from launcher.core.types import Json

NOTES = frozenset({"description", "title", "default", "examples", "deprecated", "$comment"})
PLACES = frozenset({"$defs", "definitions"})
OBJECT = NOTES | PLACES | {"type", "properties", "required", "additionalProperties", "$schema"}
TEXT = NOTES | {"type", "minLength", "maxLength"}
ANY, SPACE = "(?s:.*)", r"\s*"
PARTS = re.compile(r"<[^<>]+>")
FIRST_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")? ?(<\[\d+\]>)?(.*)')
Literal = Callable[[str], str]
"""Writes a text into a grammar, with the special tokens by their numbers."""


class NotHeld(ValueError):
    """A schema that no grammar of this form holds a call to; the message says what in it."""


def free_rules(rule: str, elements: Elements, end: str, literal: Literal) -> list[str]:
    """Return the rules of arguments that are held to no schema, with the ``end`` of their call.

    A value may hold each element alone. So the end of the last argument is searched for together with that of the call.
    """
    begin = literal(elements.key)
    lines = [f"{rule}: {rule}n | {begin} {rule}s", f"{rule}n: /{SPACE}/ {literal(end)}"]
    if "<[" not in begin:
        marks, rest = PARTS.findall(end), end.rpartition(">")[2]
        lines.append(f"{rule}s: {rule}t {literal(rest)}")
        return [*lines, _until(f"{rule}t", ANY, [elements.line + elements.close, *marks], literal)]
    values = f"{literal(elements.value)} | {literal(elements.other or elements.value)}"
    argument = f'/[^<>"\\n]+/ ({values}) {rule}v'
    value = _until(f"{rule}v", ANY + _escaped(elements.line), [elements.close], literal)
    return [*lines, f"{rule}s: {argument} /{SPACE}/ ({begin} {rule}s | {literal(end)})", value]


def rules(rule: str, schema: Mapping[str, Json], elements: Elements, literal: Literal, whitespace: str) -> list[str]:
    """Return the rules of the arguments of a schema, in its order. Raises `NotHeld`."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    _check(schema, OBJECT, "the schema")
    if missing := [key for key in required if key not in properties]:
        raise NotHeld(f"{missing[0]!r} is required, and no property")
    lines, parts = [], []
    for i, (key, each) in enumerate(properties.items()):
        if any(character in key for character in '<>"\n') or key != key.strip() or not key:
            raise NotHeld(f"the name of the property {key!r}")
        name = f"{rule}p{i}"
        parts.append(name if key in required else f"{name}?")
        found = list(_Value(f"{name}v", key, schema, elements, literal, whitespace).rules(each))
        lines += [f"{name}: {literal(elements.key + key)} {name}v {literal(elements.after)}", *found]
    blank = f"{literal(elements.none)} | " if elements.none and not required else ""
    return [f"{rule}: {blank}{' '.join(parts)}", *lines]


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
        others = [each for each in whole if each not in texts]
        if not texts:
            yield from self._either([], [], [schema])
        elif self._elements.other is not None:
            yield from self._told_apart(texts, others)
        elif free := [each for each in texts if not _is_listed(each)]:
            if any(self._is_read_otherwise(each) for each in others):
                raise NotHeld(self._either_or)
            yield from self._either([], [*free, *(each for each in texts if _is_listed(each))], [])
        else:
            yield from self._either([word for each in texts for word in self._words(each, schema)], [], others)

    def _told_apart(self, texts: Sequence[Json], others: Sequence[Json]) -> Iterator[str]:
        """Yield the rules where the form itself says what is a text."""
        words, free, others = [], [], [*others]
        for each in texts:
            rest = sorted(types_of(each, self._root) - {"string"})
            if isinstance(each, Mapping) and _is_listed(each):
                values = [value for value in _values(each) if types_of_value(value) & types_of(each, self._root)]
                words += [self._word(value) for value in values if isinstance(value, str)]
                listed = [value for value in values if not isinstance(value, str)]
                others += [{"enum": listed}] if listed else []
                continue
            free.append(each)
            others += [{**(each if isinstance(each, Mapping) else {}), "type": rest}] if rest else []
        if free and words:
            raise NotHeld(self._either_or)
        yield from self._either(words, free, others)

    def _either(self, words: Iterable[str], free: Sequence[Json], others: Sequence[Json]) -> Iterator[str]:
        """Yield the rules of one of several texts, any text, or JSON by one of several schemas."""
        before, close = self._literal(self._elements.value), self._literal(self._elements.line + self._elements.close)
        ways = [f"{before} {json.dumps(word) if word else ''} {close}" for word in words]
        ways += [f"{before} {self._rule}t"] if free else []
        names = [f"{self._rule}{i}" for i in range(len(others))]
        yield f"{self._rule}: {' | '.join([*ways, *names])}"
        if free:
            yield self._free(free)
        for name, each in zip(names, others, strict=True):
            yield from self._json(name, each)

    @property
    def _either_or(self) -> str:
        return f"the property {self._key!r}, a text or something else that has conditions of its own"

    def _json(self, rule: str, schema: Json) -> Iterator[str]:
        if not isinstance(schema, Mapping) or not types_of(schema, self._root):
            raise NotHeld(f"the property {self._key!r}, which no value can match")
        places = {key: self._root[key] for key in PLACES & self._root.keys()}
        before = self._elements.value if self._elements.other is None else self._elements.other
        yield f"{rule}: {self._literal(before)} {rule}j {self._literal(self._elements.line + self._elements.close)}"
        yield f"{rule}j: %json {json.dumps({**schema, **places, **self._guide})}"

    def _free(self, free: Sequence[Json]) -> str:
        """Return the rule of any text, without what would be read as the end of its value."""
        if len(free) > 1:
            raise NotHeld(self._either_or)
        (only,) = free
        least, most = 0, ""
        if isinstance(only, Mapping):
            _check(only, TEXT, f"the property {self._key!r}")
            least, most = only.get("minLength", 0), only.get("maxLength", "")
        bounds = f"{{{least},{most}}}" if least or most != "" else "*"
        pattern, close = f"(?s:.{bounds})", self._elements.close
        if not self._elements.line:
            return _until(f"{self._rule}t", pattern, [close], self._literal)
        pattern += _escaped(self._elements.line)
        pattern, without = (pattern, [_escaped(close) + ANY]) if least else (f"({pattern})?", [])
        without += [
            f"{ANY}{_escaped(close)}{SPACE}{_escaped(end)}{ANY}" for end in (self._elements.key, self._elements.end)
        ]
        return _until(f"{self._rule}t", pattern, [close], self._literal, without)

    def _is_read_otherwise(self, schema: Json) -> bool:
        conditions = set(schema) - NOTES - {"type"} if isinstance(schema, Mapping) else {"any"}
        return bool(conditions) or bool(types_of(schema, self._root) & {"array", "object"})

    def _words(self, leaf: Json, schema: Json) -> Iterator[str]:
        """Yield the texts of an enumeration. Raises `NotHeld` for one that would be read as another value."""
        for value in _values(leaf):
            word = self._word(value)
            read = typed_value(word, schema, self._root)
            if read != value or isinstance(read, bool) != isinstance(value, bool):
                raise NotHeld(self._read_as_another(value))
            yield word

    def _word(self, value: Json) -> str:
        word = value if isinstance(value, str) else json.dumps(value)
        if self._elements.close in word:
            raise NotHeld(self._read_as_another(value))
        return word

    def _read_as_another(self, value: Json) -> str:
        return f"the property {self._key!r}, whose value {value!r} would be read as another"


def _is_listed(leaf: Json) -> bool:
    return isinstance(leaf, Mapping) and bool({"enum", "const"} & leaf.keys())


def _values(leaf: Mapping[str, Json]) -> Sequence[Json]:
    return [leaf["const"]] if "const" in leaf else leaf["enum"]


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


def _until(rule: str, pattern: str, ends: Sequence[str], literal: Literal, without: Sequence[str] = ()) -> str:
    """Return the rule of a text with the elements that end it, between which white space may stand.

    The text matches none of ``without``.
    """
    lead, behind = _up_to_token(ends, literal)
    if not behind:
        return f"{rule}[suffix=/{lead}/]: /{pattern}/{_not(without)}"
    optional = "?" if not lead and re.fullmatch(pattern, "") else ""
    name = rule.upper()
    spelled = [ANY + _escaped(ends[0]) + ANY] if "<[" in literal(ends[0]) else []
    return f"{rule}: {name}{optional} {behind}\n{name}: /{pattern}{lead}/{_not([*without, *spelled])}"


def _up_to_token(ends: Sequence[str], literal: Literal) -> tuple[str, str]:
    """Return a pattern of the text before the first special token, and what stands from there on in a grammar."""
    lead = []
    for i, end in enumerate(ends):
        text, token, rest = FIRST_TOKEN.fullmatch(literal(end)).groups()  # type: ignore[union-attr]
        lead.append(_escaped(json.loads(text)) if text else "")
        if token:
            return SPACE.join(lead), rf" /{SPACE}/ ".join([token + rest, *map(literal, ends[i + 1 :])])
    return SPACE.join(lead), ""


def _not(patterns: Sequence[str]) -> str:
    return "".join(f" & ~/{each}/" for each in patterns)


def _escaped(text: str) -> str:
    """Return a pattern of a text, in the syntax of a grammar."""
    return "".join(json.dumps(each)[1:-1] if each < " " else re.escape(each).replace("/", r"\/") for each in text)
