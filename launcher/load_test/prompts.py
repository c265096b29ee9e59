"""Prompts of random words, which no two requests share."""

from __future__ import annotations

from random import Random

TEXT = (
    "river stone garden window paper orange silver mountain summer market engine letter bridge forest winter music "
    "harbor yellow planet street kitchen doctor travel number island castle copper village thunder blanket"
)
WORDS = TEXT.split()


class Prompts:
    """Makes prompts of about ``tokens`` tokens; ``calibrate`` learns how many tokens a word has."""

    def __init__(self, tokens: int, seed: int = 0) -> None:
        self._tokens = tokens
        self._draw = Random(seed)
        self._per_word = 1.3

    def calibrate(self, prompt: str, tokens: int) -> None:
        """Learn from the number of tokens that the server counted."""
        if tokens > 0:
            self._per_word = tokens / len(prompt.split())

    def halve(self) -> bool:
        """Make all prompts half as long; return whether they could be."""
        self._tokens //= 2
        return self._tokens >= self._per_word

    def make(self, times: float = 1.0) -> str:
        """Return a prompt that begins with words of its own; ``times`` makes it longer."""
        return self.words(round(times * self._tokens / self._per_word))

    def words(self, count: int) -> str:
        """Return a prompt of so many words, at least one."""
        return " ".join(self._draw.choices(WORDS, k=max(1, count)))
