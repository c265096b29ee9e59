"""Every option refuses a number that is not finite, before anything compares it."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

import pytest

from launcher.cli import app  # noqa: F401  (registers every component)
from launcher.core.errors import UserError
from launcher.settings.component import COMPONENTS, check_finite


def floats() -> list[tuple[str, str]]:
    """Return every component and each of its fields that takes a float."""
    return [(path, f.name) for path, cls in COMPONENTS.items() for f in fields(cls) if "float" in str(f.type)]


def required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


@pytest.mark.parametrize(("path", "name"), floats())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(path: str, name: str, value: float) -> None:
    cls = COMPONENTS[path]
    others = {one.name: "" for one in fields(cls) if required(one)}
    with pytest.raises(UserError, match=rf"\.{name} is {value}; a finite number is needed"):
        cls(**others | {name: value})


def test_there_are_such_fields() -> None:
    assert {("evaluate/evaluate", "temperature"), ("validate/validate", "tolerance")} <= set(floats())


@dataclass
class Inner:
    share: float = 1.0


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    add: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("outer", "key"),
    [
        (Outer(inner=Inner(float("inf"))), "group.inner.share"),
        (Outer(add={"body": {"temperature": float("nan")}}), "group.add.body.temperature"),
        (Outer(add={"stops": [1, float("nan")]}), "group.add.stops"),
    ],
)
def test_a_number_within_another_value_is_named(outer: Outer, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is "):
        check_finite(outer, "group")
    check_finite(Outer(add={"n": 10**400, "on": True, "text": "nan"}), "group")
