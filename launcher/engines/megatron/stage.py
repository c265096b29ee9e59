"""One rank's part of a model, which takes part in steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from megatron.core import parallel_state as state
from torch import Tensor

from launcher.checkpoints.base import Architecture
from launcher.core.types import Json
from launcher.engines.megatron.graphs import Graph, GraphCapturer, Graphs
from launcher.engines.megatron.modules import GPT, gather_logits
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.paged import CALL_COST, MetadataBuilder, PagedKernel, Rope
from launcher.engines.runtime.step import StepPlan
from launcher.engines.runtime.upcast import upcast


class Stage:
    """The layers and the part of the vocabulary that this rank holds, with its cache.

    A layer's cache has ``num_blocks`` blocks, each [groups, key and value, block size, channels].
    """

    def __init__(
        self,
        model: GPT,
        architecture: Architecture,
        num_blocks: int,
        block_size: int,
        kernel: PagedKernel | None = None,
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._model.pack()
        parameter = next(model.parameters())
        self.device, dtype = parameter.device, parameter.dtype
        self._hidden = (1, architecture.hidden_size)
        self._dtype = dtype
        attention = model.decoder.layers[0].self_attention
        groups, channels = attention.num_query_groups_per_partition, attention.hidden_size_per_attention_head
        shape = (num_blocks, groups, 2, block_size, channels)
        for layer in model.decoder.layers:
            layer.self_attention.cache = torch.zeros(shape, dtype=dtype, device=self.device)
        self._metadata_builder = MetadataBuilder(
            num_blocks=num_blocks,
            block_size=block_size,
            groups=groups,
            queries=architecture.num_attention_heads // architecture.num_query_groups,
            padding_budget=CALL_COST // (groups * channels),
            device=self.device,
            dtype=dtype,
            rope=self._rope(architecture),
            window=architecture.sliding_window,
            kernel=kernel,
        )
        self._graphs: Graphs | None = None

    def capture_graphs(self, buckets: Buckets, capturer: GraphCapturer) -> None:
        """Capture decode steps of these sizes and replay them from now on; every rank does so at the same time."""
        hidden = None if self._model.pre_process else self._hidden
        self._graphs = Graphs(buckets, self._metadata_builder, self._model.compute, hidden, capturer)

    def describe(self) -> dict[str, Json]:
        return {} if self._graphs is None else {"cuda_graphs": self._graphs.describe()}

    def current(self) -> AbstractContextManager[object]:
        """Make this rank's device current in the calling thread: each thread starts on the first GPU."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    @torch.inference_mode()
    def compute(self, plan: StepPlan) -> Tensor | None:
        """Take part in a step; return the logits [rows, vocabulary] on the last stage, None elsewhere."""
        graph = None if self._graphs is None else self._graphs.fit(plan)
        if graph is not None:
            return self._send_on(self._replay(graph, plan))
        metadata = self._metadata_builder.build(plan)
        out = self._model.compute(metadata, self._receive(metadata.tokens.shape[1]))
        return self._send_on(out)

    def _replay(self, graph: Graph, plan: StepPlan) -> Tensor:
        """Replay a captured step; return the plan's rows on the last stage, else all rows, padding included."""
        graph.load(plan.chunks)
        if graph.hidden is not None:
            dist.recv(graph.hidden, state.get_pipeline_model_parallel_prev_rank())
        out = graph.replay()
        if not self._model.post_process:
            return out
        rows = plan.rows
        # The usual case: each row draws its token.
        if list(rows) == list(range(len(rows))):
            return out[: len(rows)]
        return out.index_select(0, torch.tensor(rows, device=self.device, dtype=torch.long))

    @torch.inference_mode()
    def plain(self, tokens: Sequence[int], exact: bool = False) -> Tensor | None:
        """Take part in a plain forward pass; return the logits [tokens, vocabulary] on the last stage.

        An ``exact`` one is computed in the next wider floating point type.
        """
        with upcast(self._dtype) if exact else nullcontext():
            return self._plain(tokens)

    def _plain(self, tokens: Sequence[int]) -> Tensor | None:
        ids = torch.tensor([tokens], device=self.device)
        self._model.set_input_tensor(self._receive(len(tokens)))
        out = self._model(ids, torch.arange(len(tokens), device=self.device)[None], None)
        self._model.set_input_tensor(None)
        return self._send_on(out[0] if self._model.post_process else out)

    def _rope(self, architecture: Architecture) -> Rope | None:
        if architecture.position != "rope":
            return None
        return Rope.of(self._model.rotary_pos_emb.table, architecture.rotary_interleaved, self._dtype)

    def _receive(self, tokens: int) -> Tensor | None:
        if self._model.pre_process:
            return None
        hidden = torch.empty(tokens, *self._hidden, dtype=self._dtype, device=self.device)
        dist.recv(hidden, state.get_pipeline_model_parallel_prev_rank())
        return hidden

    def _send_on(self, out: Tensor) -> Tensor | None:
        if self._model.post_process:
            return gather_logits(out)
        dist.send(out.contiguous(), state.get_pipeline_model_parallel_next_rank())
        return None
