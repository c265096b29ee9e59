"""Requests inside an engine that schedules by itself: it forwards and caches, the launcher samples every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Protocol

from launcher.engines.base import EngineState, Finish, GenerationRequest, Sampling, TokenLogprob, TokenOutput
from launcher.engines.runtime.sampling import Sampler, SampleRequest, ScoreRequest, choose
from launcher.engines.runtime.scheduler import SchedulerConfig, SchedulerOutput

if TYPE_CHECKING:
    from torch import Tensor


class ExternalEngine(Protocol):
    """An engine with its own scheduler and cache, which identifies requests by number."""

    kv_tokens: int

    def add(self, number: int, prompt: Sequence[int], room: int) -> None:
        """Queue a request for at most ``room`` tokens."""
        ...

    def withdraw(self, number: int) -> bool:
        """Withdraw a request that has not started; False if it has."""
        ...

    def step(self) -> None:
        """Compute one step; call the tracker's ``rows``, then ``choose``, then ``take_finished``."""
        ...

    def unfinished(self) -> bool: ...

    def waiting(self) -> int: ...

    def kv_tokens_used(self) -> int: ...


@dataclass
class TrackedRequest:
    """A running request: its sampler, its progress, and the log-probabilities of its prompt."""

    request: GenerationRequest
    sample: SampleRequest
    prompt_logprobs: list[TokenLogprob]
    generated: int = 0
    started: bool = False

    @property
    def unscored(self) -> Sequence[int]:
        """The prompt tokens whose requested log-probabilities are not computed yet."""
        wanted = self.request.sampling.prompt_logprobs is not None and len(self.prompt_logprobs) < len(
            self.request.prompt
        )
        return self.request.prompt[1:] if wanted else ()


@dataclass
class StepContext:
    """What one step needs from the logits: prompts to score, then one token per sequence (None: discarded)."""

    scored: list[tuple[TrackedRequest, ScoreRequest]] = field(default_factory=list)
    drawn: list[tuple[int, TrackedRequest | None]] = field(default_factory=list)


class RequestTracker:
    """Replaces the `Scheduler` for the driver; not thread-safe.

    It samples with the launcher's own settings, random numbers and log-probabilities, so that a request gets the same
    answer as from the portable runtime.
    """

    def __init__(self, limits: SchedulerConfig, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._limits = limits
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._engine: ExternalEngine
        self._next_number = count()
        self._tracked: dict[int, TrackedRequest] = {}
        self._numbers: dict[str, int] = {}
        self._finished: set[int] = set()
        self._step = StepContext()
        self._events: list[tuple[TrackedRequest, TokenOutput]] = []
        self._prompt_tokens = self._generated = self._steps = 0

    def attach(self, engine: ExternalEngine) -> None:
        """Set the engine that computes; it is constructed after its tracker."""
        self._engine = engine

    @property
    def idle(self) -> bool:
        return not self._engine.unfinished()

    def add(self, request: GenerationRequest) -> TrackedRequest:
        s, number = request.sampling, next(self._next_number)
        prompt_logprobs = [] if s.prompt_logprobs is None else [TokenLogprob(request.prompt[0])]
        sample = SampleRequest(Sampler(s, request.constraint))
        tracked = self._tracked[number] = TrackedRequest(request, sample, prompt_logprobs)
        self._numbers[request.id] = number
        self._prompt_tokens += len(request.prompt)
        # The last token is never read, so one more than the context fits.
        room = self._limits.context_length + 1 - len(request.prompt)
        self._engine.add(number, request.prompt, min(max(1, s.max_tokens), room))
        return tracked

    def drop(self, request_id: str) -> None:
        number = self._numbers.pop(request_id, None)
        if number is not None:
            del self._tracked[number]
            if not self._engine.withdraw(number):
                self._finished.add(number)

    def state(self) -> EngineState:
        waiting = self._engine.waiting()
        return EngineState(
            running=max(0, len(self._tracked) - waiting),
            queued=waiting,
            kv_tokens_used=self._engine.kv_tokens_used(),
            kv_tokens_total=self._engine.kv_tokens,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            steps=self._steps,
        )

    def schedule(self) -> tuple[None, list[tuple[TrackedRequest, TokenOutput]]]:
        """Let the engine compute a step, and return the new output of each sequence; the driver executes nothing."""
        self._events = []
        self._engine.step()
        self._steps += 1
        return None, self._events

    def postprocess(
        self, step: SchedulerOutput, results: Sequence[TokenLogprob]
    ) -> list[tuple[TrackedRequest, TokenOutput]]:
        raise NotImplementedError("the engine schedules its own steps; `schedule` returns none to execute")

    def rows(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return which tokens of a step need logits; request ``numbers[i]`` has ``lengths[i]`` tokens in it."""
        self._step = StepContext()
        scored: list[int] = []
        drawn: list[int] = []
        begin = 0
        for number, length in zip(numbers, lengths, strict=True):
            tracked = self._tracked.get(number)
            if tracked is not None and (targets := tracked.unscored):
                self._step.scored.append(
                    (tracked, ScoreRequest(targets, tracked.request.sampling.prompt_logprobs or 0))
                )
                scored += range(begin, begin + len(targets))
            begin += length
            self._step.drawn.append((number, tracked))
            drawn.append(begin - 1)
        return scored + drawn

    def choose(self, logits: Tensor) -> list[int]:
        """Return each sequence's next token from the logits [rows, vocabulary] that `rows` asked for."""
        draws = [
            _discard_sampler() if m is None or not m.request.sampling.max_tokens else m.sample
            for _, m in self._step.drawn
        ]
        found = iter(choose(logits, [score for _, score in self._step.scored], draws, self._vocab_size))
        for tracked, score in self._step.scored:
            tracked.prompt_logprobs += [next(found) for _ in score.targets]
        tokens = list(found)
        for (number, requested), token in zip(self._step.drawn, tokens, strict=True):
            if requested is not None:
                self._emit(number, requested, token)
        return [t.token for t in tokens]

    def take_finished(self, numbers: Sequence[int]) -> set[int]:
        """Return which of these the engine must remove after its current step."""
        finished = self._finished.intersection(numbers)
        self._finished -= finished
        return finished

    def _emit(self, number: int, tracked: TrackedRequest, token: TokenLogprob) -> None:
        wanted = tracked.request.sampling.max_tokens > 0
        tracked.generated += wanted
        self._generated += wanted
        finish = self._finish(tracked, token.token)
        prompt = tuple(tracked.prompt_logprobs) if tracked.prompt_logprobs and not tracked.started else None
        tracked.started = True
        self._events.append((tracked, TokenOutput((token,) if wanted else (), prompt, finish)))
        if finish is not None:
            del self._tracked[number]
            self._numbers.pop(tracked.request.id, None)
            self._finished.add(number)

    def _finish(self, tracked: TrackedRequest, token: int) -> Finish | None:
        s = tracked.request.sampling
        if s.max_tokens and token in self._eos_ids and not s.ignore_eos:
            return "stop"
        full = len(tracked.request.prompt) + tracked.generated >= self._limits.context_length
        return "length" if full or tracked.generated >= s.max_tokens else None


def _discard_sampler() -> SampleRequest:
    """Return a greedy sampler for a token that the engine requires and no request reads."""
    return SampleRequest(Sampler(Sampling(temperature=0.0)))
