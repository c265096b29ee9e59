"""Iteration-level scheduling: which tokens of which sequences are computed in the next step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from launcher.engines.base import EngineState, Finish, GenerationRequest, TokenLogprob, TokenOutput
from launcher.engines.runtime.blocks import BlockHash, BlockPool, hash_block
from launcher.engines.runtime.sampling import Sampler, SampleRequest, ScoreRequest, plain_token
from launcher.engines.runtime.step import Chunk, StepPlan


@dataclass(frozen=True)
class SchedulerConfig:
    """The bounds of a batch.

    ``max_sequences`` run at the same time, ``max_queue`` more may wait. ``prefill_chunk`` prompt tokens are computed
    per step, beside one token of every sequence that is already generating. When ``aligned``, each chunk begins
    where a block of the cache does, and computes the earlier tokens of that block again.
    """

    context_length: int
    max_sequences: int = 64
    max_queue: int = 1024
    prefill_chunk: int = 512
    prefix_caching: bool = True
    aligned: bool = False


class SequenceState:
    """One running generation: its tokens so far, its cache blocks, and how far it has been computed.

    It is complete at ``max_len`` tokens, or when it draws one of ``stop_token_ids``. While it is ``decoding``, only its
    last token is left to compute. The keys and values of ``num_cached_tokens`` are in the cache. Those beyond
    ``num_computed_tokens`` are computed again, for their logits.
    """

    __slots__ = (
        *(
            "admitted",
            "blocks",
            "decoding",
            "block_hashes",
            "sample",
            "stop_token_ids",
            "prompt_logprobs",
            "num_hashed_blocks",
            "max_len",
        ),
        *("num_computed_tokens", "prompt_len", "request", "num_cached_tokens", "tokens", "top"),
    )

    def __init__(
        self, request: GenerationRequest, vocab_size: int, context_length: int, eos_ids: frozenset[int]
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.prompt_len = len(request.prompt)
        self.max_len = min(context_length, self.prompt_len + sampling.max_tokens)
        self.stop_token_ids = frozenset() if sampling.ignore_eos else eos_ids
        self.tokens = list(request.prompt)
        self.sample = SampleRequest(Sampler(sampling, request.constraint))
        self.top = None if sampling.prompt_logprobs is None else min(sampling.prompt_logprobs, vocab_size)
        self.prompt_logprobs = [] if self.top is None else [TokenLogprob(self.tokens[0])]
        self.block_hashes: list[BlockHash] = []
        self.admitted = False
        self.reset()

    def reset(self) -> None:
        """Drop what was computed; keep what was generated."""
        self.blocks: list[int] = []
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_hashed_blocks = 0
        self.decoding = False

    @property
    def scoring(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be computed."""
        return self.top is not None and len(self.prompt_logprobs) < self.prompt_len

    @property
    def target_len(self) -> int:
        """The position up to which to compute; nothing follows the last token when none is to be generated."""
        return len(self.tokens) - (self.request.sampling.max_tokens == 0)

    def hash_full_blocks(self, block_size: int) -> list[BlockHash]:
        """Return the hashes of all full blocks so far."""
        while (end := (len(self.block_hashes) + 1) * block_size) <= len(self.tokens):
            before = self.block_hashes[-1] if self.block_hashes else b""
            self.block_hashes.append(hash_block(before, self.tokens[end - block_size : end]))
        return self.block_hashes


@dataclass(slots=True)
class ScheduledSequence:
    """What one sequence does in one step: its chunk, the prompt tokens it scores, and whether it draws."""

    sequence: SequenceState
    chunk: Chunk
    score: ScoreRequest | None
    draws: bool


@dataclass(slots=True)
class SchedulerOutput:
    """A plan for the executor, and the sequences that its results belong to."""

    plan: StepPlan
    scheduled: list[ScheduledSequence]
    scores: list[ScoreRequest]
    draws: list[SampleRequest]
    plain: bool = False
    """Whether each sequence computes and draws one token."""

    @property
    def prefills(self) -> bool:
        """Whether any sequence computes more than one token; the longest chunk is the last."""
        return len(self.plan.chunks[-1].tokens) > 1


Event = tuple[SequenceState, TokenOutput]


class Scheduler:
    """Decides, step by step, in the order of arrival. Holds no thread and no model; not thread-safe.

    ``eos_ids`` end a sequence. The pool must hold at least one sequence of ``limits.context_length`` tokens.
    """

    def __init__(
        self, limits: SchedulerConfig, pool: BlockPool, block_size: int, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        held, least = pool.num_usable * block_size, limits.context_length
        if held < least:
            raise ValueError(f"a cache of {held} tokens is less than one context of {least}")
        self._limits = limits
        self._pool = pool
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._waiting: OrderedDict[str, SequenceState] = OrderedDict()
        self._running: dict[str, SequenceState] = {}
        self._computing: dict[BlockHash, SequenceState] = {}
        self._prompt_tokens = self._prompt_cached = self._generated = self._steps = 0

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def add(self, request: GenerationRequest) -> SequenceState:
        """Queue a generation; the caller checks the length of the queue."""
        sequence = SequenceState(request, self._vocab_size, self._limits.context_length, self._eos_ids)
        self._waiting[request.id] = sequence
        return sequence

    def drop(self, request_id: str) -> None:
        """Remove a generation, waiting or running; does nothing when it has finished."""
        self._waiting.pop(request_id, None)
        sequence = self._running.pop(request_id, None)
        if sequence is not None:
            self._free(sequence)

    def state(self) -> EngineState:
        return EngineState(
            running=len(self._running),
            queued=len(self._waiting),
            kv_tokens_used=(self._pool.num_usable - self._pool.num_free) * self._block_size,
            kv_tokens_total=self._pool.num_usable * self._block_size,
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_cached=self._prompt_cached,
            generated_tokens=self._generated,
            steps=self._steps,
        )

    def schedule(self) -> tuple[SchedulerOutput | None, list[Event]]:
        """Return the next step, or None if there is nothing to compute, and what finished without computing."""
        scheduled: list[ScheduledSequence] = []
        done: list[Event] = []
        budget = self._limits.prefill_chunk
        for sequence in list(self._running.values()):
            if sequence.decoding:
                if item := self._schedule_decode(sequence):
                    scheduled.append(item)
            elif sequence.request.id in self._running and (item := self._schedule_prefill(sequence, budget)):
                budget -= len(item.chunk.tokens)
                scheduled.append(item)
        while budget > 0 and (admitted := self._admit()):
            if admitted.num_computed_tokens >= admitted.target_len:
                done.append((admitted, self._finish(admitted, (), "length")))
                continue
            if item := self._schedule_prefill(admitted, budget):
                budget -= len(item.chunk.tokens)
                scheduled.append(item)
        if not scheduled:
            return None, done
        single = budget == self._limits.prefill_chunk and not self._limits.aligned
        return (_decode_output(scheduled) if single else self._mixed_output(scheduled)), done

    def postprocess(self, step: SchedulerOutput, results: Sequence[TokenLogprob]) -> list[Event]:
        """Take the executor's results of a step, and return the new output of each sequence."""
        self._steps += 1
        if step.plain:
            return [
                (item.sequence, self._decoded(item.sequence, token))
                for item, token in zip(step.scheduled, results, strict=True)
            ]
        scored = iter(results[: len(results) - len(step.draws)])
        drawn = iter(results[len(results) - len(step.draws) :])
        events: list[Event] = []
        for item in step.scheduled:
            sequence = item.sequence
            sequence.num_computed_tokens = reached = item.chunk.start + len(item.chunk.tokens)
            if sequence.num_cached_tokens < reached:
                sequence.num_cached_tokens = reached
            if item.score is not None:
                sequence.prompt_logprobs += [next(scored) for _ in item.score.targets]
            token = next(drawn) if item.draws else None
            if self._limits.prefix_caching:
                self._cache_full_blocks(sequence)
            if sequence.decoding or reached >= sequence.target_len:
                events.append((sequence, self._append_token(sequence, token)))
        return events

    def _decoded(self, sequence: SequenceState, token: TokenLogprob) -> TokenOutput:
        """Take the token that a sequence drew after its last one."""
        sequence.num_computed_tokens = reached = len(sequence.tokens)
        if sequence.num_cached_tokens < reached:
            sequence.num_cached_tokens = reached
        if self._limits.prefix_caching and reached % self._block_size == 0:
            self._cache_full_blocks(sequence)
        return self._append_token(sequence, token)

    def _schedule_decode(self, sequence: SequenceState) -> ScheduledSequence | None:
        """Return the next step of a sequence that generates; None if no cache block is left and it was preempted."""
        at = sequence.num_computed_tokens
        if at >= len(sequence.blocks) * self._block_size and not self._append_block(sequence):
            return None
        at = self._chunk_start(at)
        chunk = Chunk(sequence.tokens[at:], at, sequence.num_cached_tokens, sequence.blocks)
        return ScheduledSequence(sequence, chunk, None, True)

    def _chunk_start(self, at: int) -> int:
        """Return where a chunk begins whose first new token is at position ``at``."""
        return at - at % self._block_size if self._limits.aligned else at

    def _schedule_prefill(self, sequence: SequenceState, budget: int) -> ScheduledSequence | None:
        """Return the next chunk of at most ``budget`` tokens that a sequence already has."""
        length = min(budget, sequence.target_len - sequence.num_computed_tokens)
        return self._schedule_chunk(sequence, length) if length > 0 else None

    def _append_block(self, sequence: SequenceState) -> bool:
        """Allocate one block, preempting the youngest sequences while none is free; False if this one was preempted."""
        while not self._pool.num_free:
            youngest = next(reversed(self._running.values()))
            self._preempt(youngest)
            if youngest is sequence:
                return False
        sequence.blocks.append(self._pool.allocate())
        return True

    def _preempt(self, sequence: SequenceState) -> None:
        del self._running[sequence.request.id]
        self._free(sequence)
        sequence.reset()
        self._waiting[sequence.request.id] = sequence
        self._waiting.move_to_end(sequence.request.id, last=False)

    def _admit(self) -> SequenceState | None:
        """Move the sequence that arrived first from the queue into the batch, if there is room for it."""
        if not self._waiting or len(self._running) >= self._limits.max_sequences:
            return None
        sequence = next(iter(self._waiting.values()))
        if not self._allocate(sequence):
            return None
        del self._waiting[sequence.request.id]
        self._running[sequence.request.id] = sequence
        if not sequence.admitted:
            sequence.admitted = True
            self._prompt_tokens += sequence.prompt_len
            self._prompt_cached += sequence.num_cached_tokens
        return sequence

    def _allocate(self, sequence: SequenceState) -> bool:
        """Allocate the blocks of all tokens of a sequence; cached blocks with equal tokens are shared."""
        block_hashes = sequence.hash_full_blocks(self._block_size) if self._limits.prefix_caching else []
        shared = self._pool.match_prefix(block_hashes, sequence.top if sequence.scoring else None)
        if len(shared) < len(block_hashes) and self._is_being_computed(block_hashes[len(shared)], sequence):
            return False
        self._pool.incref(shared)
        needed = -(-sequence.target_len // self._block_size) - len(shared)
        if needed + len(self._running) > self._pool.num_free and self._running:
            self._pool.free(shared)
            return False
        sequence.blocks = shared + [self._pool.allocate() for _ in range(needed)]
        self._set_start(sequence, block_hashes, len(shared))
        return True

    def _is_being_computed(self, block_hash: BlockHash, sequence: SequenceState) -> bool:
        """Whether another sequence is about to compute the same block, which is then worth waiting for."""
        other = self._computing.get(block_hash)
        return other is not None and (
            not sequence.scoring or (other.scoring and (other.top or 0) >= (sequence.top or 0))
        )

    def _set_start(self, sequence: SequenceState, block_hashes: Sequence[BlockHash], shared: int) -> None:
        """Set where to start: after the shared blocks, but early enough for every row whose logits are needed."""
        sequence.num_hashed_blocks = shared
        sequence.num_cached_tokens = shared * self._block_size
        if sequence.scoring:
            for block in range(len(sequence.prompt_logprobs) // self._block_size, shared):
                self._reuse_logprobs(sequence, block, block_hashes[block])
        sequence.num_computed_tokens = self._first_position(sequence)
        for block_hash in block_hashes[shared:]:
            self._computing.setdefault(block_hash, sequence)

    def _first_position(self, sequence: SequenceState) -> int:
        if sequence.scoring:
            return min(sequence.num_cached_tokens, len(sequence.prompt_logprobs) - 1)
        if sequence.request.sampling.max_tokens == 0:
            return sequence.target_len
        return min(sequence.num_cached_tokens, len(sequence.tokens) - 1)

    def _reuse_logprobs(self, sequence: SequenceState, block: int, block_hash: BlockHash) -> None:
        """Take the log-probabilities of a block's prompt tokens from the cache."""
        known = self._pool.logprobs(block_hash)[len(sequence.prompt_logprobs) - block * self._block_size :]
        room = sequence.prompt_len - len(sequence.prompt_logprobs)
        sequence.prompt_logprobs += [TokenLogprob(e.token, e.logprob, e.top[: sequence.top]) for e in known[:room]]

    def _schedule_chunk(self, sequence: SequenceState, length: int) -> ScheduledSequence:
        start, end = self._chunk_start(sequence.num_computed_tokens), sequence.num_computed_tokens + length
        chunk = Chunk(sequence.tokens[start:end], start, sequence.num_cached_tokens, sequence.blocks)
        score = None
        if sequence.scoring and (
            targets := sequence.tokens[len(sequence.prompt_logprobs) : min(end + 1, sequence.prompt_len)]
        ):
            score = ScoreRequest(targets, sequence.top or 0)
        return ScheduledSequence(sequence, chunk, score, end == len(sequence.tokens))

    def _mixed_output(self, scheduled: list[ScheduledSequence]) -> SchedulerOutput:
        """Sort by chunk length, so that the model can compute chunks of equal length together."""
        scheduled.sort(key=lambda item: (len(item.chunk.tokens), item.chunk.start))
        rows: list[int] = []
        draw_rows: list[int] = []
        begin = 0
        for item in scheduled:
            end = begin + len(item.chunk.tokens)
            if item.score is not None:
                first = begin + len(item.sequence.prompt_logprobs) - 1 - item.chunk.start
                rows += range(first, first + len(item.score.targets))
            if item.draws:
                draw_rows.append(end - 1)
            begin = end
        plan = StepPlan([item.chunk for item in scheduled], rows + draw_rows)
        scores = [item.score for item in scheduled if item.score is not None]
        return SchedulerOutput(plan, scheduled, scores, [item.sequence.sample for item in scheduled if item.draws])

    def _cache_full_blocks(self, sequence: SequenceState) -> None:
        """Add the blocks that this step filled to the prefix cache."""
        full = sequence.num_computed_tokens // self._block_size
        if full <= sequence.num_hashed_blocks:
            return
        block_hashes = sequence.hash_full_blocks(self._block_size)
        for block in range(sequence.num_hashed_blocks, full):
            entries = sequence.prompt_logprobs[block * self._block_size : (block + 1) * self._block_size]
            logprobs = entries if len(entries) == self._block_size else None
            self._pool.cache_block(sequence.blocks[block], block_hashes[block], logprobs)
            if self._computing.get(block_hashes[block]) is sequence:
                del self._computing[block_hashes[block]]
        sequence.num_hashed_blocks = full

    def _append_token(self, sequence: SequenceState, token: TokenLogprob | None) -> TokenOutput:
        """Append a drawn token, and finish the sequence when it is complete."""
        if token is None:
            return self._finish(sequence, (), "length")
        sequence.tokens.append(token.token)
        sequence.decoding = True
        self._generated += 1
        if token.token in sequence.stop_token_ids:
            return self._finish(sequence, (token,), "stop")
        if len(sequence.tokens) >= sequence.max_len:
            return self._finish(sequence, (token,), "length")
        if sequence.top is None and token.logprob is None:
            return _plain_output(token.token)
        return self._output(sequence, (token,), None)

    def _finish(self, sequence: SequenceState, tokens: tuple[TokenLogprob, ...], finish: Finish) -> TokenOutput:
        del self._running[sequence.request.id]
        self._free(sequence)
        return self._output(sequence, tokens, finish)

    def _output(self, sequence: SequenceState, tokens: tuple[TokenLogprob, ...], finish: Finish | None) -> TokenOutput:
        if sequence.top is None or len(sequence.tokens) - sequence.prompt_len != len(tokens):
            return TokenOutput(tokens, None, finish)
        return TokenOutput(tokens, tuple(sequence.prompt_logprobs), finish)

    def _free(self, sequence: SequenceState) -> None:
        self._pool.free(sequence.blocks)
        for block_hash in sequence.block_hashes[sequence.num_hashed_blocks :]:
            if self._computing.get(block_hash) is sequence:
                del self._computing[block_hash]


def _decode_output(scheduled: list[ScheduledSequence]) -> SchedulerOutput:
    """Return a step of sequences that all generate: each draws from its only row."""
    scheduled.sort(key=_start_of)
    return SchedulerOutput(
        StepPlan([item.chunk for item in scheduled], range(len(scheduled))),
        scheduled,
        [],
        [item.sequence.sample for item in scheduled],
        plain=True,
    )


def _start_of(item: ScheduledSequence) -> int:
    return item.chunk.start


@cache
def _plain_output(token: int) -> TokenOutput:
    """Return the output of one token without log-probabilities; most outputs are of this kind."""
    return TokenOutput((plain_token(token),))
