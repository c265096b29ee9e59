"""Write a megatron-core model as a ``torch_dist`` checkpoint from one process, with or without a GPU."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.checkpoints.torch_dist.tensor_store import sharded_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

METADATA = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def save(model: nn.Module, folder: Path, dtype: torch.dtype, prefix: str = "") -> None:
    """Write the whole model, which must be in this process alone, in the type ``dtype``.

    The layout is that of ``megatron.core.dist_checkpointing.save``, whose own writer needs CUDA: layers stacked on axis
    0, ``.metadata``, one ``.distcp`` file, ``metadata.json`` and an empty ``common.pt``. ``prefix`` goes before names.
    """
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

    folder.mkdir(parents=True, exist_ok=True)
    tensors = whole_tensors(sharded_tensors(model.sharded_state_dict(prefix=prefix)), dtype)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is a single process, which is meant
        save_tensors(tensors, storage_writer=FileSystemWriter(folder, single_file_per_rank=True), no_dist=True)
    torch.save({}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-8")


def whole_tensors(parts: Iterable[Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Join megatron-core's ``ShardedTensor`` parts into the tensors they are parts of, by key."""
    import torch

    whole: dict[str, Tensor] = {}
    for part in parts:
        tensor = whole.setdefault(part.key, torch.empty(part.global_shape, dtype=dtype))
        region = tuple(slice(start, start + size) for start, size in zip(part.global_offset, _sizes(part), strict=True))
        tensor[region] = part.data.detach().to(dtype).reshape(_sizes(part))
    return whole


def _sizes(part: Any) -> tuple[int, ...]:
    """Return the part's extent on every axis of the whole; an axis that stacks layers has extent 1."""
    return *(1,) * part.prepend_axis_num, *part.local_shape
