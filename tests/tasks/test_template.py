from __future__ import annotations

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.items import Item
from launcher.tasks.template import render, value

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


@pytest.mark.parametrize(
    "source",
    [
        "{{q}}",
        " {{ q -}}  {{n}}\r\n",
        "a\r\nb{# c #}{{n}}",
        "{% raw %}{{q}}{% endraw %}{{ q }}",
        "{{range}}",
        "{{self}}",
    ],
)
@pytest.mark.parametrize(
    "fields",
    [
        {"q": "<b> & \u00e4", "n": 3},
        {"q": 7, "n": 10**30},
        {"q": True, "n": -0.5},
        {"q": "x", "n": 1, "range": "y", "self": "z", "item": "w"},
        {"q": None, "n": float("nan")},
        {"q": ["x"]},
    ],
)
def test_a_template_of_fields_alone_is_filled_as_jinja_fills_it(source, fields):
    item = Item(fields, "items.jsonl:7", 7)

    def rendered(template: str) -> str:
        try:
            return render(template, item)
        except TaskError as error:
            return str(error).replace("{% if true %}", "").replace("{% endif %}", "")

    assert rendered(source) == rendered("{% if true %}" + source + "{% endif %}")


def test_a_value_that_is_a_field_keeps_its_kind():
    assert value("{{n}}", ITEM) == 3
    assert value("{{choices}}", ITEM) == {"text": ["a", "b"]}
    assert value("{{item}}", ITEM) == ITEM.fields
