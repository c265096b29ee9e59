from __future__ import annotations

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.items import Item
from launcher.tasks.template import render

ITEM = Item({"q": "2+2?", "choices": {"text": ["a", "b"]}, "n": 3}, "items.jsonl:7", 7)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{q}}", "2+2?"),
        ("{{q}}\n", "2+2?\n"),
        ("\n{{ q }} \n\n", "\n2+2? \n\n"),
        ("{{choices.text[1]}}", "b"),
        ("{{choices.text|join(',')}}", "a,b"),
        ("<{{q}}> & {{n + 1}}", "<2+2?> & 4"),
        ("", ""),
    ],
)
def test_templates_render_as_written(source, expected):
    assert render(source, ITEM) == expected


@pytest.mark.parametrize("source", ["{{question}}", "{{choices.label}}", "{% if missing %}x{% endif %}"])
def test_a_missing_field_names_the_place_and_the_fields_there_are(source):
    with pytest.raises(TaskError, match=r"items\.jsonl:7: .* the item has q, choices, n"):
        render(source, ITEM)


@pytest.mark.parametrize(
    ("source", "kind"), [("{{nothing}}", "null"), ("{{choices.text}}", "a list"), ("{{choices}}", "an object")]
)
def test_a_value_that_is_no_text_is_refused_rather_than_written_as_python(source, kind):
    item = Item({**ITEM.fields, "nothing": None}, ITEM.where, 7)
    with pytest.raises(TaskError, match=rf"items\.jsonl:7: .*a value is {kind}"):
        render(source, item)


@pytest.mark.parametrize("source", ["{{q", "{% if %}", "{{q|no_such_filter}}"])
def test_a_malformed_template_is_quoted(source):
    with pytest.raises(TaskError) as error:
        render(source, ITEM)
    assert repr(source) in str(error.value)


@pytest.mark.parametrize(
    "source", ["{{n + q}}", "{{n // 0}}", "{{q.__class__.__mro__[1].__subclasses__()}}", "{{q()}}"]
)
def test_what_fails_or_leaves_the_sandbox_names_the_place(source):
    with pytest.raises(TaskError, match=r"items\.jsonl:7"):
        render(source, ITEM)


def test_a_filter_replaces_what_a_regular_expression_matches():
    item = Item({"text": "How [header] to [step]"}, "f:1", 1)
    assert render(r"{{text|regex_replace('\\[.*?\\] ?', '')}}", item) == "How to "
    with pytest.raises(TaskError, match="regex_replace: '\\('"):
        render("{{text|regex_replace('(')}}", item)
