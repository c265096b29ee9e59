"""Megatron-core's own `DynamicInferenceEngine` around the launcher's model, on one GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.engines.dynamic_engine import DynamicInferenceEngine
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.model_inference_wrappers.inference_wrapper_config import InferenceWrapperConfig
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.inference.text_generation_controllers.text_generation_controller import TextGenerationController
from torch import Tensor

from launcher.core.errors import ServerError
from launcher.core.units import GIB
from launcher.engines.base import TokenLogprob
from launcher.engines.megatron.dynamic import RequestTracker
from launcher.engines.megatron.modules import GPT
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.dtypes import BYTES, torch_dtype
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, of_next
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.engines.runtime.step import StepPlan
from launcher.engines.runtime.upcast import upcast

NO_TOKEN = -1
"""An id that no token has: the tracker decides when a sequence ends."""

OVERRIDDEN = {
    DynamicInferenceContext: ("last_token_logits",),
    TextGenerationController: ("_dynamic_step_sample_bookkeeping", "_dynamic_step_sample_logits"),
}
"""The methods that are overridden. They are not public: another megatron-core may not call them, and sample itself."""


class Context(DynamicInferenceContext):  # type: ignore[misc]
    """Megatron-core's cache and batch; it computes logits for the rows that the tracker needs, prompts included."""

    tracker: RequestTracker

    def last_token_logits(self, logits: Tensor) -> Tensor:
        """Pick the rows of [1, tokens, h] whose logits are needed, [rows, h]; the model calls this before its head."""
        active = slice(self.paused_request_count, self.total_request_count)
        numbers, lengths = self.request_ids[active].tolist(), self.request_query_lengths[active].tolist()
        rows = torch.tensor(self.tracker.rows(numbers, lengths), device=logits.device)
        return logits.squeeze(0).index_select(0, rows)


class Controller(TextGenerationController):  # type: ignore[misc]
    """Megatron-core's loop of a step, with the launcher's sampling instead of its own."""

    def __init__(self, model: GPTInferenceWrapper, tracker: RequestTracker) -> None:
        super().__init__(model, NullTokenizer())
        self._tracker = tracker

    def _dynamic_step_sample_bookkeeping(self) -> None:
        """Do nothing: each request has its own settings."""

    @torch.inference_mode()
    def _dynamic_step_sample_logits(self, logits: Tensor) -> None:
        tokens = self._tracker.choose(logits.squeeze(0))
        self._sampled_tokens_cuda[: len(tokens)] = torch.tensor(tokens, device=logits.device)


class Engine(DynamicInferenceEngine):  # type: ignore[misc]
    """Megatron-core's engine with an event loop of its own: its constructor would take the caller's."""

    def __init__(self, controller: Controller, context: Context) -> None:
        self._loop = asyncio.new_event_loop()
        super().__init__(controller, context, random_seed=0, enable_chunked_prefill=False)

    def close(self) -> None:
        if not self._loop.is_running():  # a step that hangs is left to its thread
            self._loop.close()


class NullTokenizer:
    """The tokenizer that megatron-core requires for finished requests; the API detokenizes."""

    eod = NO_TOKEN

    def detokenize(self, tokens: Sequence[int]) -> str:
        return ""


class Dynamic:
    """Steps megatron-core's engine. Implements `ExternalEngine` for a `RequestTracker`, and `Executor` for the runner.

    One thread drives it: any thread that runs no event loop.
    """

    def __init__(
        self, model: GPT, worker_config: WorkerConfig, limits: SchedulerConfig, vocab_size: int, tracker: RequestTracker
    ) -> None:
        _check_version()
        self._model = model.eval().requires_grad_(False)
        self._device = next(model.parameters()).device
        self.num_blocks, self.block_size = worker_config.num_blocks, worker_config.block_size
        self.kv_tokens = (self.num_blocks - 1) * self.block_size
        self.vocab_size = vocab_size
        self._context = _context(worker_config, limits)
        self._context.tracker = tracker
        wrapped = GPTInferenceWrapper(model, _wrapper_config(worker_config, limits), self._context)
        self._controller = Controller(wrapped, tracker)
        self._engine = Engine(self._controller, self._context)
        # The engine's constructor has set its own callback.
        self._controller.set_stop_word_finished_ids_callback(tracker.take_finished)
        tracker.attach(self)

    def add(self, number: int, prompt: Sequence[int], room: int) -> None:
        settings = SamplingParams(num_tokens_to_generate=room, termination_id=NO_TOKEN)
        with torch.cuda.device(self._device):
            self._engine.add_request(number, list(prompt), settings)

    def withdraw(self, number: int) -> bool:
        if number not in self._engine.waiting_request_ids:
            return False
        self._engine.waiting_request_ids.remove(number)
        del self._engine.requests[number]
        return True

    def step(self) -> None:
        with torch.cuda.device(self._device):
            for record in self._engine.step_modern()["finished_request_records"]:
                if record[-1].failed():
                    raise RuntimeError(f"megatron-core refused request {record[-1].request_id}: {record[-1].events}")

    def close(self) -> None:
        self._engine.close()

    def unfinished(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def waiting(self) -> int:
        return len(self._engine.waiting_request_ids)

    def kv_tokens_used(self) -> int:
        return int(self._context.block_allocator.get_total_used()) * self.block_size

    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        raise NotImplementedError("megatron-core's engine schedules its own steps")

    @torch.inference_mode()
    def reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of ``tokens[1:]`` by a plain forward pass without cache."""
        return self._plain(tokens)

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the same, computed in the next wider floating point type."""
        with upcast(next(self._model.parameters()).dtype):
            return self._plain(tokens)

    def _plain(self, tokens: Sequence[int]) -> list[float]:
        with torch.cuda.device(self._device):
            ids = torch.tensor([tokens], device=self._device)
            logits: Tensor = self._model(ids, torch.arange(len(tokens), device=self._device)[None], None)[0]
            return of_next(logits, tokens)


def _check_version() -> None:
    for kind, names in OVERRIDDEN.items():
        for name in names:
            if not hasattr(kind, name):
                raise ServerError(
                    f"engine.runtime=mcore_dynamic: this megatron-core has no {kind.__name__}.{name}; 0.16.1 has"
                )


def _context(worker_config: WorkerConfig, limits: SchedulerConfig) -> Context:
    a = worker_config.architecture
    per_block = (
        2 * a.num_layers * a.num_query_groups * a.kv_channels * BYTES[worker_config.dtype] * worker_config.block_size
    )
    sequences = Context.REQUEST_ROUNDER * -(-limits.max_sequences // Context.REQUEST_ROUNDER)
    # Prompts are computed whole, and padded.
    tokens = max(limits.context_length, limits.prefill_chunk, sequences)
    return Context(
        params_dtype=torch_dtype(worker_config.dtype),
        num_layers=a.num_layers,
        kv_channels=a.kv_channels,
        num_attention_heads=a.num_query_groups,
        max_sequence_length=limits.context_length + 1,
        # Half a block more, so that rounding down loses none.
        buffer_size_gb=(worker_config.num_blocks + 0.5) * per_block / GIB,
        max_requests=sequences,
        max_tokens=Context.TOKEN_ROUNDER * -(-tokens // Context.TOKEN_ROUNDER),
        block_size_tokens=worker_config.block_size,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        materialize_only_last_token_logits=True,
        use_flashinfer_fused_rope=False,
    )


def _wrapper_config(worker_config: WorkerConfig, limits: SchedulerConfig) -> Any:
    a = worker_config.architecture
    return InferenceWrapperConfig(
        hidden_size=a.hidden_size,
        params_dtype=torch_dtype(worker_config.dtype),
        inference_batch_times_seqlen_threshold=-1,
        padded_vocab_size=a.vocab_size,
        inference_max_requests=limits.max_sequences,
        inference_max_seq_length=limits.context_length + 1,
    )
