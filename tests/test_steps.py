"""What the steps of a run say besides their results."""

from __future__ import annotations

from launcher.engines.switches import as_json
from launcher.model import Switch
from launcher.steps import in_vain


def test_what_was_asked_for_in_vain_is_said() -> None:
    switches = [Switch("cuda_graphs", True, False, "needs a GPU"), Switch("prefix_caching", True, True, "")]
    assert in_vain({"optimizations": as_json(switches)}) == ["optimizations.cuda_graphs is not active: needs a GPU"]


def test_an_engine_without_optimizations_has_nothing_to_say() -> None:
    assert in_vain({}) == []
