"""Iteration-level scheduling: which tokens of which sequences are computed in the next step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from launcher.engines.base import EngineState, Finish, GenerationRequest, TokenLogprob, TokenOutput
from launcher.engines.runtime.blocks import BlockHash, BlockPool, digest
from launcher.engines.runtime.sampling import Sampler, SampleRequest, ScoreRequest, bare
from launcher.engines.runtime.step import Chunk, StepPlan


@dataclass(frozen=True)
class SchedulerConfig:
    """What bounds a batch.

    ``max_sequences`` run at the same time, ``max_queue`` more may wait. ``prefill_chunk`` prompt tokens are computed
    per step, beside one token of every sequence that is already generating. When ``aligned``, each chunk begins where
    a block of the cache does, with the tokens of that block that are computed already.
    """

    context_length: int
    max_sequences: int = 64
    max_queue: int = 1024
    prefill_chunk: int = 512
    prefix_caching: bool = True
    aligned: bool = False


class SequenceState:
    """One generation on its way: its tokens so far, its cache blocks, and how far it has been computed.

    It is complete at ``longest`` tokens, or when it draws one of ``ends``. While it is ``decoding``, its last token is
    all that is to be computed.
    """

    __slots__ = (
        *("admitted", "blocks", "decoding", "digests", "draw", "ends", "entries", "known", "longest"),
        *("next", "prompt", "request", "stored", "tokens", "top"),
    )

    def __init__(
        self, request: GenerationRequest, vocab_size: int, context_length: int, eos_ids: frozenset[int]
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.prompt = len(request.prompt)
        self.longest = min(context_length, self.prompt + sampling.max_tokens)
        self.ends = frozenset() if sampling.ignore_eos else eos_ids
        self.tokens = list(request.prompt)
        self.draw = SampleRequest(Sampler(sampling))
        self.top = None if sampling.prompt_logprobs is None else min(sampling.prompt_logprobs, vocab_size)
        self.entries = [] if self.top is None else [TokenLogprob(self.tokens[0])]
        self.digests: list[BlockHash] = []
        self.admitted = False
        self.reset()

    def reset(self) -> None:
        """Forget what was computed, but not what was generated."""
        self.blocks: list[int] = []
        self.next = 0
        self.stored = 0
        self.known = 0
        self.decoding = False

    @property
    def scoring(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be computed."""
        return self.top is not None and len(self.entries) < self.prompt

    @property
    def goal(self) -> int:
        """The position up to which to compute; nothing follows the last token when none is to be generated."""
        return len(self.tokens) - (self.request.sampling.max_tokens == 0)

    def contents(self, block_size: int) -> list[BlockHash]:
        """Return the digests of all full blocks so far."""
        while (end := (len(self.digests) + 1) * block_size) <= len(self.tokens):
            before = self.digests[-1] if self.digests else b""
            self.digests.append(digest(before, self.tokens[end - block_size : end]))
        return self.digests


@dataclass(slots=True)
class ScheduledSequence:
    """What one sequence does in one step: its chunk, the prompt tokens it scores, and whether it draws."""

    running: SequenceState
    chunk: Chunk
    score: ScoreRequest | None
    draws: bool


@dataclass(slots=True)
class SchedulerOutput:
    """A plan for the executor, and the jobs that its results belong to."""

    plan: StepPlan
    jobs: list[ScheduledSequence]
    scores: list[ScoreRequest]
    draws: list[SampleRequest]

    @property
    def prefills(self) -> bool:
        """Whether it computes more than one token of some sequence; the longest chunk is the last."""
        return len(self.plan.chunks[-1].tokens) > 1


Event = tuple[SequenceState, TokenOutput]


class Scheduler:
    """Decides, step by step, in the order of arrival. Holds no thread and no model; not thread-safe.

    ``eos_ids`` end a sequence. The pool must hold at least one sequence of ``limits.context_length`` tokens.
    """

    def __init__(
        self, limits: SchedulerConfig, pool: BlockPool, block_size: int, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        held, least = pool.total * block_size, limits.context_length
        if held < least:
            raise ValueError(f"a cache of {held} tokens is less than one context of {least}")
        self._limits = limits
        self._pool = pool
        self._size = block_size
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
        """Queue a generation. Whether there is room is for the caller to say."""
        running = SequenceState(request, self._vocab_size, self._limits.context_length, self._eos_ids)
        self._waiting[request.id] = running
        return running

    def drop(self, request_id: str) -> None:
        """Forget a generation wherever it is; does nothing when it has finished."""
        self._waiting.pop(request_id, None)
        running = self._running.pop(request_id, None)
        if running is not None:
            self._free(running)

    def state(self) -> EngineState:
        return EngineState(
            running=len(self._running),
            queued=len(self._waiting),
            kv_tokens_used=(self._pool.total - self._pool.free) * self._size,
            kv_tokens_total=self._pool.total * self._size,
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_cached=self._prompt_cached,
            generated_tokens=self._generated,
            steps=self._steps,
        )

    def plan(self) -> tuple[SchedulerOutput | None, list[Event]]:
        """Return the next step, or None if there is nothing to compute, and what finished without computing."""
        jobs: list[ScheduledSequence] = []
        done: list[Event] = []
        budget = self._limits.prefill_chunk
        for running in list(self._running.values()):
            if running.decoding:
                if job := self._decode(running):
                    jobs.append(job)
            elif running.request.id in self._running and (job := self._prefill(running, budget)):
                budget -= len(job.chunk.tokens)
                jobs.append(job)
        while budget > 0 and (admitted := self._admit()):
            if admitted.next >= admitted.goal:
                done.append((admitted, self._finish(admitted, (), "length")))
                continue
            if job := self._prefill(admitted, budget):
                budget -= len(job.chunk.tokens)
                jobs.append(job)
        if not jobs:
            return None, done
        single = budget == self._limits.prefill_chunk and not self._limits.aligned
        return (_decodes(jobs) if single else self._step(jobs)), done

    def absorb(self, step: SchedulerOutput, results: Sequence[TokenLogprob]) -> list[Event]:
        """Take the executor's results of a step, and return what each sequence has to say."""
        self._steps += 1
        scored = iter(results[: len(results) - len(step.draws)])
        drawn = iter(results[len(results) - len(step.draws) :])
        events: list[Event] = []
        for job in step.jobs:
            running = job.running
            running.next = reached = job.chunk.start + len(job.chunk.tokens)
            if running.stored < reached:
                running.stored = reached
            if job.score is not None:
                running.entries += [next(scored) for _ in job.score.targets]
            token = next(drawn) if job.draws else None
            if self._limits.prefix_caching:
                self._remember(running)
            if running.decoding or reached >= running.goal:
                events.append((running, self._progress(running, token)))
        return events

    def _decode(self, running: SequenceState) -> ScheduledSequence | None:
        """Return the next step of a sequence that generates; one that finds no cache block gives way instead."""
        at = running.next
        if at >= len(running.blocks) * self._size and not self._extend(running):
            return None
        at = self._beginning(at)
        return ScheduledSequence(
            running, Chunk(running.tokens[at:], at, running.stored, running.blocks), None, draws=True
        )

    def _beginning(self, at: int) -> int:
        """Return where a chunk begins whose first new token is at position ``at``."""
        return at - at % self._size if self._limits.aligned else at

    def _prefill(self, running: SequenceState, budget: int) -> ScheduledSequence | None:
        """Return the next chunk of what is known of a sequence, of at most ``budget`` tokens."""
        length = min(budget, running.goal - running.next)
        return self._job(running, length) if length > 0 else None

    def _extend(self, running: SequenceState) -> bool:
        """Give a sequence one more block, taking those of the youngest when none is left; False if that is itself."""
        while not self._pool.free:
            youngest = next(reversed(self._running.values()))
            self._preempt(youngest)
            if youngest is running:
                return False
        running.blocks.append(self._pool.take())
        return True

    def _preempt(self, running: SequenceState) -> None:
        del self._running[running.request.id]
        self._free(running)
        running.reset()
        self._waiting[running.request.id] = running
        self._waiting.move_to_end(running.request.id, last=False)

    def _admit(self) -> SequenceState | None:
        """Move the sequence that arrived first from the queue into the batch, if there is room for it."""
        if not self._waiting or len(self._running) >= self._limits.max_sequences:
            return None
        running = next(iter(self._waiting.values()))
        if not self._place(running):
            return None
        del self._waiting[running.request.id]
        self._running[running.request.id] = running
        if not running.admitted:
            running.admitted = True
            self._prompt_tokens += running.prompt
            self._prompt_cached += running.stored
        return running

    def _place(self, running: SequenceState) -> bool:
        """Give a sequence the blocks of all its tokens, shared ones where their content is remembered."""
        contents = running.contents(self._size) if self._limits.prefix_caching else []
        shared = self._pool.find(contents, running.top if running.scoring else None)
        if len(shared) < len(contents) and self._awaited(contents[len(shared)], running):
            return False
        self._pool.share(shared)
        needed = -(-running.goal // self._size) - len(shared)
        if needed + len(self._running) > self._pool.free and self._running:
            self._pool.release(shared)
            return False
        running.blocks = shared + [self._pool.take() for _ in range(needed)]
        self._begin(running, contents, len(shared))
        return True

    def _awaited(self, content: BlockHash, running: SequenceState) -> bool:
        """Whether a running sequence is about to compute this very block: better to wait than to compute it twice."""
        other = self._computing.get(content)
        return other is not None and (not running.scoring or (other.scoring and (other.top or 0) >= (running.top or 0)))

    def _begin(self, running: SequenceState, contents: Sequence[BlockHash], shared: int) -> None:
        """Set where to start: behind what is shared, but early enough for every row whose logits are needed."""
        running.known = shared
        running.stored = shared * self._size
        if running.scoring:
            for block in range(len(running.entries) // self._size, shared):
                self._recall(running, block, contents[block])
        running.next = self._first(running)
        for content in contents[shared:]:
            self._computing.setdefault(content, running)

    def _first(self, running: SequenceState) -> int:
        if running.scoring:
            return min(running.stored, len(running.entries) - 1)
        if running.request.sampling.max_tokens == 0:
            return running.goal
        return min(running.stored, len(running.tokens) - 1)

    def _recall(self, running: SequenceState, block: int, content: BlockHash) -> None:
        """Take the log-probabilities of a block's prompt tokens from the cache."""
        known = self._pool.logprobs(content)[len(running.entries) - block * self._size :]
        room = running.prompt - len(running.entries)
        running.entries += [TokenLogprob(e.token, e.logprob, e.top[: running.top]) for e in known[:room]]

    def _job(self, running: SequenceState, length: int) -> ScheduledSequence:
        start, end = self._beginning(running.next), running.next + length
        chunk = Chunk(running.tokens[start:end], start, running.stored, running.blocks)
        score = None
        if running.scoring and (targets := running.tokens[len(running.entries) : min(end + 1, running.prompt)]):
            score = ScoreRequest(targets, running.top or 0)
        return ScheduledSequence(running, chunk, score, end == len(running.tokens))

    def _step(self, jobs: list[ScheduledSequence]) -> SchedulerOutput:
        """Put jobs of like size side by side, so that the model can compute them together."""
        jobs.sort(key=lambda job: (len(job.chunk.tokens), job.chunk.start))
        rows: list[int] = []
        draw_rows: list[int] = []
        begin = 0
        for job in jobs:
            end = begin + len(job.chunk.tokens)
            if job.score is not None:
                first = begin + len(job.running.entries) - 1 - job.chunk.start
                rows += range(first, first + len(job.score.targets))
            if job.draws:
                draw_rows.append(end - 1)
            begin = end
        plan = StepPlan([job.chunk for job in jobs], rows + draw_rows)
        scores = [job.score for job in jobs if job.score is not None]
        return SchedulerOutput(plan, jobs, scores, [job.running.draw for job in jobs if job.draws])

    def _remember(self, running: SequenceState) -> None:
        """Make the blocks that this step filled known by their content."""
        full = running.next // self._size
        if full <= running.known:
            return
        contents = running.contents(self._size)
        for block in range(running.known, full):
            entries = running.entries[block * self._size : (block + 1) * self._size]
            logprobs = entries if len(entries) == self._size else None
            self._pool.remember(running.blocks[block], contents[block], logprobs)
            if self._computing.get(contents[block]) is running:
                del self._computing[contents[block]]
        running.known = full

    def _progress(self, running: SequenceState, token: TokenLogprob | None) -> TokenOutput:
        """Note a drawn token, and finish the sequence when it is complete."""
        if token is None:
            return self._finish(running, (), "length")
        running.tokens.append(token.token)
        running.decoding = True
        self._generated += 1
        if token.token in running.ends:
            return self._finish(running, (token,), "stop")
        if len(running.tokens) >= running.longest:
            return self._finish(running, (token,), "length")
        if running.top is None and token.logprob is None:
            return _said(token.token)
        return self._tokens(running, (token,), None)

    def _finish(self, running: SequenceState, tokens: tuple[TokenLogprob, ...], finish: Finish) -> TokenOutput:
        del self._running[running.request.id]
        self._free(running)
        return self._tokens(running, tokens, finish)

    def _tokens(self, running: SequenceState, tokens: tuple[TokenLogprob, ...], finish: Finish | None) -> TokenOutput:
        if running.top is None or len(running.tokens) - running.prompt != len(tokens):
            return TokenOutput(tokens, None, finish)
        return TokenOutput(tokens, tuple(running.entries), finish)

    def _free(self, running: SequenceState) -> None:
        self._pool.release(running.blocks)
        for content in running.digests[running.known :]:
            if self._computing.get(content) is running:
                del self._computing[content]


def _decodes(jobs: list[ScheduledSequence]) -> SchedulerOutput:
    """Make a step of sequences that all generate: each draws from its only row."""
    jobs.sort(key=_start)
    return SchedulerOutput(
        StepPlan([job.chunk for job in jobs], range(len(jobs))), jobs, [], [job.running.draw for job in jobs]
    )


def _start(job: ScheduledSequence) -> int:
    return job.chunk.start


@cache
def _said(token: int) -> TokenOutput:
    """Return the event of one token of which nothing more is said; most are of this kind."""
    return TokenOutput((bare(token),))
