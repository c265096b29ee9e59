"""Which grammar the text of an answer must match, from ``response_format`` or ``structured_outputs``."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from launcher.api.dead_rules import dead_rule
from launcher.api.depth import schema_too_deep, too_deep
from launcher.api.endless import endless_reference
from launcher.api.request_schema import Sampled, StructuredOutputs
from launcher.api.tool_calls.element_grammar import NotHeld
from launcher.api.tool_calls.request import ToolUse
from launcher.asgi.errors import clipped, invalid, quoted
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine

WHITESPACE = r"[\x20\x0A\x0D\x09]{0,32}"
"""White space between the parts of a JSON text has an end, since a model may else go on with it up to its limit."""


UNSUPPORTED = re.compile(r"Unimplemented keys: \[([^\]]*)\](.*)", re.DOTALL)

Kind = Literal["json", "regex", "choice", "grammar", "lark"]
"""How a source says what a text must match, in llguidance's words."""


@dataclass(frozen=True)
class Grammar:
    """What a text must match, in llguidance's form, and the field that asks for it."""

    param: str
    text: str


async def grammar_of(body: Sampled, engine: AsyncEngine) -> Grammar | None:
    """Return the grammar that a request asks for, None for any text. Raises `ApiError` 400 for one that is not taken.

    Compiling takes up to seconds for a large schema, so it runs beside the event loop.
    """
    asked = dict(_asked(body))
    if not asked:
        return None
    (param, (kind, source)), *others = asked.items()
    if others:
        raise invalid(others[0][0], f"{param} and {others[0][0]} both say what the text must match; give one of them")
    if not engine.grammars:
        raise invalid(param, f"{param}: this engine has no model that could follow it")
    if body.ignore_eos:
        raise invalid("ignore_eos", f"ignore_eos: the text ends where {param} says; leave one of them out")
    return await _checked(param, kind, source)


async def grammar_of_calls(tools: ToolUse) -> Grammar | None:
    """Return the grammar of an answer with calls of tools. Raises `ApiError` 400 for a schema that is not taken."""
    if not tools.needs_grammar:
        return None
    for name, schema in tools.schemas:
        await _checked("tools", "json", json.dumps(schema), f"the function {quoted(name)}: ")
    try:
        grammar = tools.grammar()
    except NotHeld as error:
        reason = (
            f"{error}: calls in the form {tools.format.name} cannot be held to it; leave strict out, or send 'auto'"
        )
        raise invalid("tools", f"Invalid 'tools': {clipped(reason)}") from None
    return await _checked("tools", "lark", grammar)


async def _checked(param: str, kind: Kind, source: str, where: str = "") -> Grammar:
    grammar, problem = await asyncio.to_thread(_compiled, kind, source)
    if problem:
        raise invalid(param, f"Invalid '{param}': {where}{clipped(' '.join(problem.split()))}")
    return Grammar(param, grammar)


def _asked(body: Sampled) -> Iterator[tuple[str, tuple[Kind, str]]]:
    """Yield each field that asks for a grammar, with the kind of its source and the source."""
    form = body.response_format
    if form is not None and form.type == "json_object":
        yield "response_format", ("json", '{"type": "object"}')
    if form is not None and form.json_schema is not None:
        yield "response_format", ("json", json.dumps(form.json_schema.definition))
    if body.structured_outputs is not None:
        yield from _outputs(body.structured_outputs)


def _outputs(given: StructuredOutputs) -> Iterator[tuple[str, tuple[Kind, str]]]:
    if given.definition is not None:
        yield "structured_outputs.json", ("json", _text(given.definition))
    if given.json_object:
        yield "structured_outputs.json_object", ("json", '{"type": "object"}')
    if given.regex is not None:
        yield "structured_outputs.regex", ("regex", given.regex)
    if given.choice is not None:
        yield "structured_outputs.choice", ("choice", json.dumps(given.choice))
    if given.grammar is not None:
        yield "structured_outputs.grammar", ("grammar", given.grammar)


def _text(schema: Json) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


@lru_cache(maxsize=256)
def _compiled(kind: Kind, source: str) -> tuple[str, str]:
    """Return the grammar of a source, and what is wrong with it; one of the two is empty."""
    from llguidance import LLMatcher, grammar_from

    try:
        if (deep := _depth_problem(kind, source)) is not None:
            return "", deep
        if kind == "lark":
            grammar = source
        elif kind == "json" and (ref := endless_reference(json.loads(source))) is not None:
            return "", f"the reference {quoted(ref)} leads to itself without end, so that no value matches it"
        elif kind == "json":
            grammar = LLMatcher.grammar_from_json_schema(source, None, {"whitespace_pattern": WHITESPACE})
        else:
            grammar = grammar_from(kind, source)
    except ValueError as error:
        return "", str(error) or type(error).__name__
    except RecursionError:
        return "", "it is nested too deeply"
    if kind == "grammar" and (rule := dead_rule(grammar)) is not None:
        return "", f"the rule {quoted(rule)} leads to itself without end, so that no text matches it"
    wrong, said = LLMatcher.validate_grammar_with_warnings(grammar)
    problem = _in_our_words(said[0]) if wrong else "" if kind == "lark" else _no_begin(grammar)
    return ("", problem) if problem else (grammar, "")


def _depth_problem(kind: Kind, source: str) -> str | None:
    if kind == "json":
        return schema_too_deep(json.loads(source))
    return too_deep(source) if kind == "grammar" else None


def _in_our_words(said: str) -> str:
    """Return what llguidance says of a schema, without its own options."""
    if said.startswith("oneOf constraints are not supported"):
        return "oneOf is supported only where no value can match two of its schemas; use anyOf"
    if found := UNSUPPORTED.match(said):
        return f"not supported: {found[1].replace(chr(34), '')}{found[2]}"
    return said


def _no_begin(grammar: str) -> str:
    """Return what is wrong if no text can begin in the grammar, as where a rule leads only to itself."""
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes(), grammar, log_level=0)
    matcher.compute_bitmask()
    return "it matches no text: a part of it that must come matches none" if matcher.is_error() else ""


@lru_cache(maxsize=1)
def _bytes() -> Any:
    """Return a vocabulary of bytes, by which a grammar can be tried without a model."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    bos_token_id, eos_token_id, special_token_ids = None, 256, (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<|end|>")

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())
