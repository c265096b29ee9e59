"""Sizes without torch, compared with the model that torch builds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_executor import ARCHITECTURES
from tiny_models import TINY

from launcher.engines.megatron import sizing
from launcher.errors import UserError
from launcher.model import Dtype, Parallelism


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_counted_as_built(name: str) -> None:
    import torch

    from launcher.engines.megatron.build import build
    from launcher.engines.megatron.distributed import initialize

    device = torch.device("cpu")
    initialize(Parallelism(), device)
    model = build(ARCHITECTURES[name], Parallelism(), torch.float32, device, initialize=False)
    assert sizing.parameters(ARCHITECTURES[name]) == sum(p.numel() for p in model.parameters())


SMOLLM2 = replace(
    TINY, num_layers=30, num_attention_heads=9, num_query_groups=3, vocab_size=49152, ffn_hidden_size=1536
)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tensor": 2}, "parallelism.tensor=2: the model has 9 attention heads; accepted are divisors: 1, 3, 9"),
        ({"tensor": 9}, "parallelism.tensor=9: the model has 3 key-value heads; accepted are divisors: 1, 3"),
        ({"pipeline": 4}, "parallelism.pipeline=4: the model has 30 layers; accepted are divisors: 1, 2, 3, 5, 6"),
        ({"tensor": 0}, "parallelism.tensor=0: must be at least 1"),
        ({"context": 2}, "parallelism.context=2: not offered for serving; accepted is 1"),
    ],
)
def test_the_wrong_number_is_named(layout: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sizing.check_layout(SMOLLM2, Parallelism(**layout), gpus=0)


def test_vocabulary_and_devices_are_checked() -> None:
    with pytest.raises(UserError, match="257 rows of the vocabulary"):
        sizing.check_layout(replace(TINY, vocab_size=257), Parallelism(tensor=2), gpus=0)
    with pytest.raises(UserError, match="4 ranks need 4 GPUs; this host has 2"):
        sizing.check_layout(TINY, Parallelism(tensor=2, pipeline=2), gpus=2)
    sizing.check_layout(TINY, Parallelism(tensor=2, pipeline=2), gpus=0)


def test_cache_is_split_over_ranks() -> None:
    whole = sizing.cache_bytes_per_token(TINY, Parallelism(), Dtype.fp32)
    assert whole == 2 * 4 * 2 * 16 * 4
    assert sizing.cache_bytes_per_token(TINY, Parallelism(tensor=2, pipeline=2), Dtype.bf16) == whole / 8
    assert sizing.cache_blocks(33, 16) == 4
