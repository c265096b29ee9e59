"""A grammar whose rules lead too deep is refused before llguidance, whose recursion would end the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.api.structured import _compiled


def chain(size: int, wrap: Any) -> str:
    defs = {f"d{i}": wrap({"$ref": f"#/$defs/d{i + 1}"}) for i in range(size)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": {**defs, f"d{size}": {"type": "string"}}})


def properties(size: int) -> str:
    found = {f"p{i}": {"$ref": f"#/properties/p{i + 1}"} for i in range(size)}
    return json.dumps({"properties": {**found, f"p{size}": {"type": "string"}}, "required": ["p0"]})


def nested(inner: Any, depth: int) -> Any:
    return inner if depth == 0 else {"properties": {"a": nested(inner, depth - 1)}, "required": ["a"]}


RULES = "".join(f"r{i}: r{i + 1}\n" for i in range(3000))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json", chain(3000, lambda ref: ref)),
        ("json", properties(3000)),
        ("json", chain(1200, lambda ref: {"properties": {"a": ref}, "required": ["a"]})),
        ("json", chain(60, lambda ref: nested(ref, 20))),
        ("grammar", f"start: %json {chain(3000, lambda ref: ref)}\n"),
        ("grammar", f'start: r0\n{RULES}r3000: "a"\n'),
        ("grammar", f'root ::= r0\n{RULES.replace(":", " ::=")}r3000 ::= "a"\n'),
    ],
)
def test_what_leads_too_deep_is_refused(kind: Any, source: str) -> None:
    grammar, problem = _compiled(kind, source)
    assert grammar == ""
    assert "more than 1500" in problem


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json", chain(400, lambda ref: {"properties": {"a": ref}, "required": ["a"]})),
        ("json", chain(1400, lambda ref: ref)),
        ("json", chain(18, lambda ref: nested(ref, 40))),
        ("grammar", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(1400)) + 'r1400: "a"\n'),
    ],
)
def test_what_is_within_the_bounds_is_compiled(kind: Any, source: str) -> None:
    assert _compiled(kind, source)[1] == ""
