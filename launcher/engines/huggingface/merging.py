"""Merges an adapter into a model of transformers, weight by weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from launcher.checkpoints.peft.changes import Adapter, Change, Replaced
from launcher.checkpoints.peft.depth import refuse_skipped_layers
from launcher.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@torch.no_grad()
def merge(model: PreTrainedModel, adapter: Adapter, source: Path) -> None:
    """Change every weight that the adapter names, in fp32. Raises `CheckpointError` for one that the model lacks."""
    known = dict(model.named_parameters())
    refuse_skipped_layers(adapter, known, source)
    ends = {id(end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}
    tied = len(ends) == 1 and model.get_output_embeddings() is not None
    for name, change in adapter.changes.items():
        weight = known.get(name)
        if weight is None and change.is_optional(name):
            continue
        if weight is None or (tied and id(weight) in ends):
            what = "which it also uses as its output layer" if weight is not None else "which it lacks"
            raise CheckpointError(
                f"model.peft={adapter.folder}: changes '{name:.200}' of {source}, {what} (its base: {adapter.base:.99})"
            )
        weight.data = _merged(weight.data, change, _is_transposed(model, name, change), name, adapter)


def _is_transposed(model: PreTrainedModel, name: str, change: Change) -> bool:
    """Tell whether a weight is stored as [inputs, outputs], as GPT-2's are."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D) and not isinstance(change, Replaced)


def _merged(base: Tensor, change: Change, transposed: bool, name: str, adapter: Adapter) -> Tensor:
    value = base.float().T if transposed and base.ndim == 2 else base.float()
    if len(change.shape) != value.ndim or any(x and x != y for x, y in zip(change.shape, value.shape, strict=True)):
        raise CheckpointError(
            f"model.peft={adapter.folder}: changes '{name:.200}' of shape {list(change.shape)}; the model has "
            f"{list(value.shape)}"
        )
    made = change(value)
    return (made.T if transposed and base.ndim == 2 else made).to(base.dtype).contiguous()
