"""A checkpoint's chat template: its file, the form of content that it reads, and its rendering."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from launcher.checkpoints.bounded import read_json_object
from launcher.checkpoints.tokenizers.template_process import TemplateProcess
from launcher.checkpoints.tokenizers.tool_forms import ToolForms, probed
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import (
    Message,
    NoChatTemplate,
    Rendering,
    TemplateLimits,
    TemplateRefused,
    ToolsNotRead,
    text_of,
)
from launcher.core.types import Json

ROLES = ("system", "user", "assistant")
TEXTS = {role: f"Text of the {role} {number}" for role, number in zip(ROLES, (7301, 7302, 7303), strict=True)}
"""What each role says in a probe."""
SHAPES = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("system", "user"), ("user",))
"""Conversations that are tried: some templates refuse a system message, or more than one turn."""
RESERVED = {"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"}
"""Variables that a request sets by fields of their own, or not at all."""
LONGEST = 2**20
"""Characters of a template; the longest of known models have some thirty thousand."""
TOOL_USE = "tool_use"
"""The name of a template for chats with tools."""
OPEN = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks where the last message ends, to cut the text there; as transformers does."""


@dataclass(frozen=True)
class StoredTemplate:
    """The template of a checkpoint and the file that it is from.

    ``tool_use`` is another one for chats with tools, as transformers takes it.
    """

    text: str
    file: Path
    tool_use: str | None = None

    @property
    def for_tools(self) -> StoredTemplate:
        """The template for chats with tools."""
        return self if self.tool_use is None else StoredTemplate(self.tool_use, self.file)


def select(stored: Mapping[str, str], file: Path) -> StoredTemplate | None:
    """Return the templates ``default`` and ``tool_use`` of those that a checkpoint names; None without any."""
    if not stored:
        return None
    if "default" not in stored:
        raise CheckpointError(
            f"{file}: its chat templates are named {', '.join(map(repr, stored))[:200]}, and none is 'default'"
        )
    return StoredTemplate(stored["default"], file, stored.get(TOOL_USE))


def from_files(folder: Path, config: Mapping[str, Json], config_file: Path) -> StoredTemplate | None:
    """Return the template of a Hugging Face folder: ``chat_template.jinja``, or that in ``tokenizer_config.json``."""
    files = [*sorted(folder.glob("chat_template*.jinja")), *sorted(folder.glob("additional_chat_templates/*.jinja"))]
    named = {_name(file): file for file in files}
    if "default" in named:
        tool_use = named.get(TOOL_USE)
        return StoredTemplate(_text(named["default"]), named["default"], None if tool_use is None else _text(tool_use))
    legacy = folder / "chat_template.json"
    stored = config.get("chat_template")
    if stored is None and legacy.is_file():
        stored, config_file = read_json_object(legacy).get("chat_template"), legacy
    return select(_named(stored, config_file) | {name: _text(file) for name, file in named.items()}, config_file)


def _name(file: Path) -> str:
    if file.parent.name == "additional_chat_templates":
        return file.stem
    return file.stem.removeprefix("chat_template").removeprefix("_") or "default"


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(LONGEST + 1)
    except ValueError as error:
        raise CheckpointError(f"{file}: the chat template is not UTF-8: {error}") from None


def _named(stored: Json, file: Path) -> dict[str, str]:
    """Return templates by name: from a text, a list of ``{name, template}``, or an object."""
    if stored is None or stored == "":
        return {}
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, list) and all(isinstance(item, dict) for item in stored):
        stored = {str(item.get("name")): item.get("template") for item in stored}
    if not isinstance(stored, dict) or not all(isinstance(x, str) for pair in stored.items() for x in pair):
        raise CheckpointError(f"{file}: chat_template must be a text, or a list of objects with name and template")
    return dict(stored)


@dataclass(frozen=True)
class Forms:
    """The form of content that a template reads: parts for ``parts`` roles, text for the others.

    With ``either``, parts that a client sent are passed on as they came. ``lost`` are roles whose text a template
    leaves out. ``refusal`` is why it renders no conversation that was tried.
    """

    parts: frozenset[str] = frozenset()
    either: bool = False
    lost: tuple[str, ...] = ()
    refusal: str | None = None

    def content(self, role: str, content: Json) -> Json:
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if role in self.parts else content
        return content if role in self.parts or self.either else text_of(content)


class ChatTemplate:
    """Renders conversations by a stored template. ``names`` are the special tokens, such as ``bos_token``.

    Nothing is started before the first use; `close` ends the processes. Safe over threads.
    """

    def __init__(self, stored: StoredTemplate, names: Mapping[str, str], limits: TemplateLimits) -> None:
        self.stored = stored
        self._names = names
        self._process = TemplateProcess(stored.text, limits)
        self._opening = threading.Lock()
        self._forms: Forms | None = None
        self._tools = ToolForms()
        self._variables: frozenset[str] = frozenset()
        self._problem: str | None = None
        self._refusal: str | None = None

    def render(self, messages: Sequence[Message], rendering: Rendering) -> str:
        """Return the text. Raises `NoChatTemplate` for a template of no use, else `TemplateRefused`."""
        forms = self._opened()
        self._check(rendering.variables)
        chat = [self._tools.filled(_filled(message, forms)) for message in self._tools.named(messages)]
        if lost := self._tools.lost(messages, rendering.tools):
            self._render(chat, rendering)  # its own complaint says more
            raise ToolsNotRead(f"{self.stored.file.name}: the chat template leaves out {lost}")
        if not rendering.continue_final_message:
            return self._render(chat, rendering)
        return _cut(self._render(_opened_last(chat), rendering), _final(chat[-1]["content"]))

    def facts(self) -> dict[str, Json]:
        """Return the file, the form of content, and the problem if there is one."""
        try:
            forms = self._opened()
        except NoChatTemplate:
            return {"template": str(self.stored.file), "problem": f"{self.stored.file}: {self._problem}"}
        found: dict[str, Json] = {"template": str(self.stored.file), "parts": sorted(forms.parts)}
        if self._tools.tools:
            found["tools"] = True
        if forms.refusal is not None:
            tried = "a user's message, with and without others"
            found["problem"] = f"{self.stored.file}: the chat template refuses {tried}: {forms.refusal}"
        if forms.lost:
            roles = " and ".join(forms.lost)
            found["problem"] = f"{self.stored.file}: the chat template leaves out the text of role {roles}"
        return found

    def close(self) -> None:
        self._process.close()

    def _opened(self) -> Forms:
        """Compile and try the template once. Raises `NoChatTemplate` with the file and the reason."""
        with self._opening:
            if self._forms is None and self._problem is None:
                try:
                    self._forms = self._tried()
                    self._tools = self._tried_tools(self._forms)
                except TemplateRefused as error:
                    self._problem = f"the chat template cannot be used: {error}"
            if self._forms is None:
                raise NoChatTemplate(f"{self.stored.file.name}: {self._problem}")
            return self._forms

    def _tried(self) -> Forms:
        if len(self.stored.text) > LONGEST:
            raise TemplateRefused("it is longer than 1 MB")
        facts = self._process.facts()
        self._variables = frozenset(facts["variables"])
        best, shown = frozenset[str](), None
        for parts in _choices():
            found = self._shown(parts)
            if found is not None and (shown is None or len(found) > len(shown)):
                best, shown = parts, found
            if found == set(ROLES):
                break
        if shown is None:  # it refuses every probe: its code has to tell
            return Forms(frozenset(ROLES) if facts["parts"] else frozenset(), refusal=self._refusal)
        if "user" not in shown:
            raise TemplateRefused("the user's text is not in the prompt that it renders, neither as text nor as parts")
        return Forms(best, self._reads_either(best), tuple(role for role in self._taken(best) if role not in shown))

    def _shown(self, parts: frozenset[str]) -> set[str] | None:
        """Return the roles whose text is in the prompt where ``parts`` get parts; None if every probe is refused."""
        texts = [text for shape in SHAPES if (text := self._probe(shape, parts)) is not None]
        if not texts:
            return None
        return {role for role in ROLES if any(TEXTS[role] in text for text in texts) and not _is_code(texts)}

    def _taken(self, parts: frozenset[str]) -> Iterator[str]:
        """Yield the roles that occur in a conversation which the template takes."""
        taken = {role for shape in SHAPES if self._probe(shape, parts) is not None for role in shape}
        yield from (role for role in ROLES if role in taken)

    def _reads_either(self, parts: frozenset[str]) -> bool:
        if parts:
            return False
        return all(self._probe(shape, parts) == self._probe(shape, frozenset(ROLES)) for shape in SHAPES)

    def _probe(self, shape: Sequence[str], parts: frozenset[str]) -> str | None:
        forms = Forms(parts)
        return self._attempt([{"role": role, "content": forms.content(role, TEXTS[role])} for role in shape])

    def _tried_tools(self, forms: Forms) -> ToolForms:
        """Find out how the template reads tools; chats without any may be fine where it takes too much for those."""

        def render(chat: Sequence[Message], tools: Sequence[Json], how: ToolForms) -> str | None:
            return self._attempt([how.filled(_filled(message, forms)) for message in chat], tools)

        try:
            return probed(render)
        except TemplateRefused:
            return ToolForms()

    def _attempt(self, chat: Sequence[Message], tools: Sequence[Json] = ()) -> str | None:
        """Render a probe; None if it is refused."""
        try:
            return self._render(chat, Rendering(tools=tools))
        except TemplateRefused as error:
            if error.bound:
                raise
            self._refusal = str(error)
            return None

    def _check(self, variables: Mapping[str, Json]) -> None:
        """Refuse variables that a request does not set, and names that look like a mistyped one."""
        for name in variables:
            if name in RESERVED or name in self._names:
                raise TemplateRefused(f"chat_template_kwargs must not set {name!r}")
            close = get_close_matches(name, self._variables, n=1, cutoff=0.8)
            if close and name not in self._variables:
                raise TemplateRefused(f"chat_template_kwargs: it does not read {name!r}; did you mean {close[0]!r}?")

    def _render(self, chat: Sequence[Message], rendering: Rendering) -> str:
        fixed = {"messages": chat, "tools": list(rendering.tools) or None, "documents": None}
        asked = {"add_generation_prompt": rendering.add_generation_prompt}
        return self._process.render({**self._names, **rendering.variables, **fixed, **asked})


def _choices() -> Iterator[frozenset[str]]:
    """Yield the sets of roles whose content may be wanted as parts: none, all, then mixtures."""
    yield frozenset()
    yield frozenset(ROLES)
    for size in (1, 2):
        yield from map(frozenset, itertools.combinations(ROLES, size))


def _is_code(texts: Sequence[str]) -> bool:
    """Return whether a list of parts was written as such, in Python or JSON."""
    return any(code in text for text in texts for code in ("{'type'", '{"type"'))


def _filled(message: Message, forms: Forms) -> Message:
    """Return a message as the template reads it, with the reasoning under each name that templates use."""
    made = {**message, "content": _content(message, forms)}
    reasoning = message.get("reasoning_content")
    return made if reasoning is None else {"thinking": reasoning, **made}


def _content(message: Message, forms: Forms) -> Json:
    """Return the content in the form that the template reads; that beside calls may be empty."""
    content = message["content"]
    return content if message.get("tool_calls") and not content else forms.content(message["role"], content)


def _opened_last(chat: Sequence[Message]) -> list[Message]:
    """Return the chat with a mark at the end of its last text."""
    last = dict(chat[-1])
    if last["content"] is None:
        raise TemplateRefused("continue_final_message: the last message has no text")
    if isinstance(last["content"], str):
        last["content"] += OPEN
    else:
        *parts, part = last["content"]
        last["content"] = [*parts, {**part, "text": part["text"] + OPEN}]
    return [*chat[:-1], last]


def _final(content: Json) -> str:
    return content if isinstance(content, str) else str(content[-1]["text"])


def _cut(text: str, final: str) -> str:
    """Return what comes before the mark. Raises `TemplateRefused` if the last message is not there."""
    at = text.rfind(OPEN.strip())
    if at < 0 or final.strip() not in text:
        raise TemplateRefused("continue_final_message: the last message is not in the text that it renders")
    return text[:at] if text.startswith(OPEN, at) else text[:at].rstrip()
