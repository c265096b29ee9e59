"""What is made fast is what the constructor and `dataclasses.replace` make."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace

from launcher.core.types import Json, Request, Response
from launcher.core.values import changed, made


def test_a_changed_copy_is_as_replace_makes_it() -> None:
    response = Response(200, {"a": 1}, {"b": "c"}, latency_s=0.5)
    copy = changed(response, fault="why", notes=("a",))
    assert vars(copy) == vars(replace(response, fault="why", notes=("a",)))
    assert response.fault is None


def test_a_value_is_as_the_constructor_makes_it() -> None:
    body: Json = {"a": 1}
    fields: dict[str, object] = {"path": "/v1/completions", "body": body, "headers": {}, "sample": "t", "index": 2}
    fields["counted"] = (3,)
    assert set(fields) == {field.name for field in fields_of(Request)}, "every field is given"
    assert vars(made(Request, **fields)) == vars(Request(**fields))  # type: ignore[arg-type]
