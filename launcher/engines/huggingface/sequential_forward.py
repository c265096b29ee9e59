"""Forward of one sequence after the other, for models whose attention cannot be packed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from launcher.engines.huggingface.probe import CacheShape
from launcher.engines.runtime.step import Chunk, StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PagedCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's paged keys and values, as transformers' cache of the sequence that is being computed."""

    is_sliding = False

    def __init__(self, shape: CacheShape, slots: int, like: Tensor) -> None:
        super().__init__()
        self._keys = like.new_zeros(slots, shape.groups, shape.keys)
        self._values = like.new_zeros(slots, shape.groups, shape.values)
        self.set_slots(like.new_zeros(0).long(), like.new_zeros(0).long())

    def set_slots(self, past: Tensor, slots: Tensor) -> None:
        """Set the slots of the sequence so far, and those of its next tokens."""
        self._past, self._slots = past, slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the pages are allocated."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store [1, groups, tokens, channels], and return all of the sequence."""
        return self._extend(self._keys, key_states), self._extend(self._values, value_states)

    def _extend(self, pages: Tensor, new: Tensor) -> Tensor:
        pages.index_copy_(0, self._slots, new[0].transpose(0, 1))
        return torch.cat((pages.index_select(0, self._past).transpose(0, 1)[None], new), 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return len(self._past) + query_length, 0

    def get_seq_length(self) -> int:
        return len(self._past)

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


class SequentialForward:
    """Computes a step chunk by chunk, each with transformers' own attention and masks."""

    def __init__(self, model: PreTrainedModel, shapes: Sequence[CacheShape], num_blocks: int, block_size: int) -> None:
        parameters = inspect.signature(model.forward).parameters
        self._model: Any = model
        self._selects_rows = "logits_to_keep" in parameters
        self._takes_positions = "position_ids" in parameters
        self._block_size = block_size
        like = next(model.parameters())
        self.dtype = like.dtype
        self._layers = [PagedCacheLayer(shape, num_blocks * block_size, like) for shape in shapes]

    @torch.inference_mode()
    def compute(self, plan: StepPlan) -> Tensor:
        """Return the logits [rows, vocabulary] of a step."""
        parts: list[Tensor] = []
        begin = 0
        for chunk in plan.chunks:
            end = begin + len(chunk.tokens)
            parts.append(self._chunk(chunk, [row - begin for row in plan.rows if begin <= row < end]))
            begin = end
        logits = torch.cat(parts)
        ordered = sorted(range(len(plan.rows)), key=plan.rows.__getitem__)
        place = torch.tensor(ordered, device=logits.device, dtype=torch.long)
        return torch.empty_like(logits).index_copy_(0, place, logits)

    def plain(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits [tokens, vocabulary] of transformers' own forward pass, without a cache."""
        logits: Tensor = self._model(torch.tensor([tokens], device=self._model.device), use_cache=False).logits[0]
        return logits

    def _chunk(self, chunk: Chunk, rows: Sequence[int]) -> Tensor:
        """Return the logits of one chunk's ``rows``, which may repeat, in ascending order."""
        size, end = self._block_size, chunk.start + len(chunk.tokens)
        past = self._tensor([chunk.blocks[p // size] * size + p % size for p in range(chunk.start)])
        # Block 0 takes the writes of tokens that are cached already.
        blocks = (chunk.blocks[p // size] if p >= chunk.write else 0 for p in range(chunk.start, end))
        slots = self._tensor([b * size + p % size for b, p in zip(blocks, range(chunk.start, end), strict=True)])
        for layer in self._layers:
            layer.set_slots(past, slots)
        keep = self._tensor(sorted(rows))
        settings = {"logits_to_keep": keep} if self._selects_rows else {}
        if self._takes_positions:
            settings["position_ids"] = self._tensor(range(chunk.start, end))[None]
        tokens = self._tensor(chunk.tokens)[None]
        cache = Cache(layers=self._layers)
        logits: Tensor = self._model(tokens, past_key_values=cache, use_cache=True, **settings).logits[0]
        return logits if self._selects_rows else logits.index_select(0, keep)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self._model.device, dtype=torch.long)
