"""How chat templates read tools, calls and results is found by trying; what they leave out is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.tokenizers.chat_template import ChatTemplate, StoredTemplate
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.core.tokenizer import Rendering, TemplateLimits, TemplateRefused, ToolsNotRead
from tests.checkpoints.tokenizer_inputs import CHATML, tokenizer_folder

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "hi"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": [1]}}}
TALK: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "seven", "tool_call_id": "abcdefghi", "name": "add"},
]
TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
HERMES = TOOLS + (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>"
    "{% endfor %}\n{% endfor %}"
)
AS_TEXT = TOOLS + (
    "{% for m in messages %}{{ m.role }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}"
)
NO_CONTENT = TOOLS + (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
    "{% for c in m.tool_calls %}{{ c.function.name + '\n' + (c.function.arguments | tojson) }}{% endfor %}"
    "{% else %}{{ m.role + ': ' + m.content + '\n' }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.last %}[AVAILABLE_TOOLS]{{ tools | tojson }}"
    "{% endif %}[INST]{{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should have length 9') }}{% endif %}"
    "{{ c.function | tojson }}{% endfor %}]{% elif m.role == 'tool' %}"
    "[TOOL_RESULTS]{{ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}[/TOOL_RESULTS]"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
PARTS = TOOLS + (
    "{% for m in messages %}{{ m.role }}{% for p in m.content %}{{ p.text }}{% endfor %}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}"
)
KNOWING = {"hermes": HERMES, "as text": AS_TEXT, "no content": NO_CONTENT, "parts": PARTS}


@pytest.fixture
def made() -> Iterator[list[ChatTemplate]]:
    found: list[ChatTemplate] = []
    yield found
    for each in found:
        each.close()


def template(made: list[ChatTemplate], text: str) -> ChatTemplate:
    made.append(ChatTemplate(StoredTemplate(text, Path("file")), {}, TemplateLimits()))
    return made[-1]


@pytest.mark.parametrize("name", KNOWING)
def test_a_template_that_knows_tools_gets_them_in_its_form(made: list[ChatTemplate], name: str) -> None:
    text = template(made, KNOWING[name]).render(TALK, Rendering(tools=[ADD]))
    assert '"name": "add"' in text
    assert json.dumps({"a": [1]}) in text
    assert "seven" in text
    assert "None" not in text
    assert "{'" not in text
    assert template(made, KNOWING[name]).facts()["tools"] is True


def test_a_template_that_writes_tools_before_a_last_question_only(made: list[ChatTemplate]) -> None:
    mistral = template(made, MISTRAL)
    assert "[AVAILABLE_TOOLS]" in mistral.render([USER], Rendering(tools=[ADD]))
    text = mistral.render(TALK, Rendering(tools=[ADD]))
    assert '[TOOL_CALLS][{"name": "add", "arguments": {"a": [1]}}]' in text
    assert '"content": "seven"' in text
    short = [USER, {**TALK[1], "tool_calls": [{**CALL, "id": "short"}]}, TALK[2]]
    with pytest.raises(TemplateRefused, match="length 9"):
        mistral.render(short, Rendering())


@pytest.mark.parametrize(
    ("text", "messages", "tools", "lost"),
    [
        (CHATML, [USER], [ADD], "tools"),
        (CHATML, TALK, [], "the tool calls"),
        (TOOLS + CHATML, TALK, [ADD], "the tool calls"),
        ("{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}{% endif %}{% endfor %}",
         [USER, TALK[2]], [], "role 'tool'"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(
    made: list[ChatTemplate], text: str, messages: Any, tools: Any, lost: str
) -> None:
    one = template(made, text)
    with pytest.raises(ToolsNotRead, match=f"file: the chat template leaves out .*{lost}"):
        one.render(messages, Rendering(tools=tools))
    assert "hi" in one.render([USER], Rendering())


def test_a_template_that_computes_too_long_with_tools_serves_chats_without_them(made: list[ChatTemplate]) -> None:
    endless = "{% if tools %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    made.append(ChatTemplate(StoredTemplate(endless + CHATML, Path("file")), {}, TemplateLimits(timeout_s=0.2)))
    assert "hi" in made[-1].render([USER], Rendering())
    with pytest.raises(TemplateRefused):
        made[-1].render([USER], Rendering(tools=[ADD]))


@pytest.mark.parametrize("stored", ["config", "files"])
def test_a_second_template_renders_chats_with_tools(tmp_path: Path, stored: str) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": CHATML}, {"name": "tool_use", "template": f"TOOLS {HERMES}"}
    ]  # fmt: skip
    if stored == "files":
        del config["chat_template"]
        (folder / "chat_template.jinja").write_text(CHATML)
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(f"TOOLS {HERMES}")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = from_folder(folder)
    try:
        assert not tokenizer.render_chat([USER]).startswith("TOOLS")
        with_tools = tokenizer.render_chat(TALK, Rendering(tools=[ADD]))
        assert with_tools.startswith("TOOLS")
        assert tokenizer.tools_template == f"TOOLS {HERMES}"
        again = tmp_path / "again"
        again.mkdir()
        for name, data in tokenizer.files().items():
            (again / name).write_bytes(data)
        copied = from_folder(again)
        try:
            assert copied.render_chat(TALK, Rendering(tools=[ADD])) == with_tools
        finally:
            copied.close()
    finally:
        tokenizer.close()


KIMI = (
    "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_{{ m.role }}|>{{ m.name or m.role }}<|im_middle|>"
    "{% if m.role == 'tool' %}## Return of {{ m.tool_call_id }}\n{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}"
    "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>"
    "{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}"
)
"""As Kimi K2's template does, it writes earlier calls by their ids."""


def test_a_template_that_writes_ids_alone_gets_the_names_in_them(made: list[ChatTemplate]) -> None:
    own = [{**CALL, "id": "functions.add:4"}, {**CALL, "id": "add:5"}]
    others = [{**CALL, "id": "x"}, {**CALL, "id": "functions.sub:0", "function": {"name": "a:b", "arguments": {}}}]
    talk: list[dict[str, Any]] = [USER]
    for calls in (own, others, [{**CALL, "id": "x"}]):
        talk.append({"role": "assistant", "content": "", "tool_calls": calls})
        talk += [{"role": "tool", "content": "7", "tool_call_id": call["id"], "name": "add"} for call in calls]
    text = template(made, KIMI).render(talk, Rendering(tools=[ADD]))
    expected = ["functions.add:4", "add:5", "functions.add:2", "functions.a:b:3", "functions.add:4"]
    assert [part.partition("<")[0] for part in text.split("<|tool_call_begin|>")[1:]] == expected
    assert [part.partition("\n")[0] for part in text.split("## Return of ")[1:]] == expected
    assert "abcdefghi" in template(made, MISTRAL).render(TALK, Rendering(tools=[ADD]))
