"""Requests inside an engine that schedules by itself: it forwards and keeps the cache, we choose every token."""

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
    """An engine with a scheduler and a cache of its own, which knows requests by number."""

    kv_tokens: int

    def add(self, number: int, prompt: Sequence[int], room: int) -> None:
        """Queue a request for at most ``room`` tokens."""
        ...

    def withdraw(self, number: int) -> bool:
        """Take a request back that has not begun; False if it has."""
        ...

    def step(self) -> None:
        """Compute one step. Calls `RequestTracker.rows`, then `RequestTracker.choose`, then `RequestTracker.ended`."""
        ...

    def unfinished(self) -> bool: ...

    def waiting(self) -> int: ...

    def kv_tokens_used(self) -> int: ...


@dataclass
class TrackedRequest:
    """A request under way: how it samples, what it has said, and the log-probabilities of its prompt."""

    request: GenerationRequest
    draw: SampleRequest
    entries: list[TokenLogprob]
    generated: int = 0
    said: bool = False

    @property
    def unscored(self) -> Sequence[int]:
        """The prompt's tokens whose log-probabilities are wanted and not known yet."""
        wanted = self.request.sampling.prompt_logprobs is not None and len(self.entries) < len(self.request.prompt)
        return self.request.prompt[1:] if wanted else ()


@dataclass
class StepContext:
    """What one step asks of the logits: prompts to score, then a token for each sequence (None: nobody wants it)."""

    scored: list[tuple[TrackedRequest, ScoreRequest]] = field(default_factory=list)
    drawn: list[tuple[int, TrackedRequest | None]] = field(default_factory=list)


class RequestTracker:
    """Takes the scheduler's place towards the driver; not thread-safe.

    Settings, random numbers and log-probabilities are our own, so that what a request asks for is answered as by the
    portable runtime.
    """

    def __init__(self, limits: SchedulerConfig, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._limits = limits
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._engine: ExternalEngine
        self._next = count()
        self._members: dict[int, TrackedRequest] = {}
        self._numbers: dict[str, int] = {}
        self._over: set[int] = set()
        self._turn = StepContext()
        self._events: list[tuple[TrackedRequest, TokenOutput]] = []
        self._prompt_tokens = self._generated = self._steps = 0

    def attach(self, engine: ExternalEngine) -> None:
        """Say which engine computes; it is made after the batch that it asks."""
        self._engine = engine

    @property
    def idle(self) -> bool:
        return not self._engine.unfinished()

    def add(self, request: GenerationRequest) -> TrackedRequest:
        s, number = request.sampling, next(self._next)
        entries = [] if s.prompt_logprobs is None else [TokenLogprob(request.prompt[0])]
        member = self._members[number] = TrackedRequest(request, SampleRequest(Sampler(s)), entries)
        self._numbers[request.id] = number
        self._prompt_tokens += len(request.prompt)
        # The last token is never read, so one more than the context fits.
        room = self._limits.context_length + 1 - len(request.prompt)
        self._engine.add(number, request.prompt, min(max(1, s.max_tokens), room))
        return member

    def drop(self, request_id: str) -> None:
        number = self._numbers.pop(request_id, None)
        if number is not None:
            del self._members[number]
            if not self._engine.withdraw(number):
                self._over.add(number)

    def state(self) -> EngineState:
        waiting = self._engine.waiting()
        return EngineState(
            running=max(0, len(self._members) - waiting),
            queued=waiting,
            kv_tokens_used=self._engine.kv_tokens_used(),
            kv_tokens_total=self._engine.kv_tokens,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            steps=self._steps,
        )

    def plan(self) -> tuple[None, list[tuple[TrackedRequest, TokenOutput]]]:
        """Let the engine compute a step, and return what each sequence has to say; nothing is left to execute."""
        self._events = []
        self._engine.step()
        self._steps += 1
        return None, self._events

    def absorb(
        self, step: SchedulerOutput, results: Sequence[TokenLogprob]
    ) -> list[tuple[TrackedRequest, TokenOutput]]:
        raise NotImplementedError("the engine plans its own steps; `plan` returns none to execute")

    def rows(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return which tokens of a step need logits, where ``numbers`` have ``lengths`` tokens in it, in that order."""
        self._turn = StepContext()
        scored: list[int] = []
        drawn: list[int] = []
        begin = 0
        for number, length in zip(numbers, lengths, strict=True):
            member = self._members.get(number)
            if member is not None and (targets := member.unscored):
                self._turn.scored.append((member, ScoreRequest(targets, member.request.sampling.prompt_logprobs or 0)))
                scored += range(begin, begin + len(targets))
            begin += length
            self._turn.drawn.append((number, member))
            drawn.append(begin - 1)
        return scored + drawn

    def choose(self, logits: Tensor) -> list[int]:
        """Return each sequence's next token from the logits [rows, vocabulary] that `rows` asked for."""
        draws = [_nobody() if m is None or not m.request.sampling.max_tokens else m.draw for _, m in self._turn.drawn]
        found = iter(choose(logits, [score for _, score in self._turn.scored], draws, self._vocab_size))
        for member, score in self._turn.scored:
            member.entries += [next(found) for _ in score.targets]
        tokens = list(found)
        for (number, wanting), token in zip(self._turn.drawn, tokens, strict=True):
            if wanting is not None:
                self._say(number, wanting, token)
        return [t.token for t in tokens]

    def ended(self, numbers: Sequence[int]) -> set[int]:
        """Return which of these the engine should forget now, after the step that it is in."""
        over = self._over.intersection(numbers)
        self._over -= over
        return over

    def _say(self, number: int, member: TrackedRequest, token: TokenLogprob) -> None:
        wanted = member.request.sampling.max_tokens > 0
        member.generated += wanted
        self._generated += wanted
        finish = self._finish(member, token.token)
        prompt = tuple(member.entries) if member.entries and not member.said else None
        member.said = True
        self._events.append((member, TokenOutput((token,) if wanted else (), prompt, finish)))
        if finish is not None:
            del self._members[number]
            self._numbers.pop(member.request.id, None)
            self._over.add(number)

    def _finish(self, member: TrackedRequest, token: int) -> Finish | None:
        s = member.request.sampling
        if s.max_tokens and token in self._eos_ids and not s.ignore_eos:
            return "stop"
        full = len(member.request.prompt) + member.generated >= self._limits.context_length
        return "length" if full or member.generated >= s.max_tokens else None


def _nobody() -> SampleRequest:
    """A draw that uses no random number: for a token that the engine insists on and nobody reads."""
    return SampleRequest(Sampler(Sampling(temperature=0.0)))
