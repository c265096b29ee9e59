"""The executor of the leader: it sends each step to the other ranks and chooses tokens from the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from launcher.core.errors import EngineUnavailable
from launcher.core.logs import LogFile
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import TokenLogprob
from launcher.engines.megatron.parallel import launch_workers
from launcher.engines.megatron.stage import Stage
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.invariant import execution
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, of_next
from launcher.engines.runtime.step import StepPlan


class Peers(Protocol):
    """The other ranks: they take part in each step and forward pass that the leader announces."""

    def step(self, plan: StepPlan) -> None: ...

    def plain(self, tokens: Sequence[int], exact: bool) -> None: ...

    def death_reason(self) -> str | None:
        """Return which rank died, after a collective has failed; None if all live."""
        ...


class MegatronExecutor:
    """The leader's executor: announces each step to the other ranks, computes its own part, and chooses tokens.

    ``vocab_size`` is the tokenizer's, which may be less than the model's. ``invariant`` is the context length
    if steps must be batch-invariant, else None.
    """

    def __init__(
        self,
        stage: Stage,
        worker_config: WorkerConfig,
        vocab_size: int,
        peers: Peers | None,
        invariant: int | None = None,
    ) -> None:
        self.num_blocks = worker_config.num_blocks
        self.block_size = worker_config.block_size
        self.vocab_size = vocab_size
        self._stage = stage
        self._peers = peers
        self._execute = execution(self._logits, worker_config.block_size, vocab_size, invariant)

    @torch.inference_mode()
    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        # On a GPU an error of the step may appear only when its results are read.
        with self._stage.current(), self._naming_dead_rank():
            return self._execute(plan, scores, draws)

    def _logits(self, plan: StepPlan) -> Tensor:
        if self._peers is not None:
            self._peers.step(plan)
        logits = self._stage.compute(plan)
        assert logits is not None, "the leader is on the last stage"
        return logits

    def reference(self, tokens: Sequence[int]) -> list[float]:
        return self._plain(tokens, exact=False)

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        return self._plain(tokens, exact=True)

    @torch.inference_mode()
    def _plain(self, tokens: Sequence[int], exact: bool) -> list[float]:
        if self._peers is not None:
            self._peers.plain(tokens, exact)
        with self._stage.current(), self._naming_dead_rank():
            logits = self._stage.plain(tokens, exact)
            assert logits is not None, "the leader is on the last stage"
            return of_next(logits, tokens)

    def describe(self) -> Mapping[str, Json]:
        """Return facts that were measured while running."""
        return self._stage.describe()

    @contextmanager
    def _naming_dead_rank(self) -> Iterator[None]:
        """Name the dead rank, where torch would report a closed connection."""
        try:
            yield
        except RuntimeError as error:
            death_reason = None if self._peers is None else self._peers.death_reason()
            if death_reason is None:
                raise
            raise EngineUnavailable(death_reason) from error


@contextmanager
def launching(
    worker_config: WorkerConfig,
    vocab_size: int,
    invariant: int | None,
    allocation: Allocation,
    log_of: Callable[[int], LogFile | None],
    on_death: Callable[[Future[str]], None],
    stopping: Future[None],
) -> Iterator[MegatronExecutor]:
    """Start all ranks of a model, and yield the leader's executor; see `launch_workers`."""
    with launch_workers(worker_config, on_death, allocation, stopping=stopping, log_of=log_of) as (stage, workers):
        yield MegatronExecutor(stage, worker_config, vocab_size, workers, invariant)
