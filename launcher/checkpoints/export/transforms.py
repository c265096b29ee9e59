"""What has to change in a model's weights, beside their names, before another layout can express them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.claims import expert_width
from launcher.checkpoints.huggingface.config import SCALING
from launcher.checkpoints.parts import QKV
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor


def normalized(a: Architecture) -> Architecture:
    """Return the architecture as every reader spells it: fields without an effect have their defaults.

    Norms are stored as they multiply, and rotary pairs as halves: `transformed` changes the weights accordingly.
    """
    rotary: dict[str, Any] = {"rope_scaling": _scaling(a)}
    if a.position != "rope":
        rotary = {"rotary_base": 10000.0, "rotary_percent": 1.0, "rope_scaling": None, "rope_factors": None}
    width = expert_width(a) if a.num_experts else a.ffn_hidden_size
    experts: dict[str, Any] = {"expert_ffn_hidden_size": width, "ffn_hidden_size": width}
    if not a.num_experts:
        experts = {"experts_per_token": 0, "expert_ffn_hidden_size": None, "normalize_expert_weights": True}
    return replace(
        a, qkv_bias=a.bias or a.qkv_bias, zero_centered_gamma=False, rotary_interleaved=False, **rotary, **experts
    )


def _scaling(a: Architecture) -> dict[str, Json] | None:
    """Return the rotary scaling with its own numbers only: readers also keep the base in it."""
    if not a.rope_scaling:
        return None
    kind = str(a.rope_scaling["rope_type"])
    return {"rope_type": kind} | {name: a.rope_scaling[name] for name in SCALING[kind]}


@dataclass(frozen=True)
class Transform:
    """Changes whole parameters of Megatron's from the conventions of ``architecture`` to those of `normalized`."""

    architecture: Architecture

    def __call__(self, value: Tensor, module: str, kind: str) -> Tensor:
        a, name = self.architecture, module.rsplit(".", 1)[-1]
        if a.zero_centered_gamma and name.endswith("layernorm") and kind == "weight":
            value = 1 + value.float()
        if not a.rotary_interleaved or a.position != "rope":
            return value
        if module.endswith(QKV):
            return self._heads_of(value)
        return value[self._order()] if name in ("q_layernorm", "k_layernorm") else value

    def _heads_of(self, value: Tensor) -> Tensor:
        """Reorder the channels of every query and key; a group is its queries, its key, its value."""
        a = self.architecture
        heads = value.reshape(a.num_query_groups, -1, a.kv_channels, *value.shape[1:]).clone()
        heads[:, :-1] = heads[:, :-1, self._order()]
        return heads.reshape(value.shape)

    def _order(self) -> Tensor:
        """Return the places of a head's channels: the first of every rotary pair, then the second, then the rest."""
        import torch

        channels = self.architecture.kv_channels
        rotated = int(channels * self.architecture.rotary_percent)
        places = torch.arange(channels)
        return torch.cat([places[0:rotated:2], places[1:rotated:2], places[rotated:]])
