"""What a chat's ``tools`` and ``tool_choice`` ask of its answer: a reader of calls, and a grammar for forced ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from launcher.api.detokenizer import CallReader
from launcher.api.request_schema import ChatRequest, Function, NamedTool
from launcher.api.tool_calls import grammar
from launcher.api.tool_calls.base import ToolCallFormat
from launcher.api.tool_calls.formats import FORMATS, format_of, unread_form
from launcher.api.tool_calls.reading import ForcedReader, Reader
from launcher.asgi.errors import invalid, quoted
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine

NO_TOOLS = "no_tools"
"""The code of an error about a model that does not know tools, or whose calls cannot be read."""
KNOWN = " or ".join([", ".join(form.name for form in FORMATS[:-1]), FORMATS[-1].name])


@dataclass(frozen=True)
class ToolUse:
    """The calls that an answer may have, or must have if ``forced``; ``single``: one at most."""

    format: ToolCallFormat
    tools: Sequence[Function]
    tokens: Mapping[str, int]
    forced: bool
    single: bool

    @property
    def needs_grammar(self) -> bool:
        return self.forced or any(tool.strict for tool in self.tools)

    @property
    def schemas(self) -> Iterator[tuple[str, Json]]:
        """The schemas that calls are held to, by the names of their functions."""
        for tool in self.tools:
            if self.forced or tool.strict:
                yield tool.name, tool.schema_of_arguments()

    def grammar(self) -> str:
        """Return the grammar of the answer, in llguidance's Lark form. Raises `NotHeld`."""
        if self.forced:
            return grammar.forced(self.format, self.tools, self.tokens, single=self.single)
        return grammar.chosen(self.format, self.tools, self.tokens, single=self.single)

    def reader(self) -> CallReader:
        shown = {token: text.encode() for text, token in self.tokens.items()}
        if self.forced and self.format.elements is None:
            return ForcedReader(self.format, self.format.frame, shown)
        tools = {tool.name: tool.schema_of_arguments() for tool in self.tools}
        return Reader(self.format.forced() if self.forced else self.format, tools, shown, self.single)


def tool_use_of(body: ChatRequest, engine: AsyncEngine) -> ToolUse | None:
    """Return what a request asks for; None where no call is to be read. Raises `ApiError` 400."""
    choice, tools = body.tool_choice, [tool.function for tool in body.tools]
    if not tools and choice not in ("none", "auto"):
        raise invalid("tool_choice", "tool_choice: it needs 'tools'")
    if not tools or choice == "none":
        return None
    form = _format(engine.tokenizer)
    _check_others(body)
    asked = list(_asked(choice, tools))
    named = isinstance(choice, NamedTool)
    found = ToolUse(
        form, asked, _tokens(form, engine.tokenizer), choice != "auto", named or not body.parallel_tool_calls
    )
    _check_grammar(found, engine, body)
    return found


def _format(tokenizer: Tokenizer) -> ToolCallFormat:
    setting = tokenizer.tool_call_parser
    if setting == "none":
        raise invalid("tools", "tools: model.tool_call_parser=none, so this server reads no calls", NO_TOOLS)
    template = tokenizer.tools_template or ""
    form = format_of(setting, template)
    if form is None and (unread := unread_form(template)) is not None:
        reason = f"the model's calls are in the form of {unread}, which this server does not read"
        raise invalid("tools", f"tools: {reason}", NO_TOOLS)
    if form is None:
        reason = "the chat template does not show the form of the model's calls"
        raise invalid("tools", f"tools: {reason}; serve it with model.tool_call_parser={KNOWN}", NO_TOOLS)
    return form


def _check_others(body: ChatRequest) -> None:
    """Refuse what would keep the model from calls."""
    other = next((name for name in ("response_format", "structured_outputs") if getattr(body, name)), None)
    if other is not None:
        message = f"{other}: it would keep the model from calls; leave it out, or send tool_choice='none'"
        raise invalid(other, message)


def _asked(choice: str | NamedTool, tools: Sequence[Function]) -> Iterator[Function]:
    if not isinstance(choice, NamedTool):
        yield from tools
        return
    name = choice.function.name
    found = next((tool for tool in tools if tool.name == name), None)
    if found is None:
        raise invalid("tool_choice", f"tool_choice: 'tools' has no function {quoted(name)}")
    yield found


def _check_grammar(use: ToolUse, engine: AsyncEngine, body: ChatRequest) -> None:
    if not use.needs_grammar:
        return
    param = "tool_choice" if use.forced else "tools"
    if not engine.grammars:
        raise invalid(param, f"{param}: this engine has no model that could be held to a call or a strict schema")
    if body.ignore_eos:
        raise invalid("ignore_eos", "ignore_eos: the answer ends with its calls; leave it out")
    if not use.forced and not use.format.holds_chosen:
        reason = f"no grammar holds calls in the form {use.format.name} to a schema where the model chooses them"
        raise invalid("tools", f"tools: strict: {reason}; leave strict out, or send tool_choice='required'")


def _tokens(form: ToolCallFormat, tokenizer: Tokenizer) -> dict[str, int]:
    """Return the special tokens of a form, which have no text of their own."""
    found = {}
    for mark in (*form.marks, *form.more_marks):
        tokens = tokenizer.encode(mark, special=False)
        if len(tokens) == 1 and not tokenizer.token_bytes(tokens[0]):
            found[mark] = tokens[0]
    return found
