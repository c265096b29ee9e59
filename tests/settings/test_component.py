"""Numbers within other values are checked, too; tests/core/test_ranges.py walks every option."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from launcher.core.errors import UserError
from launcher.settings.component import check_numbers


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
        check_numbers(outer, "group")
    check_numbers(Outer(add={"n": 10**400, "on": True, "text": "nan"}), "group")
