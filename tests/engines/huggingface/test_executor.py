"""A model is tried before it serves."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.engines.huggingface.executor import PACKED, ExecutionStrategy, choose_strategy
from launcher.engines.huggingface.probe import NoKVCache
from tests.engines.huggingface.huggingface_models import CONTEXT, random_model


def arranged(
    model: object, context_length: int = CONTEXT, block_size: int = 16, num_blocks: int = 20
) -> ExecutionStrategy:
    return choose_strategy(model, context_length, block_size, lambda values: num_blocks)


@pytest.mark.parametrize(
    ("context_length", "block_size", "num_blocks"), [(1, 2, 3), (2, 2, 3), (3, 2, 4), (128, 64, 3)]
)
@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_the_smallest_cache_is_enough_to_try(kind: str, context_length: int, block_size: int, num_blocks: int) -> None:
    found = arranged(random_model(kind), context_length, block_size, num_blocks)
    assert (found.describe() == PACKED) == (kind == "llama")


def test_values_are_counted_over_all_layers() -> None:
    assert arranged(random_model("llama")).cached_values == 3 * 2 * 2 * 16
    assert arranged(random_model("gemma2")).cached_values == 3 * 2 * 2 * 16


def test_tokens_that_mix_outside_of_attention_are_noticed() -> None:
    model = random_model("llama")
    model.get_input_embeddings().register_forward_hook(lambda _module, _in, out: out + out.roll(1, 1))
    with pytest.raises(NoKVCache, match="with a cache its log-probabilities are off by"):
        arranged(model)


def test_a_model_that_ignores_positions_computes_one_sequence_after_the_other() -> None:
    """Rotary angles by the place in the batch are right only for a sequence that has the batch to itself."""
    model = random_model("llama")

    def by_place(_module: object, arguments: tuple[object, ...], settings: dict[str, Any]) -> object:
        positions = settings["position_ids"]
        return arguments, settings | {
            "position_ids": positions[:, :1] + positions.new_ones(positions.shape).cumsum(1) - 1
        }

    model.model.rotary_emb.register_forward_pre_hook(by_place, with_kwargs=True)
    assert "packed, its log-probabilities are off by" in arranged(model).describe()
