"""The echo engine: no weights, a deterministic model that repeats its prompt."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import ClassVar

from launcher.core.errors import EngineUnavailable, QueueFull, UserError
from launcher.core.ranges import Count, CountFromZero, NonNegative, SecondsFromZero
from launcher.core.tokenizer import ByteTokenizer
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import (
    AsyncEngine,
    Deployment,
    Engine,
    EngineState,
    Finish,
    GenerationRequest,
    Sampling,
    TokenLogprob,
    TokenOutput,
)
from launcher.engines.runtime.output_buffer import join
from launcher.settings.component import component
from launcher.settings.model import Model

EOS = 256
VOCAB = 257
PEAK = 8.0
"""The logit of every token that would continue an echo; the others have at most 4."""
NOISE = tuple(rank / 64 for rank in range(VOCAB))
NOISE_MASS = sum(map(math.exp, NOISE))
STRIDE, INVERSE = 31, 199
"""``STRIDE * INVERSE`` is 1 modulo the prime `VOCAB`: a token's rank, and a rank's token, are one multiplication."""
CHUNK = 64
"""The tokens of one event without simulated time."""


@component("engine/echo")
class Echo(Engine):
    """Repeats the prompt's bytes, then ends. For tests and load tests: deterministic, with a configurable speed.

    ``latency_s`` passes before the first token. ``tokens_per_second`` is the rate of each sequence (0: no limit).
    Instead, ``step_s`` may be the time of one forward pass, which gives one token to each of up to ``batch`` sequences.
    ``context_length`` is the most tokens of a prompt and its answer. ``max_sequences`` run at the same time, and
    ``max_queue`` more may wait.
    """

    context_length: Count = 4096
    latency_s: SecondsFromZero = 0.0
    tokens_per_second: NonNegative = 0.0
    step_s: SecondsFromZero = 0.0
    batch: Count = 16
    max_sequences: Count = 256
    max_queue: CountFromZero = 1024

    neutral: ClassVar[frozenset[str]] = frozenset(
        {"latency_s", "tokens_per_second", "step_s", "batch", "max_sequences", "max_queue"}
    )
    reads_files: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.step_s and self.tokens_per_second:
            raise UserError("engine.step_s and engine.tokens_per_second both set the speed; set one of them to 0")

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        size = deployment.parallelism.world_size
        if size > 1:
            raise UserError(f"parallelism: engine=echo runs in one process, got a world size of {size}")
        return {"processes": 1, "parameters": 0}

    @contextmanager
    def load(self, deployment: Deployment, allocation: Allocation) -> Iterator[EchoAsyncEngine]:
        self.plan(deployment, allocation)
        runner = EchoAsyncEngine(self, deployment.model)
        try:
            yield runner
        finally:
            runner.close()


class EchoAsyncEngine(AsyncEngine):
    """The echo model, loaded."""

    def __init__(self, engine: Echo, model: Model) -> None:
        self.model = model.name
        self.tokenizer = ByteTokenizer()
        self.tokenizer.tool_call_parser = model.tool_call_parser.value
        self.context_length = model.context_length or engine.context_length
        self.capacity = engine.max_sequences + engine.max_queue
        self._engine = engine
        self._slots = asyncio.Semaphore(engine.max_sequences)
        self._steps = Steps(engine.step_s, engine.batch)
        self._count = Counter[str]()
        self._closed = False

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        async with self._slot(request) as held:
            await asyncio.sleep(self._engine.latency_s)
            pending: list[TokenOutput] = []
            started = False
            async for event in self._events(request):
                self._note(len(event.tokens), held)
                pending.append(event)
                if request.final_only and started and not event.finish:
                    continue
                yield join(pending)
                pending, started = [], True

    def reference(self, tokens: Sequence[int]) -> list[float]:
        return [entry.logprob for entry in score(tokens, 0) if entry.logprob is not None]

    def state(self) -> EngineState:
        total = self._engine.max_sequences * self.context_length
        error = "the engine is stopped" if self._closed else None
        return EngineState(**self._count, kv_tokens_total=total, error=error, restarting=False)

    def describe(self) -> dict[str, Json]:
        return {"parameters": 0, "dtype": "fp64", "context_length": self.context_length, "pace": asdict(self._engine)}

    def close(self) -> None:
        """Refuse new requests, and end running ones at their next token."""
        self._closed = True

    async def _events(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        sampling = request.sampling
        prompt = None
        if sampling.prompt_logprobs is not None:
            prompt = tuple(score(request.prompt, sampling.prompt_logprobs))
        if sampling.max_tokens == 0:
            yield TokenOutput(prompt=prompt, finish="length")
            return
        tokens, left = continuation(request.prompt, sampling), sampling.max_tokens
        async for ready in self._pace():
            batch = tuple(islice(tokens, min(ready, left)))
            left -= len(batch)
            finish = _finish(batch, left, sampling)
            yield TokenOutput(batch, prompt, finish)
            prompt = None
            if finish:
                return

    async def _pace(self) -> AsyncIterator[int]:
        """Yield the number of tokens that are due, each time that some are."""
        rate = self._engine.tokens_per_second
        if self._engine.step_s:
            while True:
                await self._steps.next()
                yield 1
        loop = asyncio.get_running_loop()
        start, made = loop.time(), 0
        while True:
            await asyncio.sleep(max(0.0, start + (made + 1) / rate - loop.time()) if rate else 0)
            due = max(1, int((loop.time() - start) * rate) - made) if rate else CHUNK
            made += due
            yield due

    def _note(self, generated: int, held: Counter[str]) -> None:
        if self._closed:
            raise EngineUnavailable("the engine is stopping")
        count = self._count  # Counter.update takes longer than the rest of a token
        count["generated_tokens"] += generated
        count["steps"] += 1
        count["kv_tokens_used"] += generated
        held["kv_tokens_used"] += generated

    @asynccontextmanager
    async def _slot(self, request: GenerationRequest) -> AsyncIterator[Counter[str]]:
        """Wait for a slot and hold it; the counts in the yielded counter are subtracted at the end."""
        if self._closed:
            raise EngineUnavailable("the engine is stopped")
        await self._admit()
        held = Counter(running=1, kv_tokens_used=len(request.prompt))
        self._count.update(held)
        self._count["prompt_tokens"] += len(request.prompt)
        try:
            yield held
        finally:
            self._count.subtract(held)
            self._slots.release()

    async def _admit(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self._count["queued"] >= self._engine.max_queue:
            busy = f"{self._count['running']} sequences run and {self._count['queued']} wait"
            raise QueueFull(f"the queue is full: {busy}; try again later")
        self._count["queued"] += 1
        try:
            await self._slots.acquire()
        finally:
            self._count["queued"] -= 1


class Steps:
    """Consecutive forward passes: each takes ``seconds`` and serves up to ``batch`` waiting sequences."""

    def __init__(self, seconds: float, batch: int) -> None:
        self._seconds = seconds
        self._batch = batch
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def next(self) -> None:
        """Wait for one token of one sequence."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._seconds)
            served = 0
            while self._waiting and served < self._batch:
                done = self._waiting.popleft()
                if not done.done():
                    done.set_result(None)
                    served += 1


@dataclass(frozen=True, slots=True)
class Next:
    """The distribution of a next token: each token of ``best`` has the logit `PEAK`, the others pseudo-random ones."""

    best: tuple[int, ...]
    shift: int
    log_mass: float

    def logit(self, token: int) -> float:
        return PEAK if token in self.best else NOISE[(STRIDE * token + self.shift) % VOCAB]

    def entry(self, token: int, top: int) -> TokenLogprob:
        """Return the token's log-probability and the ``top`` best; of equals, the token itself comes first."""
        ranked = [(other, self.logit(other) - self.log_mass) for other in islice(self._ranked(token), top)]
        return TokenLogprob(token, self.logit(token) - self.log_mass, tuple(ranked))

    def _ranked(self, token: int) -> Iterator[int]:
        yield from sorted(self.best, key=lambda other: other != token)
        for rank in reversed(range(VOCAB)):
            other = INVERSE * (rank - self.shift) % VOCAB
            if other not in self.best:
                yield other


class History:
    """A sequence of tokens, and the distribution of the next one, which depends only on the sequence.

    The model cannot know where the prompt ended. Let the sequence be a prompt P followed by the first k tokens of P.
    An echo continues with P[k], or with the end of sequence after all of P. The best tokens are those that continue an
    echo for any such P. The true prompt's next token is always one of them, and a sequence has the same
    log-probabilities whether it was generated or given.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._borders = [0]
        self._half = 0
        self._masks: list[int] = []

    def append(self, token: int) -> None:
        """Add a token, in amortised constant time.

        A border is a prefix that is also a suffix. ``borders[n]`` is the length of the longest border of the first n
        tokens, as in Knuth, Morris and Pratt's search. ``half`` is the longest border of at most half the sequence.
        ``masks[k]`` are the tokens, as bits, that follow the first k tokens and every border of those.
        """
        size = len(self.tokens)
        self._masks.append(1 << token | (self._masks[self._borders[size]] if size else 0))
        self.tokens.append(token)
        if not size:
            self._borders.append(0)
            return
        self._borders.append(self._extended(self._borders[size], token))
        self._half = self._extended(self._half, token)
        while 2 * self._half > size + 1:
            self._half = self._borders[self._half]

    def _extended(self, border: int, token: int) -> int:
        while border and self.tokens[border] != token:
            border = self._borders[border]
        return border + (self.tokens[border] == token)

    def next(self) -> Next:
        size = len(self.tokens)
        mask = self._masks[self._half] | (1 << EOS if 2 * self._half == size else 0)
        best = tuple(_bits(mask))
        shift = (17 * self.tokens[-1] + size) % VOCAB
        lost = sum(math.exp(NOISE[(STRIDE * token + shift) % VOCAB]) for token in best)
        return Next(best, shift, math.log(NOISE_MASS - lost + len(best) * math.exp(PEAK)))


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def score(tokens: Sequence[int], top: int) -> Iterator[TokenLogprob]:
    """Yield the log-probability of each token given those before it; the first has none."""
    history = History()
    for token in tokens:
        yield history.next().entry(token, top) if history.tokens else TokenLogprob(token)
        history.append(token)


def continuation(prompt: Sequence[int], sampling: Sampling) -> Iterator[TokenLogprob]:
    """Yield the tokens that follow the prompt up to the end of sequence; endlessly with ``ignore_eos``."""
    for entry in _endless(prompt, sampling):
        yield entry
        if entry.token == EOS and not sampling.ignore_eos:
            return


def _endless(prompt: Sequence[int], sampling: Sampling) -> Iterator[TokenLogprob]:
    if _is_plain(sampling):
        yield from map(TokenLogprob, _echo(prompt, sampling))
        return
    history, used, dice = History(), Counter[int](), random.Random(sampling.seed)
    for token in prompt:
        history.append(token)
    for echo in _echo(prompt, sampling):
        after = history.next()
        token = pick(after, sampling, used, echo, dice)
        yield after.entry(token, sampling.logprobs) if sampling.logprobs is not None else TokenLogprob(token)
        history.append(token)
        used[token] += 1


def _is_plain(sampling: Sampling) -> bool:
    """Whether the request needs only the echo, without randomness or log-probabilities."""
    changed = sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty
    return sampling.temperature == 0 and sampling.logprobs is None and not changed


def _echo(prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield the prompt and the end of sequence, repeatedly; with ``ignore_eos`` only the prompt."""
    while True:
        yield from prompt
        if not sampling.ignore_eos:
            yield EOS


def pick(after: Next, sampling: Sampling, used: Counter[int], echo: int, dice: random.Random) -> int:
    """Choose a token; among equal ones ``echo`` comes first, then the lower id."""
    logits = [_adjusted(after.logit(token), token, sampling, used) for token in range(VOCAB)]
    best = max(logits)
    if sampling.temperature == 0:
        return echo if logits[echo] == best else logits.index(best)
    ranked = sorted(range(VOCAB), key=lambda token: (-logits[token], token != echo))
    weights = [math.exp((logits[token] - best) / sampling.temperature) for token in ranked]
    kept = min(sampling.top_k or VOCAB, _nucleus(weights, sampling.top_p))
    return dice.choices(ranked[:kept], weights[:kept])[0]


def _adjusted(logit: float, token: int, sampling: Sampling, used: Counter[int]) -> float:
    count = used[token]
    penalty = sampling.presence_penalty * (count > 0) + sampling.frequency_penalty * count
    return logit - penalty + sampling.logit_bias.get(token, 0.0)


def _nucleus(weights: Sequence[float], mass: float) -> int:
    """Return how many of the best weights make up the share ``mass`` of their sum."""
    if mass >= 1:
        return len(weights)
    enough, total = mass * sum(weights), 0.0
    for size, weight in enumerate(weights, start=1):
        total += weight
        if total >= enough:
            return size
    return len(weights)


def _finish(batch: Sequence[TokenLogprob], left: int, sampling: Sampling) -> Finish | None:
    if batch[-1].token == EOS and not sampling.ignore_eos:
        return "stop"
    return None if left else "length"
