"""The shipped model's tokenizer with a chat template that knows tools, in Hermes' form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import launcher

TOKENIZER = Path(launcher.__file__).parent / "assets/tiny/iter_0000800/tokenizer"
TEMPLATE = (
    "{%- for tool in tools or [] -%}{{ tool.function.name + ' ' }}{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ message.content + '\\n' }}"
    "{%- elif message.role == 'user' -%}{{ message.content }}"
    "{%- elif message.role == 'tool' -%}{{ '<tool_response>' + message.content + '</tool_response>' }}"
    "{%- elif message.role == 'assistant' -%}{{ message.content }}"
    "{%- for call in message.tool_calls or [] -%}"
    '{{ \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}"
    "{%- endfor -%}{{ eos_token }}"
    "{%- else -%}{{ raise_exception('role ' + message.role + ' (expected system, user, assistant or tool)') }}"
    "{%- endif -%}{%- endfor -%}"
)


def tool_tokenizer(folder: Path) -> Path:
    """Write the tokenizer's folder; a chat without tools is rendered as the shipped model does."""
    shutil.copytree(TOKENIZER, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return folder


def function(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a tool whose function needs all these properties, and takes no others."""
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}
