"""Find the form of a model's tool calls, by its name or in its chat template."""

from __future__ import annotations

from launcher.api.tool_calls.base import ToolCallFormat
from launcher.api.tool_calls.deepseek import OPEN as DEEPSEEK
from launcher.api.tool_calls.deepseek import DeepSeekV3, DeepSeekV31
from launcher.api.tool_calls.dsml import DSML, DeepSeekV4, DeepSeekV32
from launcher.api.tool_calls.elements import Glm, Glm47, Qwen3Coder
from launcher.api.tool_calls.granite import Granite
from launcher.api.tool_calls.hermes import Hermes
from launcher.api.tool_calls.kimi import OPEN as KIMI
from launcher.api.tool_calls.kimi import KimiK2
from launcher.api.tool_calls.llama3_json import Llama3Json
from launcher.api.tool_calls.mistral import Mistral, MistralNamed
from launcher.api.tool_calls.pythonic import Pythonic

FORMATS: tuple[ToolCallFormat, ...] = (
    Hermes(), Llama3Json(), Mistral(), Pythonic(), Qwen3Coder(), Glm(), Glm47(), DeepSeekV3(), DeepSeekV31(), Granite(),
    KimiK2(), DeepSeekV32(), DeepSeekV4(),
)  # fmt: skip
UNREAD = {
    "<|channel|>": "gpt-oss (channels of Harmony)",
    "<|/tool_call|>": "Phi 4 mini",
    "<minimax:tool_call>": "MiniMax M2",
}
"""What only templates of forms have that are not read, and whose forms they are."""


def format_of(name: str, template: str) -> ToolCallFormat | None:
    """Return the form that is called ``name``, or that of a chat template for ``auto``; None where there is none."""
    if name == "auto":
        return None if unread_form(template) else _found(template)
    if name == Mistral.name:
        return _mistral(template)
    return next((form for form in FORMATS if form.name == name), None)


def unread_form(template: str) -> str | None:
    """Return whose form a chat template writes, where it is one that is not read."""
    return next((whose for mark, whose in UNREAD.items() if mark in template), None)


def _found(template: str) -> ToolCallFormat | None:
    """Return the form; None also for a template that shows marks of several."""
    found = [form for form in (_by_elements(template), _by_tokens(template), _by_json(template)) if form is not None]
    return found[0] if len(found) == 1 else None


def _by_elements(template: str) -> ToolCallFormat | None:
    if DSML in template:
        return _dsml(template)
    if "<tool_call>" not in template or ("<function=" in template) == ("<arg_key>" in template):
        return None
    if "<function=" in template:
        return Qwen3Coder() if "<parameter=" in template else None
    return Glm47() if "</arg_key><arg_value>" in template else Glm()


def _dsml(template: str) -> ToolCallFormat | None:
    """Return the form by its outer element, whose name a template may write apart from the token."""
    found = [
        form for form, block in ((DeepSeekV32(), "function_calls"), (DeepSeekV4(), "tool_calls>")) if block in template
    ]
    return found[0] if len(found) == 1 else None


def _by_tokens(template: str) -> ToolCallFormat | None:
    if DEEPSEEK in template:
        return DeepSeekV3() if "```json" in template else DeepSeekV31()
    if KIMI in template:
        return KimiK2()
    if "[TOOL_CALLS]" in template:
        return _mistral(template)
    return Granite() if "<|start_of_role|>" in template and "<|tool_call|>" in template else None


def _by_json(template: str) -> ToolCallFormat | None:
    if any(other in template for other in ("<function=", "<arg_key>", "<|tool_call|>", "[TOOL_CALLS]", DEEPSEEK)):
        return None
    if "<tool_call>" in template:
        return Hermes()
    if "<|python_tag|>" in template or '"parameters": dictionary of argument name' in template:
        return Llama3Json()
    return Pythonic() if "func_name1(" in template else None


def _mistral(template: str) -> Mistral:
    return MistralNamed() if "[ARGS]" in template else Mistral()
