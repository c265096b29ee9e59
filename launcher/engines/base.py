"""The engine interface: load a model, then `AsyncEngine.generate` streams token events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from launcher.core.admission import Admission
from launcher.core.logs import LogFile
from launcher.core.packages import require
from launcher.core.run_folder import RunFolder
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation
from launcher.settings.component import name_of
from launcher.settings.model import Model, Optimizations, Parallelism

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request's tokens are chosen; requests of a batch share none of it.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 are off. ``seed`` makes the tokens independent of the other
    requests in the batch. ``logprobs`` is the number of alternatives to report per generated token (0: only the chosen
    one, None: nothing); ``prompt_logprobs`` is the same for the prompt. Log-probabilities are the model's own, before
    temperature, penalties, bias and grammar. Penalties follow OpenAI's definition (generated tokens only).
    ``grammar`` is what the generated text must match, in llguidance's Lark or JSON form.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    grammar: str | None = None


class TokenConstraint(Protocol):
    """Where one sequence is in its grammar.

    ``error`` says why the grammar cannot be followed any further; the owner of the sequence must fail it then.
    """

    error: str | None

    def allowed(self) -> Tensor:
        """Return which tokens may come next, as booleans [vocabulary]."""
        ...

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen among those allowed."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate: prompt token ids and how to sample. ``id`` is unique while it runs.

    ``final_only``: tokens between the first event and the last may be buffered until the end. ``constraint`` follows
    the grammar, in the process that samples; the engine adds it.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    final_only: bool = False
    constraint: TokenConstraint | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability (natural log; None for a first prompt token) and the best alternatives.

    ``top`` is sorted, best first, and comes from the same float array as ``logprob``, so that ``logprob == top[0][1]``
    holds exactly for a greedy token.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


Finish = Literal["stop", "length"]
"""``stop``: the model produced an end-of-sequence token (which is the last of ``tokens``). ``length``: max_tokens."""


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """Tokens that became ready together. The last event of a generation has ``finish`` set.

    The first event carries ``prompt`` if ``prompt_logprobs`` was requested: one entry per prompt token.
    With ``max_tokens`` 0 there is one event, without tokens, with finish ``length``.
    """

    tokens: tuple[TokenLogprob, ...] = ()
    prompt: tuple[TokenLogprob, ...] | None = None
    finish: Finish | None = None


@dataclass(frozen=True)
class EngineState:
    """A snapshot for ``/metrics`` and health: counts of sequences, and of KV-cache tokens used and in all.

    ``error`` is why nothing can be generated; it is final unless the engine is ``restarting``.
    """

    running: int = 0
    queued: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generated_tokens: int = 0
    steps: int = 0
    error: str | None = None
    restarting: bool = False


class AsyncEngine(ABC):
    """A loaded model. Called from one asyncio loop; it must never block that loop."""

    model: str
    tokenizer: Tokenizer
    context_length: int
    grammars: bool = False
    """Whether it follows ``Sampling.grammar``."""
    capacity: int | None = None
    """The most sequences at the same time, waiting ones included; None without a bound."""

    @property
    def vocab_size(self) -> int:
        """The number of token ids that it accepts: those of the tokenizer that have a row in the model."""
        return self.tokenizer.vocab_size

    @abstractmethod
    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        """Stream the tokens of one sequence. Closing the iterator cancels it and frees its slot.

        Raises `QueueFull` before the first event when the queue is full, `EngineUnavailable` when the engine is
        stopping or broken. The prompt has been checked against ``context_length`` by the caller.
        """

    @abstractmethod
    def reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probabilities of ``tokens[1:]`` from one plain forward pass, without cache or batching.

        The certificate compares the server with this. Blocking: call it in a thread. Raises `NotImplementedError` for
        an engine without a model.
        """

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the same, computed from the same weights in the next wider floating point type.

        The difference from `reference` is the rounding error of the model. Blocking, as `reference`. Raises
        `NotImplementedError` for an engine without a wider type.
        """
        raise NotImplementedError("this engine computes in one type only")

    @abstractmethod
    def state(self) -> EngineState:
        """Return a snapshot of the counters; cheap, callable from any thread."""

    def describe(self) -> dict[str, Json]:
        """Return facts for the report: parameters, dtype, layout, optimizations as resolved."""
        return {}


@dataclass
class Engine(ABC):
    """The configuration of an engine; a component of the group ``engine``."""

    neutral: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot change an answer (queue sizes, threads); a resumed run may have other values."""
    reads_files: ClassVar[bool] = True
    """Whether the engine's tokens are those of the model's files."""
    packages: ClassVar[Sequence[str]] = ()
    """The packages that `load` imports, which the extra ``megatron`` installs."""

    @abstractmethod
    def load(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[AsyncEngine]:
        """Load the model and yield an `AsyncEngine`; leaving the context frees everything, after an exception too.

        ``deployment.engine`` is this engine.
        """

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        """Describe, without heavy imports, what `load` would do; raise `UserError` if it would fail."""
        return {}

    def check_tokenizer(self, model: Model) -> None:
        """Load the tokenizer as `load` does, for a plan. Raises `CheckpointError`."""
        return  # an engine without a model has none

    def check_packages(self, model: Model) -> None:
        """Raise `UserError` with the command that installs it where a package is missing that `load` imports."""
        require(f"engine={name_of(self)}", "megatron", self.packages)

    def fingerprint(self, model: Model) -> str | None:
        """Return ``sha256:...`` over the model's files; None for a model without any. Raises `CheckpointError`."""
        from launcher.checkpoints import open_model

        return open_model(resolve(model.path), model.bounds, model.peft).fingerprint() if model.path else None


@dataclass(frozen=True)
class Deployment:
    """Everything that decides what is served: two runs with equal deployments could share one server.

    The server writes its log in ``folder``, which does not count for equality. Until ``admission`` opens, a built-in
    server answers only requests with its token; without an ``admission`` it answers all requests.
    An engine that loses a rank starts all ranks again, but for that of a ``replica``, which is replaced as a whole.
    """

    model: Model
    engine: Engine
    parallelism: Parallelism
    optimizations: Optimizations
    folder: Path
    admission: Admission | None = field(default=None, compare=False)
    replica: str | None = field(default=None, compare=False)

    @property
    def validator_token(self) -> str | None:
        return None if self.admission is None else self.admission.token

    def log_of_rank(self, rank: int) -> LogFile | None:
        """Return where the output of a rank goes that is a process of its own; None without a run folder."""
        if not self.folder.is_dir():
            return None
        process = f"rank-{rank}" if self.replica is None else f"rank-{rank}-{self.replica}"
        return LogFile(RunFolder(self.folder.resolve()).of_rank(rank, self.replica), process)
