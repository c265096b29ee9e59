"""What a probe finds about the attention of models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from launcher.engines.huggingface.probe import NotPackable, probe_attention, probe_cache, window
from tests.engines.huggingface.huggingface_models import CONTEXT, FLAT, SEQUENTIAL, random_model


def causal(_b: int, _h: int, q: Tensor, k: Tensor) -> Tensor:
    return k <= q


def sliding(_b: int, _h: int, q: Tensor, k: Tensor) -> Tensor:
    return (k <= q) & (k > q - 10)


def chunked(_b: int, _h: int, q: Tensor, k: Tensor) -> Tensor:
    return (k <= q) & (q // 10 == k // 10)


def bidirectional(_b: int, _h: int, q: Tensor, k: Tensor) -> Tensor:
    return torch.ones_like(q + k, dtype=torch.bool)


def test_a_window_is_read_off_the_mask() -> None:
    assert window(causal, 128) is None
    assert window(sliding, 128) == 10
    assert window(sliding, 10) is None, "a context within the window has none"
    assert window(causal, 1) is None


@pytest.mark.parametrize("rule", [chunked, bidirectional])
def test_any_other_mask_cannot_be_packed(rule: object) -> None:
    with pytest.raises(NotPackable, match="neither causal nor a sliding window"):
        window(rule, 128)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FLAT)
def test_every_layer_is_found(kind: str) -> None:
    layers = probe_attention(random_model(kind), CONTEXT)
    assert len(layers) == 3
    assert len({layer.module for layer in layers}) == 3


def test_layers_of_one_model_may_attend_differently() -> None:
    assert [layer.pattern.window for layer in probe_attention(random_model("gemma3_text"), CONTEXT)] == [10, None, 10]
    assert {layer.pattern.window for layer in probe_attention(random_model("mistral"), CONTEXT)} == {12}


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_models_with_attention_of_their_own_cannot_be_packed(kind: str) -> None:
    with pytest.raises(NotPackable):
        probe_attention(random_model(kind), CONTEXT)


def test_a_probe_leaves_a_model_as_it_was() -> None:
    model = random_model("llama")
    tokens = torch.arange(20)[None]
    before = model(tokens).logits
    probe_attention(model, CONTEXT)
    probe_cache(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(tokens).logits, before)
