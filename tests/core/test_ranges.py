"""Every numeric setting has a range, and refuses what is out of it in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from launcher.core.errors import UserError
from launcher.core.ranges import Range, ranges
from launcher.pipeline.config import Run  # imports, and so registers, every component
from launcher.settings.component import COMPONENTS

HUGE = 10**30
VALUES = (0, -1, HUGE, float(HUGE), math.nan, math.inf, -math.inf)


def numbers(cls: type) -> Iterator[str]:
    """Yield the fields of a dataclass that take a number, but no list or mapping of them."""
    for name, hint in get_type_hints(cls).items():
        if (
            get_origin(hint) not in (list, dict)
            and name in {f.name for f in fields(cls)}
            and {int, float} & {hint, *get_args(hint)}
        ):
            yield name


def groups() -> Iterator[tuple[str, str, type]]:
    """Yield every component, and every group of settings within one that is no component: path, field and class."""
    for path, cls in sorted(COMPONENTS.items()):
        yield path, "", cls
        for name, hint in get_type_hints(cls).items():
            if is_dataclass(hint) and hint not in COMPONENTS.values():
                yield path, name, hint


FIELDS = [(path, inner, cls, name) for path, inner, cls in groups() for name in numbers(cls)]


ONE_OF_SEVERAL: dict[str, dict[str, Any]] = {"Pairwise": {"target": "{{answer}}"}, "JudgeScore": {"low": -10.0}}
"""Values for components whose fields depend on each other."""


def required(cls: type) -> dict[str, Any]:
    """Return values for the fields without a default."""
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return dict.fromkeys(missing, "{port}") | ONE_OF_SEVERAL.get(cls.__name__, {})


def test_the_fields_are_found() -> None:
    found = {(path, inner, name) for path, inner, _, name in FIELDS}
    assert {("evaluate/evaluate", "", "temperature"), ("backend/inline", "limits", "headers")} <= found
    assert {("model/model", "bounds", "metadata_mb"), ("backend/ray", "", "replicas")} <= found
    assert len({path for path, *_ in found}) == len([cls for cls in COMPONENTS.values() if any(numbers(cls))])
    assert Run is not None


@pytest.mark.parametrize(("path", "inner", "cls", "name"), FIELDS)
def test_a_number_is_in_its_range_or_refused_in_one_line(path: str, inner: str, cls: type, name: str) -> None:
    component = COMPONENTS[path]
    group, option = path.split("/")
    key = ".".join(filter(None, [f"adapters.{option}" if group == "adapters" else group, inner, name]))
    limit = ranges(cls)[name]
    for value in VALUES:
        given = {inner: cls(**{name: value})} if inner else {name: value}
        fits = math.isfinite(value) and holds(limit, value)
        if fits:
            component(**required(component) | given)
            continue
        with pytest.raises(
            UserError, match=rf"^({re.escape(group)}\.)?{re.escape(key)} is \S+; must be \S.*$"
        ) as refused:
            component(**required(component) | given)
        assert "\n" not in str(refused.value)


def holds(limit: Range, value: float) -> bool:
    lower = value > limit.above if limit.above is not None else limit.least is not None and value >= limit.least
    return lower and limit.most is not None and value <= limit.most


def test_text_null_and_switches_are_no_numbers() -> None:
    for value in ("auto", None, True, False):
        Range(5, 6).check("key", value)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        (Range(1), 0, "must be at least 1"),
        (Range(0, 65535), 70000, "must be at most 65535"),
        (Range(above=0), 0.0, "must be above 0"),
    ],
)
def test_the_bound_that_is_crossed_is_named(limit: Range, value: float, words: str) -> None:
    with pytest.raises(UserError, match=rf"^some.key is {value}; {words}$"):
        limit.check("some.key", value)
