"""What the steps of a run say besides their results."""

from __future__ import annotations

import pytest

from launcher.core import Endpoint
from launcher.engines.switches import as_json
from launcher.ledger import Ledger
from launcher.model import Switch
from launcher.steps import deployed, in_vain


def test_what_was_asked_for_in_vain_is_said() -> None:
    switches = [Switch("cuda_graphs", True, False, "needs a GPU"), Switch("prefix_caching", True, True, "")]
    assert in_vain({"optimizations": as_json(switches)}) == ["optimizations.cuda_graphs is not active: needs a GPU"]


def test_an_engine_without_optimizations_has_nothing_to_say() -> None:
    assert in_vain({}) == []


@pytest.mark.parametrize(
    ("ours", "checkpoint", "known"), [(True, None, True), (False, "sha256:1", True), (False, None, False)]
)
def test_what_a_server_has_loaded_is_known_by_its_checkpoint_or_because_it_is_ours(
    ours: bool, checkpoint: str | None, known: bool
) -> None:
    made = {"checkpoint": checkpoint, "deployment": {"fingerprint": "sha256:2"}, "versions": {}, "git_commit": None}
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", "b", "e", ours=ours)
    assert (deployed(Ledger(made), endpoint) is not None) is known
