"""Sizes without torch, compared with the model that torch builds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.checkpoints.claims import parameters
from launcher.core.errors import UserError
from launcher.engines.megatron import layout
from launcher.settings.model import Dtype, Parallelism
from tests.engines.megatron.test_executor import ARCHITECTURES
from tests.engines.megatron.tiny_models import TINY


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_counted_as_built(name: str) -> None:
    import torch

    from launcher.engines.megatron.build import build
    from launcher.engines.megatron.distributed import initialize

    device = torch.device("cpu")
    initialize(Parallelism(), device)
    model = build(ARCHITECTURES[name], Parallelism(), torch.float32, device, initialize=False)
    assert parameters(ARCHITECTURES[name]) == sum(p.numel() for p in model.parameters())


SMOLLM2 = replace(
    TINY, num_layers=30, num_attention_heads=9, num_query_groups=3, vocab_size=49152, ffn_hidden_size=1536
)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"tensor": 2}, "parallelism.tensor=2: must divide the model's 9 attention heads; expected one of 1, 3, 9"),
        ({"tensor": 9}, "parallelism.tensor=9: must divide the model's 3 key-value heads; expected one of 1, 3"),
        ({"pipeline": 4}, "parallelism.pipeline=4: must divide the model's 30 layers; expected one of 1, 2, 3, 5, 6"),
        ({"expert": 2}, "parallelism.expert=2: must be 1; the model has no experts"),
        (
            {"context": 2},
            "parallelism.context=2: must be 1; megatron-core splits a context only inside TransformerEngine",
        ),
    ],
)
def test_the_wrong_number_is_named(ranks: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.check_layout(SMOLLM2, Parallelism(**ranks), gpus=0)


MIXTURE = replace(TINY, num_query_groups=4, num_experts=6, experts_per_token=2, expert_ffn_hidden_size=98)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (
            {"expert": 4, "tensor": 4},
            "parallelism.expert=4: must divide the model's 6 experts; expected one of 1, 2, 3",
        ),
        (
            {"expert": 2},
            "parallelism.expert=2: must divide parallelism.tensor=1, whose ranks share the experts; expected",
        ),
    ],
)
def test_experts_that_cannot_be_shared_out(ranks: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.check_layout(MIXTURE, Parallelism(**ranks), gpus=0)


def test_an_expert_is_cut_only_where_experts_are_fewer_than_ranks() -> None:
    odd = replace(MIXTURE, expert_ffn_hidden_size=97)
    with pytest.raises(UserError, match="97 feed-forward channels of an expert"):
        layout.check_layout(odd, Parallelism(tensor=2), gpus=0)
    layout.check_layout(odd, Parallelism(tensor=2, expert=2), gpus=0)


def test_experts_with_biases_are_not_cut() -> None:
    with pytest.raises(
        UserError, match=r"parallelism\.expert=1: must equal parallelism\.tensor=2, because experts with biases"
    ):
        layout.check_layout(replace(MIXTURE, bias=True), Parallelism(tensor=2), gpus=0)


def test_vocabulary_and_devices_are_checked() -> None:
    with pytest.raises(UserError, match="257 rows of the vocabulary"):
        layout.check_layout(replace(TINY, vocab_size=257), Parallelism(tensor=2), gpus=0)
    with pytest.raises(UserError, match="4 ranks need 4 GPUs; this host has 2"):
        layout.check_layout(TINY, Parallelism(tensor=2, pipeline=2), gpus=2)
    layout.check_layout(TINY, Parallelism(tensor=2, pipeline=2), gpus=0)


def test_cache_is_split_over_ranks() -> None:
    whole = layout.cache_bytes_per_token(TINY, Parallelism(), Dtype.fp32)
    assert whole == 2 * 4 * 2 * 16 * 4
    assert layout.cache_bytes_per_token(TINY, Parallelism(tensor=2, pipeline=2), Dtype.bf16) == whole / 8
