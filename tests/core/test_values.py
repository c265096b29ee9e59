"""A changed copy is what `dataclasses.replace` makes."""

from __future__ import annotations

from dataclasses import replace

from launcher.core.types import Response
from launcher.core.values import changed


def test_a_changed_copy_is_as_replace_makes_it() -> None:
    response = Response(200, {"a": 1}, {"b": "c"}, latency_s=0.5)
    made = changed(response, fault="why", notes=("a",))
    assert vars(made) == vars(replace(response, fault="why", notes=("a",)))
    assert response.fault is None
