"""How an answer is written as JSON: what completions and chat have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.api.choice import TextDelta
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json


@dataclass(slots=True)
class Usage:
    """Token counts of a request: every prompt once, and all that was generated for every choice."""

    prompt: int
    completion: int = 0

    def json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True)
class ResponseFormatter(ABC):
    """Writes the answer to one request. ``top`` is how many alternatives per token were asked for, if any."""

    id: str
    created: int
    model: str
    tokenizer: Tokenizer
    top: int | None

    @abstractmethod
    def whole(self, answers: Sequence[TextDelta], usage: Usage) -> Json:
        """Return the answer to a request that does not stream; ``answers`` are in the order of the choices."""

    @abstractmethod
    def opening(self, index: int) -> list[Json]:
        """Return the chunks that come before the first piece of a choice."""

    @abstractmethod
    def chunk(self, index: int, piece: TextDelta) -> Json:
        """Return the chunk that carries one piece."""

    @abstractmethod
    def total(self, usage: Usage) -> Json:
        """Return the last chunk of a stream that reports its usage."""

    def envelope(self, kind: str, choices: list[Json]) -> dict[str, Json]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
