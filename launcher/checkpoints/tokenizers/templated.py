"""Tokenizers with a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.checkpoints.tokenizers.chat_template import TOOL_USE, ChatTemplate, StoredTemplate
from launcher.checkpoints.tokenizers.tool_forms import uses_tools
from launcher.core.tokenizer import PLAIN, Message, NoChatTemplate, Rendering, Tokenizer
from launcher.core.types import Json


@dataclass(frozen=True)
class Names:
    """What the files beside a vocabulary say: special tokens by role, such as ``bos_token``, and the template."""

    roles: Mapping[str, str] = field(default_factory=dict)
    template: StoredTemplate | None = None


class TemplatedTokenizer(Tokenizer):
    """Renders chats by the template of ``names``, in processes that `close` ends."""

    blocks = True
    _names = Names()
    _template: ChatTemplate | None = None
    _tool_template: ChatTemplate | None = None

    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        stored = self._names.template
        if stored is None:
            raise NoChatTemplate("the tokenizer has no chat template")
        if stored.tool_use is not None and uses_tools(messages, rendering.tools):
            return self._opened_for_tools(stored.for_tools).render(messages, rendering)
        return self._opened(stored).render(messages, rendering)

    @property
    def tools_template(self) -> str | None:  # type: ignore[override]
        return None if self._names.template is None else self._names.template.for_tools.text

    def chat_facts(self) -> dict[str, Json]:
        return {} if self._names.template is None else self._opened(self._names.template).facts()

    def _config_file(self, **settings: Json) -> bytes:
        """Return a ``tokenizer_config.json`` with the roles of special tokens, the template and ``settings``."""
        template = self._names.template
        found = dict(self._names.roles) | settings | {"clean_up_tokenization_spaces": False}
        found |= {} if template is None else {"chat_template": _written(template)}
        return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()

    def close(self) -> None:
        for template in (self._template, self._tool_template):
            if template is not None:
                template.close()

    def info(self) -> dict[str, Json]:
        template = self._names.template
        roles = {role: self._names.roles.get(role) for role in ("eos_token", "bos_token", "pad_token")}
        return super().info() | roles | {"chat_template": None if template is None else template.text}

    def _opened(self, stored: StoredTemplate) -> ChatTemplate:
        if self._template is None:
            self._template = ChatTemplate(stored, self._names.roles, self.template_limits)
        return self._template

    def _opened_for_tools(self, stored: StoredTemplate) -> ChatTemplate:
        if self._tool_template is None:
            self._tool_template = ChatTemplate(stored, self._names.roles, self.template_limits)
        return self._tool_template


def _written(template: StoredTemplate) -> Json:
    """Return the templates as ``tokenizer_config.json`` has them."""
    if template.tool_use is None:
        return template.text
    return [{"name": "default", "template": template.text}, {"name": TOOL_USE, "template": template.tool_use}]
