"""The configuration that all ranks of one engine share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launcher.checkpoints.base import Architecture
from launcher.core.errors import UserError
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.dtypes import torch_dtype
from launcher.settings.model import Bounds, Dtype, Parallelism

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch._C._distributed_c10d import Store

    from launcher.engines.megatron.modules import GPT
    from launcher.engines.megatron.stage import Stage


class Weights(Protocol):
    """The source of the parameters. It is sent to the other ranks, so it must pickle, and hold no tensors."""

    def load_into(self, model: nn.Module) -> None:
        """Fill this rank's part of the model."""
        ...


@dataclass(frozen=True)
class CheckpointWeights:
    """The weights of a checkpoint on disk."""

    path: Path
    bounds: Bounds
    peft: str | None = None

    def load_into(self, model: nn.Module) -> None:
        from launcher.checkpoints import open_model
        from launcher.checkpoints.convert import named_globally
        from launcher.checkpoints.finite import refuse_not_finite

        checkpoint = open_model(self.path, self.bounds, self.peft)
        checkpoint.load_into(model)
        refuse_not_finite(named_globally(model, checkpoint.architecture), self.path)


@dataclass(frozen=True)
class WorkerConfig:
    """The model, its layout, and the size of its cache. ``threads`` are those of one rank.

    ``graphs`` are the sizes of decode steps to capture while loading, if any.
    """

    architecture: Architecture
    weights: Weights
    parallelism: Parallelism
    dtype: Dtype
    device: str
    num_blocks: int
    block_size: int
    threads: int
    flash_attention: bool = False
    flash_decode: bool = False
    graphs: Buckets | None = None

    @contextmanager
    def stage(self, rank: int, store: Store | None = None, device: int | None = None) -> Iterator[Stage]:
        """Build, fill and yield the part of one rank. Blocks until every other rank does the same.

        ``device`` is the number of its GPU on this host, by default that of the rank.
        """
        from launcher.engines.megatron import distributed

        distributed.import_quietly()
        from launcher.engines.megatron.graphs import graph_capturer
        from launcher.engines.megatron.stage import Stage
        from launcher.engines.runtime import decode_kernels

        here = self.torch_device(rank if device is None else device)
        kernel = decode_kernels.kernel(here) if self.flash_decode else None
        with self.model(rank, here, store) as model:
            stage = Stage(model, self.architecture, self.num_blocks, self.block_size, kernel)
            if self.graphs is not None:
                stage.capture_graphs(self.graphs, graph_capturer(here))
            yield stage

    @contextmanager
    def model(self, rank: int, here: torch.device, store: Store | None = None) -> Iterator[GPT]:
        """Build, fill and yield the modules of one rank, without a cache."""
        import torch

        from launcher.engines.megatron import distributed
        from launcher.engines.megatron.build import build
        from launcher.engines.runtime.paged import allow_flash

        torch.set_num_threads(self.threads)
        allow_flash(self.flash_attention, here)
        distributed.initialize(self.parallelism, here, rank, store)
        try:
            model = build(self.architecture, self.parallelism, torch_dtype(self.dtype), here, initialize=False)
            self.weights.load_into(model)
            model.tie()
            yield model
        finally:
            if self.parallelism.world_size > 1:
                distributed.shutdown()

    def torch_device(self, number: int) -> torch.device:
        import torch

        if self.device == "cpu":
            return torch.device("cpu")
        seen = torch.cuda.device_count()
        if number >= seen:
            raise UserError(
                f"GPU {number} of this host is needed; torch {torch.__version__} sees {seen} GPUs "
                "(CUDA_VISIBLE_DEVICES= runs on the CPU)"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
        return device
