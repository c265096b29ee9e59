"""Find the form of a model's tool calls, by its name or in its chat template."""

from __future__ import annotations

from launcher.api.tool_calls.base import ToolCallFormat
from launcher.api.tool_calls.hermes import Hermes
from launcher.api.tool_calls.llama3_json import Llama3Json
from launcher.api.tool_calls.mistral import Mistral, MistralNamed
from launcher.api.tool_calls.pythonic import Pythonic

FORMATS: tuple[ToolCallFormat, ...] = (Hermes(), Llama3Json(), Mistral(), Pythonic())
OTHERS = ("<function=", "<arg_key>")
"""What templates of Qwen3-Coder and GLM-4.5 have between Hermes' marks: forms that are not read."""


def format_of(name: str, template: str) -> ToolCallFormat | None:
    """Return the form that is called ``name``, or that of a chat template for ``auto``; None where there is none."""
    if name == "auto":
        return _found(template)
    if name == Mistral.name:
        return _mistral(template)
    return next((form for form in FORMATS if form.name == name), None)


def _found(template: str) -> ToolCallFormat | None:
    if any(other in template for other in OTHERS):
        return None
    if "[TOOL_CALLS]" in template:
        return _mistral(template)
    if "<tool_call>" in template:
        return Hermes()
    if "<|python_tag|>" in template or '"parameters": dictionary of argument name' in template:
        return Llama3Json()
    return Pythonic() if "func_name1(" in template else None


def _mistral(template: str) -> Mistral:
    return MistralNamed() if "[ARGS]" in template else Mistral()
