"""Decode steps that are captured once per size as CUDA graphs, and then replayed without Python or launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from launcher.core.errors import ServerError
from launcher.core.types import Json
from launcher.core.units import GIB
from launcher.engines.runtime.buckets import Bucket, Buckets
from launcher.engines.runtime.paged import AttentionMetadata, MetadataBuilder, block_table
from launcher.engines.runtime.step import Chunk, StepPlan

Compute = Callable[[AttentionMetadata, Tensor | None], Tensor]
"""This rank's layers over a step, from token ids or from the previous stage's hidden states."""

WARMUP_RUNS = 2
"""Runs before a capture: they load kernels and set up libraries, which a capture does not allow."""


class GraphCapturer(Protocol):
    """Captures what a function computes from tensors at fixed addresses."""

    def capture(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Return the function's result, and a call that recomputes it in place from the current inputs."""
        ...


class EagerReplay:
    """Calls the function again, on devices without graphs; for tests of the code around them."""

    def capture(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        out = function()

        def replay() -> None:
            out.copy_(function())

        return out, replay


class CudaGraphs:
    """Captures on one stream and from one memory pool: steps run one at a time, so that their graphs may share it.

    A graph is replayed on the current stream, in order with the copies before and after.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARMUP_RUNS):
                function()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # During a capture other threads (NCCL's watchdog) may query the device, which it forbids to its own thread.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = function()
        return out, graph.replay


class Inputs:
    """The inputs of a decode step of one size, at fixed addresses; filled with one copy from the host.

    Rows without a sequence compute token 0 at position 0, see only that, and write into the reserved block 0.
    """

    def __init__(self, bucket: Bucket, builder: MetadataBuilder) -> None:
        self._size = builder.block_size
        count = bucket.rows * (3 + bucket.pages)
        on_gpu = builder.device.type == "cuda"
        self._host = torch.zeros(count, dtype=torch.int64, pin_memory=on_gpu)
        self._device = torch.zeros(count, dtype=torch.int64, device=builder.device)
        self._copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        host = self._host.numpy()
        self._columns = host[: 3 * bucket.rows].reshape(3, bucket.rows)
        self._blocks = host[3 * bucket.rows :].reshape(bucket.rows, bucket.pages)
        self.tokens, self.positions, self.slots = self._device[: 3 * bucket.rows].view(3, bucket.rows)
        self.blocks = self._device[3 * bucket.rows :].view(bucket.rows, bucket.pages)

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Copy one token per sequence; the rows after them are padding."""
        if self._copied is not None:
            self._copied.synchronize()  # wait until the previous copy has left the host's buffer
        count, pages = len(chunks), self._blocks.shape[1]
        tokens, at, writes = np.array([(c.tokens[0], c.start, c.write) for c in chunks], np.int64).T
        held = block_table(chunks)[:, :pages]
        block = held[np.arange(count), at // self._size] * (
            at >= writes
        )  # block 0 takes the writes of tokens that are cached already
        self._columns[:, count:] = 0
        self._columns[:, :count] = tokens, at, block * self._size + at % self._size
        self._blocks[:] = 0
        self._blocks[:count, : held.shape[1]] = held
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device.device))


class Graph:
    """The decode step of one size: its inputs, and its output, which the next replay overwrites.

    ``hidden`` [rows, 1, h] receives the previous stage's output before `replay`; None on the first stage.
    """

    def __init__(self, bucket: Bucket, builder: MetadataBuilder, compute: Compute, hidden: Tensor | None) -> None:
        self.hidden = hidden
        self.replays = 0
        self._inputs = Inputs(bucket, builder)
        self._builder = builder
        self._compute = compute

    def capture(self, capturer: GraphCapturer) -> None:
        """Capture the step over inputs that are all padding."""
        self._out, self._replay = capturer.capture(self._run)

    def load(self, chunks: Sequence[Chunk]) -> None:
        self._inputs.fill(chunks)

    def replay(self) -> Tensor:
        """Compute the loaded step; returns one row per sequence, then those of the padding."""
        self.replays += 1
        self._replay()
        return self._out

    def _run(self) -> Tensor:
        i = self._inputs
        return self._compute(self._builder.build_decode(i.tokens, i.positions, i.slots, i.blocks), self.hidden)


class Graphs:
    """A rank's captured decode steps, one per bucket. All ranks capture the same ones, at the same time.

    ``hidden`` is the shape of one token's hidden states where they come from another stage.
    """

    @torch.inference_mode()
    def __init__(
        self,
        buckets: Buckets,
        builder: MetadataBuilder,
        compute: Compute,
        hidden: Sequence[int] | None,
        capturer: GraphCapturer,
    ) -> None:
        start = time.perf_counter()
        self._buckets = buckets
        self._size = builder.block_size
        self._graphs: dict[Bucket, Graph] = {}
        reserved = _reserved(builder.device)
        for bucket in buckets:
            shape = None if hidden is None else (bucket.rows, *hidden)
            received = None if shape is None else torch.zeros(shape, dtype=builder.dtype, device=builder.device)
            self._graphs[bucket] = graph = Graph(bucket, builder, compute, received)
            _capture(graph, bucket, capturer)
        self._memory = _reserved(builder.device) - reserved
        self._seconds = time.perf_counter() - start
        self._others = 0

    def fit(self, plan: StepPlan) -> Graph | None:
        """Return the captured step that computes a plan; None for a longer chunk or a batch that is too large."""
        found = None
        # The scheduler puts the longest chunk last.
        if len(plan.chunks[-1].tokens) == 1 and all(len(c.tokens) == 1 for c in plan.chunks):
            pages = max(c.start for c in plan.chunks) // self._size + 1
            bucket = self._buckets.fit(len(plan.chunks), pages)
            found = None if bucket is None else self._graphs[bucket]
        self._others += found is None
        return found

    def describe(self) -> dict[str, Json]:
        """Return what this rank captured and how often it was replayed."""
        return {
            "sequences": list(self._buckets.rows),
            "tokens_per_sequence": [pages * self._size for pages in self._buckets.pages],
            "graphs": len(self._graphs),
            "capture_s": round(self._seconds, 3),
            "memory_gib": round(self._memory / GIB, 4),
            "replays": sum(graph.replays for graph in self._graphs.values()),
            "other_steps": self._others,
        }


def graph_capturer(device: torch.device) -> GraphCapturer:
    """Return what captures on a device."""
    return CudaGraphs(device) if device.type == "cuda" else EagerReplay()


def _capture(graph: Graph, bucket: Bucket, capturer: GraphCapturer) -> None:
    try:
        graph.capture(capturer)
    except RuntimeError as error:
        raise ServerError(
            f"optimizations.cuda_graphs=true: a decode step of {bucket.rows} sequences and {bucket.pages} pages each "
            f"cannot be captured ({error}); cuda_graphs=false serves without"
        ) from error


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
