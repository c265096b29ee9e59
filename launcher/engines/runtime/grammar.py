"""Keeps the tokens of a sequence within a grammar, by llguidance (https://github.com/guidance-ai/llguidance)."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from launcher.core.errors import GrammarRefused
from launcher.core.tokenizer import Tokenizer
from launcher.engines.base import TokenConstraint

if TYPE_CHECKING:
    from torch import Tensor


class GrammarConstraint(TokenConstraint):
    """Follows a grammar by llguidance's matcher. After an error all tokens are allowed."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._count = 0
        self.error: str | None = _said(matcher.get_error()) if matcher.is_error() else None

    def allowed(self) -> Tensor:
        import torch

        packed = bytearray(self._matcher.compute_bitmask())
        self._note_error()
        if self.error is not None:
            return torch.ones(self._vocab_size, dtype=torch.bool)
        bits = torch.frombuffer(packed, dtype=torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8)
        return (bits & 1).bool().reshape(-1)[: self._vocab_size]

    def accept(self, token: int) -> None:
        if self.error is None:
            self._count += 1
            self._matcher.consume_token(token)
            self._note_error()

    def _note_error(self) -> None:
        if self._matcher.is_error():
            self.error = f"{_said(self._matcher.get_error())} (after {self._count} tokens)"


def _said(error: str) -> str:
    """Return what llguidance says of a grammar, without the state of its parser, which it appends."""
    said = " ".join(error.partition("<state>")[0].split())
    if said.startswith("NoExtension"):
        return "no text can go on: a part of the grammar that must follow matches no text"
    if "Too many items" in said or "too many expressions" in said:
        return f"a part of it has no end, or is too large: {said[:200]}"
    return said[:300] or "the grammar cannot be followed"


class Grammars:
    """Makes the constraints of one model's sequences. The first one costs about a second for a large vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._lock = threading.Lock()

    def constraint(self, grammar: str) -> GrammarConstraint:
        """Return the constraint of a new sequence; callable from any thread. Raises `GrammarRefused`."""
        from llguidance import LLMatcher

        with self._lock:
            tokens = self._vocabulary
        found = GrammarConstraint(LLMatcher(tokens, grammar, log_level=0), self._vocab_size)
        if found.error is not None:
            raise GrammarRefused(found.error)
        return found

    @cached_property
    def _vocabulary(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size)))


class _Vocabulary:
    """A tokenizer under the names that llguidance reads. Special tokens have names, which no text contains."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        eos = sorted(token for token in tokenizer.eos_ids if token < vocab_size)
        if not eos:
            raise GrammarRefused("the model has no end-of-sequence token, which a grammar needs")
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = eos[0], tokenizer.bos_id
        texts = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self.special_token_ids = sorted({*eos, *(token for token, text in enumerate(texts) if not text)})
        special = frozenset(self.special_token_ids)
        self.tokens = [f"<|{i}|>".encode() if i in special else text for i, text in enumerate(texts)]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=False)
