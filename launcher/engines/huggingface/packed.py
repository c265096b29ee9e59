"""Packed (varlen) forward: all tokens of a step as one sequence, which attends over the paged cache of many."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from launcher.engines.huggingface.probe import AttentionLayer, AttentionPattern, NotPackable, implementation
from launcher.engines.runtime.paged import CALL_COST, AttentionMetadata, MetadataBuilder
from launcher.engines.runtime.step import StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAGED = "launcher_paged"


AttentionKind = tuple[AttentionPattern, int]
"""How a layer attends, and over how many groups."""


class CurrentStep:
    """The metadata of the current step, one per attention kind."""

    metadata: Mapping[AttentionKind, AttentionMetadata]


class PagedCache:
    """The cache of one attention module, [blocks, groups, key and value, block size, channels], and its kind."""

    def __init__(
        self, layer: AttentionLayer, num_blocks: int, block_size: int, current: CurrentStep, like: Tensor
    ) -> None:
        self.kind = _kind(layer)
        self.current = current
        self.cache = like.new_zeros(num_blocks, layer.groups, 2, block_size, layer.channels)


def _kind(layer: AttentionLayer) -> AttentionKind:
    return layer.pattern, layer.groups


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Attend over the current step; maps [1, heads, tokens, channels] to [1, tokens, heads, channels]."""
    paged_cache: Any = module.paged_cache
    heads, tokens, channels = query.shape[1:]
    groups = key.shape[1]
    q = query[0].transpose(0, 1).reshape(tokens, groups, heads // groups, channels)
    mixed = torch.cat((q, key[0].transpose(0, 1)[:, :, None], value[0].transpose(0, 1)[:, :, None]), 2)
    out: Tensor = paged_cache.current.metadata[paged_cache.kind].attend(mixed, paged_cache.cache)
    return out.view(1, tokens, heads, channels), None


AttentionInterface.register(PAGED, _attend)


def _builder(layer: AttentionLayer, num_blocks: int, block_size: int, like: Tensor) -> MetadataBuilder:
    return MetadataBuilder(
        num_blocks=num_blocks,
        block_size=block_size,
        groups=layer.groups,
        queries=layer.pattern.queries,
        padding_budget=CALL_COST // (layer.groups * layer.channels),
        device=like.device,
        dtype=like.dtype,
        rope=None,
        window=layer.pattern.window,
        scale=layer.pattern.scale,
    )


class PackedForward:
    """Computes a step in one forward pass. It owns the model until `release`.

    Raises `NotPackable` for a model that takes no positions of tokens.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[AttentionLayer], num_blocks: int, block_size: int
    ) -> None:
        parameters = inspect.signature(model.forward).parameters
        if "position_ids" not in parameters:
            raise NotPackable("it takes no position_ids")
        self._model: Any = model
        self._selects_rows = "logits_to_keep" in parameters
        self._current = CurrentStep()
        like = next(model.parameters())
        self.dtype = like.dtype
        for layer in layers:
            layer.module.paged_cache = PagedCache(layer, num_blocks, block_size, self._current, like)  # type: ignore[assignment]
        self._builders = {_kind(layer): _builder(layer, num_blocks, block_size, like) for layer in layers}
        self._plain = str(model.config._attn_implementation)
        model.set_attn_implementation(PAGED)

    @torch.inference_mode()
    def compute(self, plan: StepPlan) -> Tensor:
        """Return the logits [rows, vocabulary] of a step."""
        metadata = {kind: builder.build(plan) for kind, builder in self._builders.items()}
        first = next(iter(metadata.values()))
        self._current.metadata = metadata
        keep = {"logits_to_keep": first.rows} if self._selects_rows else {}
        logits: Tensor = self._model(first.tokens, position_ids=first.positions, use_cache=False, **keep).logits[0]
        return logits if self._selects_rows else logits.index_select(0, first.rows)

    def plain(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits [tokens, vocabulary] of transformers' own forward pass, without a cache."""
        with implementation(self._model, self._plain):
            logits: Tensor = self._model(torch.tensor([tokens], device=self._model.device), use_cache=False).logits[0]
        return logits

    def release(self) -> None:
        """Restore the model, and free the cache."""
        self._model.set_attn_implementation(self._plain)
        for module in self._model.modules():
            if hasattr(module, "paged_cache"):
                del module.paged_cache
