"""The names of a model's parameters, known without building it, are those of the built model."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.checkpoints.parts import parameters, refuse_unplaced
from launcher.core.errors import CheckpointError
from tests.checkpoints.checkpoint_models import architecture, built

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied": False, "qkv_bias": True, "qk_norm": True},
    "layer norms": {"normalization": "LayerNorm", "bias": True, "gated": False, "qk_norm": True},
    "positions": {"position": "learned_absolute", "zero_centered_gamma": True},
    "experts": {"num_experts": 4, "experts_per_token": 2, "expert_ffn_hidden_size": 24},
    "shared expert": {"num_experts": 2, "experts_per_token": 2, "shared_expert_ffn_hidden_size": 40},
    "gated shared expert": {
        **{"num_experts": 2, "experts_per_token": 2, "shared_expert_ffn_hidden_size": 40, "shared_expert_gate": True}
    },
    "experts with biases": {"num_experts": 2, "experts_per_token": 2, "bias": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_the_built_model(kind: str) -> None:
    arch = architecture(**KINDS[kind])
    found = [f"{module}.{name}" for module, name in parameters(arch)]
    assert sorted(found) == sorted(name for name, _ in built(arch).named_parameters())


def test_what_is_left_is_named_and_counted() -> None:
    refuse_unplaced(["a"], ["a", "b"], "file")
    with pytest.raises(CheckpointError, match=r"^file: tensor 'b' has no place in the model, nor have 1 more; "):
        refuse_unplaced(["c", "b", "a"], ["a"], "file")
