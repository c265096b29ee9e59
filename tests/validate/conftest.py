"""The right server into which faults are planted, started once per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launcher.checkpoints.tokenizers.huggingface import from_folder
from tests.checkpoints.tokenizer_inputs import tokenizer_folder
from tests.validate.mock import Mock, serve

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }}: {{ tool.function.description }}\n{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with tools."""


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    folder = tmp_path_factory.mktemp("mock")
    place = tokenizer_folder(folder / "tokenizer", config={"chat_template": TEMPLATE})
    tokenizer = from_folder(place)
    try:
        with serve(folder, tokenizer) as (wrapped, endpoint):
            yield Mock(wrapped, endpoint, place)
    finally:
        tokenizer.close()
