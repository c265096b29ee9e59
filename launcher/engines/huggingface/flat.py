"""All tokens of a step as one sequence: a transformers model attends over the paged cache of many."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from launcher.engines.huggingface.probe import Attending, AttentionPattern, NotPaged, implementation
from launcher.engines.runtime.paged import CALL_COST, AttentionMetadata, Layout
from launcher.engines.runtime.step import StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAGED = "launcher_paged"


AttentionKind = tuple[AttentionPattern, int]
"""How a layer attends, over how many groups."""


class Active:
    """The step that a model is computing, once per way to attend."""

    steps: Mapping[AttentionKind, AttentionMetadata]


class Pages:
    """The cache of one attention module, [blocks, groups, key and value, block size, channels], and how it attends."""

    def __init__(self, layer: Attending, num_blocks: int, block_size: int, active: Active, like: Tensor) -> None:
        self.way = _way(layer)
        self.active = active
        self.cache = like.new_zeros(num_blocks, layer.groups, 2, block_size, layer.channels)


def _way(layer: Attending) -> AttentionKind:
    return layer.rule, layer.groups


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Attend of [1, heads, tokens, channels] as the active step says; returns [1, tokens, heads, channels]."""
    pages: Any = module.pages
    heads, tokens, channels = query.shape[1:]
    groups = key.shape[1]
    q = query[0].transpose(0, 1).reshape(tokens, groups, heads // groups, channels)
    mixed = torch.cat((q, key[0].transpose(0, 1)[:, :, None], value[0].transpose(0, 1)[:, :, None]), 2)
    out: Tensor = pages.active.steps[pages.way].attend(mixed, pages.cache)
    return out.view(1, tokens, heads, channels), None


AttentionInterface.register(PAGED, _attend)


def _layout(layer: Attending, block_size: int, like: Tensor) -> Layout:
    return Layout(
        block_size=block_size,
        groups=layer.groups,
        queries=layer.rule.queries,
        worth=CALL_COST // (layer.groups * layer.channels),
        device=like.device,
        dtype=like.dtype,
        rope=None,
        window=layer.rule.window,
        scale=layer.rule.scale,
    )


class Flat:
    """Computes a step in one forward pass. The model belongs to it alone from now on.

    Raises `NotPaged` for a model that cannot be told the positions of its tokens.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[Attending], num_blocks: int, block_size: int) -> None:
        accepted = inspect.signature(model.forward).parameters
        if "position_ids" not in accepted:
            raise NotPaged("it takes no position_ids")
        self._model: Any = model
        self._keeps = "logits_to_keep" in accepted
        self._active = Active()
        like = next(model.parameters())
        self.dtype = like.dtype
        for layer in layers:
            layer.module.pages = Pages(layer, num_blocks, block_size, self._active, like)  # type: ignore[assignment]
        self._layouts = {_way(layer): _layout(layer, block_size, like) for layer in layers}
        self._plain = str(model.config._attn_implementation)
        model.set_attn_implementation(PAGED)

    @torch.inference_mode()
    def compute(self, plan: StepPlan) -> Tensor:
        """Return the logits [rows, vocabulary] of a step."""
        steps = {way: layout.step(plan) for way, layout in self._layouts.items()}
        step = next(iter(steps.values()))
        self._active.steps = steps
        keep = {"logits_to_keep": step.rows} if self._keeps else {}
        logits: Tensor = self._model(step.tokens, position_ids=step.positions, use_cache=False, **keep).logits[0]
        return logits if self._keeps else logits.index_select(0, step.rows)

    def plain(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits [tokens, vocabulary] of transformers' own forward pass, without a cache."""
        with implementation(self._model, self._plain):
            logits: Tensor = self._model(torch.tensor([tokens], device=self._model.device), use_cache=False).logits[0]
        return logits

    def release(self) -> None:
        """Give the model back as it was, and free the cache."""
        self._model.set_attn_implementation(self._plain)
        for module in self._model.modules():
            if hasattr(module, "pages"):
                del module.pages
