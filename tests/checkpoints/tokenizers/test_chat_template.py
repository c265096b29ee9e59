"""Chat templates: Hugging Face's semantics, the form of content that each reads, and bounds on what they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from launcher.checkpoints.tokenizers.chat_template import ChatTemplate, StoredTemplate
from launcher.core.tokenizer import PLAIN, NoChatTemplate, Rendering, TemplateLimits, TemplateRefused
from tests.checkpoints.tokenizer_inputs import CHATML, PARTS
from tests.fuzzing import examples

USER = [{"role": "user", "content": "What is the capital of France?"}]
TALK = [
    {"role": "system", "content": " Be brief. "},
    *USER,
    {"role": "assistant", "content": "Paris ", "reasoning_content": "easy"},
    {"role": "user", "content": "And of Italy? naïve 🙂"},
]
Made = Callable[..., ChatTemplate]


@pytest.fixture
def template() -> Iterator[Made]:
    """Make templates from their text; none leaves a process behind."""
    made: list[ChatTemplate] = []

    def make(text: str, names: dict[str, str] | None = None, **limits: float) -> ChatTemplate:
        made.append(ChatTemplate(StoredTemplate(text, Path("config.json")), names or {}, TemplateLimits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


PLAIN_TEXT = (
    CHATML,
    "{% for m in messages %}\n  {%- if m.role == 'user' %}\nU: {{ m.content | trim }}\n  {% endif %}\n{% endfor %}",
    "{{ bos_token }}{% for m in messages %}{% if loop.index0 > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ {'a': '<b>'} | tojson }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    "{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.content }}{% endfor %}",
    "{% if tools is none and not documents %}{{ messages[-1].content }}{% endif %}{{ dict(a=1) }}",
    "{{ strftime_now('%Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{{ enable_thinking | default(true) }}",
)


@pytest.mark.parametrize("text", PLAIN_TEXT)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_text_is_that_of_transformers(text: str, prompt: bool, template: Made) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    for talk in (USER, TALK):
        right = render_jinja_template([talk], chat_template=text, add_generation_prompt=prompt, **names)[0][0]
        assert template(text, names).render(talk, Rendering(add_generation_prompt=prompt)) == right


CONTENT = {
    "text": CHATML,
    "parts": PARTS,
    "parts by attribute": PARTS.replace("m['content']", "m.content").replace("part['type']", "part.type"),
    "parts of a variable": PARTS.replace("{% for part in m['content']", "{% set c = m['content'] %}{% for part in c"),
    "first part": CHATML.replace("m['content']", "m['content'][0]['text']"),
    "a macro": "{% macro show(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}"
    + CHATML.replace("m['content']", "show(m['content'])"),
    "both": "{% macro show(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}{{ p.text }}{% endfor %}"
    "{% endif %}"
    "{% endmacro %}" + CHATML.replace("m['content']", "show(m['content'])"),
    "text for the system only": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'system' %}"
    "{{ m.content + '<|im_end|>\n' }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}


def parted(talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    halves = [{**m, "content": [m["content"][:4], m["content"][4:]]} for m in talk]
    return [{**m, "content": [{"type": "text", "text": half} for half in m["content"]]} for m in halves]


@pytest.mark.parametrize("name", list(CONTENT))
@settings(max_examples=examples(5), deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_every_template_gets_the_form_of_content_that_it_reads(name: str, text: str) -> None:
    made = ChatTemplate(StoredTemplate(CONTENT[name], Path("f")), {}, TemplateLimits())
    try:
        talk = [*TALK[:-1], {"role": "user", "content": text}]
        right = (
            "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in talk) + "<|im_start|>assistant\n"
        )
        assert made.render(talk, PLAIN) == right
        if name != "first part":
            assert made.render(parted(talk), PLAIN) == right
        assert "problem" not in made.facts()
    finally:
        made.close()


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'always the same' }}",
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}{% for p in m.content if p.type == 'image' %}{{ p.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.text }}{% endfor %}",
    ],
)
def test_a_template_that_loses_the_users_text_is_refused(text: str, template: Made) -> None:
    made = template(text)
    assert made.facts()["problem"].startswith(
        "config.json: the chat template cannot be used: the user's text is not in"
    )
    with pytest.raises(NoChatTemplate, match=r"config\.json.*the user's text is not in the prompt"):
        made.render(USER, PLAIN)


def test_what_a_template_leaves_out_is_said(template: Made) -> None:
    made = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    assert made.facts()["problem"] == "config.json: the chat template leaves out the text of role system and assistant"
    assert made.render(USER, PLAIN) == USER[0]["content"]


def test_a_refused_role_is_no_lost_text(template: Made) -> None:
    made = template("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML)
    assert "problem" not in made.facts()
    with pytest.raises(TemplateRefused, match="no system"):
        made.render(TALK, PLAIN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}", "line 1: Unexpected end of template"),
        ("\n\n{{ messages[ }}", "line 3: "),
        ("{{ messages | no_such_filter }}", "line 1: No filter named 'no_such_filter'"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "RecursionError"),
        ("x" * 2**20 + "x", "it is longer than 1 MB"),
    ],
)
def test_a_template_that_does_not_compile_is_said_with_its_file(text: str, reason: str, template: Made) -> None:
    assert template(text).facts()["problem"].startswith(f"config.json: the chat template cannot be used: {reason}")
    with pytest.raises(NoChatTemplate):
        template(text).render(USER, PLAIN)


def test_a_template_that_refuses_everything_is_said(template: Made) -> None:
    made = template("{{ raise_exception('needs\x1b[31m tools') }}")
    assert made.facts()["problem"].endswith("with and without others: needs [31m tools")


@pytest.mark.parametrize("text", [CHATML, PARTS, CHATML.replace("m['content']", "m['content'] | trim")])
@pytest.mark.parametrize("final", ["The answer is", "The answer is ", ""])
def test_the_last_message_is_left_open_as_by_transformers(text: str, final: str, template: Made) -> None:
    talk = [*USER, {"role": "assistant", "content": final}]
    given = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk] if text == PARTS else talk
    right = render_jinja_template([given], chat_template=text, continue_final_message=True)[0][0]
    found = template(text).render(talk, Rendering(add_generation_prompt=False, continue_final_message=True))
    assert found == right


def test_a_last_message_that_is_not_rendered_cannot_be_continued(template: Made) -> None:
    made = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(TemplateRefused, match="continue_final_message"):
        made.render([*USER, {"role": "assistant", "content": "x"}], Rendering(False, continue_final_message=True))


def test_variables_reach_the_template_and_a_mistyped_one_is_refused(template: Made) -> None:
    made = template(
        CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
        {"eos_token": "x"},
    )
    assert "<think>" not in made.render(USER, PLAIN)
    assert made.render(USER, Rendering(variables={"enable_thinking": False})).endswith("<think></think>")
    assert "<think>" not in made.render(USER, Rendering(variables={"something_else": [1]}))
    with pytest.raises(TemplateRefused, match="did you mean 'enable_thinking'"):
        made.render(USER, Rendering(variables={"enable_thinkng": False}))
    for name in ("messages", "tools", "eos_token", "add_generation_prompt"):
        with pytest.raises(TemplateRefused, match=f"must not set '{name}'"):
            made.render(USER, Rendering(variables={name: "x"}))


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TOO_MUCH = {
    "a loop": (LOOP, "computes longer than model.chat_template_timeout_s=0."),
    "a tree of macros": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "computes longer",
    ),
    "a power": ("{{ 10 ** 200000000 }}", "computes longer"),
    "3 GB of one letter": ("{{ 'A' * 3000000000 }}", "needs more than 256 MB"),
    "3 GB at a request": ("{{ messages[0].role * 999999999 }}", "needs more than 256 MB"),
    "center": ("{{ 'a' | center(10 ** 9) }}", "needs more than 256 MB"),
    "ljust": ("{{ 'a'.ljust(10 ** 9) }}", "needs more than 256 MB"),
    "a width": ("{{ '%1000000000d' % 1 }}", "needs more than 256 MB"),
    "a format": ("{{ '{:1000000000}'.format(1) }}", "needs more than 256 MB"),
    "joins": ("{% set x = messages[0].role * 100000 %}{{ ([x] * 90000) | join }}", "needs more than 256 MB"),
    "doubling": (
        "{% set n = namespace(x='ab' * 1000) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "needs more than 256 MB",
    ),
    "replace": ("{{ ('a' * 100000).replace('', 'b' * 100000) }}", "needs more than 256 MB"),
    "batch": ("{{ [1] | batch(10 ** 9, 0) | list }}", "needs more than 256 MB"),
    "2 MB": ("{{ 'A' * 2000000 }}", "writes more than model.chat_template_max_mb=1"),
    "2 MB in small parts": ("{% for i in range(50000) %}{{ 'A' * 50 }}{% endfor %}", "writes more than"),
}


def patience(reason: str) -> float:
    """Return a time that is soon over where that is the bound, and long enough where it is another one."""
    return 0.3 if "longer" in reason else 5.0


@pytest.mark.parametrize("name", list(TOO_MUCH))
def test_a_template_that_takes_too_much_is_refused_for_every_chat(name: str, template: Made) -> None:
    text, reason = TOO_MUCH[name]
    made = template(text + CHATML, timeout_s=patience(reason))
    with pytest.raises(NoChatTemplate, match=f"cannot be used: it {reason}"):
        made.render(USER, PLAIN)
    assert reason in made.facts()["problem"]


@pytest.mark.parametrize("name", [name for name in TOO_MUCH if name != "a power"])  # that is computed when it compiles
def test_a_message_that_makes_a_template_take_too_much_is_refused_and_the_next_is_not(
    name: str, template: Made
) -> None:
    text, reason = TOO_MUCH[name]
    if name == "3 GB of one letter":
        text = "{{ messages[0].content * 999999999 }}"
    made = template(
        "{% if messages[0].content == 'boom' %}" + text + "{% endif %}" + CHATML, timeout_s=patience(reason)
    )
    good = made.render(USER, PLAIN)
    with pytest.raises(TemplateRefused, match=f"it {reason}"):
        made.render([{"role": "user", "content": "boom"}], PLAIN)
    assert made.render(USER, PLAIN) == good


def test_ranges_are_as_long_as_in_hugging_faces_sandbox(template: Made) -> None:
    made = template("{% if messages[0].content == 'boom' %}{{ range(10 ** 9) | list }}{% endif %}" + CHATML)
    with pytest.raises(TemplateRefused, match="Range too big"):
        made.render([{"role": "user", "content": "boom"}], PLAIN)


@pytest.mark.parametrize("text", ["\ud800", "{{ '\\ud83d' }}"])
def test_half_a_character_is_no_text(text: str, template: Made) -> None:
    made = template(CHATML + text)
    with pytest.raises(TemplateRefused, match="UnicodeEncodeError"):
        made.render(USER, PLAIN)


@pytest.mark.parametrize(
    "text",
    ["{{ ''.__class__.mro() }}", "{{ messages.append(1) }}", "{% set n = namespace(__x=1) %}", "{{ dict.__base__.x }}"],
)
def test_python_is_out_of_reach(text: str, template: Made) -> None:
    with pytest.raises(TemplateRefused):
        template(text + CHATML).render(USER, PLAIN)


def test_a_long_conversation_is_no_large_template(template: Made) -> None:
    talk = [{"role": "user", "content": "naïve " * 500_000}]
    assert len(template(CHATML).render(talk, PLAIN)) > 3_000_000


def test_others_are_rendered_while_a_template_loops(template: Made) -> None:
    made = template("{% if messages[0].content == 'boom' %}" + LOOP + "{% endif %}" + CHATML, timeout_s=1)
    made.render(USER, PLAIN)
    refused: list[Exception] = []

    def loop() -> None:
        try:
            made.render([{"role": "user", "content": "boom"}], PLAIN)
        except TemplateRefused as error:
            refused.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    while not any(p.cpu_times().user > 0.3 for p in psutil.Process().children()):
        time.sleep(0.02)
    made.render(USER, PLAIN)
    assert not refused
    thread.join()
    assert len(refused) == 1


def test_a_worker_that_was_killed_is_replaced_and_none_is_left(template: Made) -> None:
    before = set(psutil.Process().children())
    made = template(CHATML)
    first = made.render(USER, PLAIN)
    (worker,) = set(psutil.Process().children()) - before
    worker.kill()
    worker.wait()
    assert made.render(USER, PLAIN) == first
    made.close()
    assert set(psutil.Process().children()) == before
    with pytest.raises(TemplateRefused, match="stopping"):
        made.render(USER, PLAIN)


def test_a_worker_knows_no_secret(template: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "sk-1")
    before = set(psutil.Process().children())
    template(CHATML).render(USER, PLAIN)
    (worker,) = set(psutil.Process().children()) - before
    assert "A_SECRET" not in worker.environ()
