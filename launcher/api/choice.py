"""One choice of an answer: the engine's tokens become pieces of text, each with the tokens that it consists of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from launcher.api.logprobs import TokenWithOffset
from launcher.api.text import Decoder, StopFilter
from launcher.core.tokenizer import Tokenizer
from launcher.engines.base import AsyncEngine, Finish, GenerationRequest, TokenLogprob, TokenOutput


@dataclass(frozen=True, slots=True)
class Choice:
    """What to generate for ``choices[index]``. ``stop`` is matched on the generated text.

    ``echo`` has the bytes of each token of the prompt if the text begins with it.
    """

    index: int
    generation: GenerationRequest
    stop: tuple[str, ...] = ()
    echo: tuple[bytes, ...] = ()


@dataclass(slots=True)
class TextDelta:
    """Text that can be shown, the tokens that belong to it, and how many tokens were generated for it.

    The last piece of a choice has ``finish``. The tokens are those that begin in text that is shown, so that they are
    aligned with it: tokens of a stop string are generated and counted, but not shown.
    """

    text: str = ""
    tokens: list[TokenWithOffset] = field(default_factory=list)
    generated: int = 0
    finish: Finish | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens or self.finish)

    def add(self, other: TextDelta) -> None:
        """Append the piece that follows."""
        self.text += other.text
        self.tokens += other.tokens
        self.generated += other.generated
        self.finish = other.finish


async def pieces(runner: AsyncEngine, choice: Choice) -> AsyncGenerator[TextDelta, None]:
    """Generate a choice. However this ends, the engine's slot is free afterwards.

    Raises what `AsyncEngine.generate` raises.
    """
    writer = Detokenizer(runner.tokenizer, choice)
    events = cast("AsyncGenerator[TokenOutput, None]", runner.generate(choice.generation))
    async with aclosing(events):
        async for event in events:
            piece = writer.write(event)
            yield piece
            if piece.finish:
                return


class Detokenizer:
    """Turns the events of one generation into pieces."""

    def __init__(self, tokenizer: Tokenizer, choice: Choice) -> None:
        self._tokenizer = tokenizer
        self._prompt, self._echo = choice.generation.prompt, choice.echo
        self._list_tokens = choice.generation.sampling.logprobs is not None
        self._decoder = Decoder()
        self._filter = StopFilter(choice.stop)
        self._waiting: list[TokenWithOffset] = []
        self._shown = 0

    def write(self, event: TokenOutput) -> TextDelta:
        """Return the text that became certain. Tokens behind a stop string are not counted."""
        piece = TextDelta()
        if self._echo:
            piece.text = self._echoed(event.prompt or tuple(map(TokenLogprob, self._prompt)))
            self._echo = ()
        piece.text += self._generated(event, piece)
        if piece.finish:
            piece.text += self._end()
            piece.finish = "stop" if self._filter.hit else piece.finish
        self._shown += len(piece.text)
        piece.tokens = self._take(last=bool(piece.finish) and not self._filter.hit)
        return piece

    def _echoed(self, tokens: tuple[TokenLogprob, ...]) -> str:
        return "".join(self._place(token, data) for token, data in zip(tokens, self._echo, strict=True))

    def _generated(self, event: TokenOutput, piece: TextDelta) -> str:
        text = ""
        ending = len(event.tokens) - 1 if event.finish == "stop" else -1
        for i, token in enumerate(event.tokens):
            data = b"" if i == ending else self._tokenizer.token_bytes(token.token)
            text += self._filter.feed(self._place(token, data))
            piece.generated += 1
            if self._filter.hit:
                piece.finish = "stop"
                return text
        piece.finish = event.finish
        return text

    def _place(self, token: TokenLogprob, data: bytes) -> str:
        offset, text = self._decoder.feed(data)
        if self._list_tokens:
            self._waiting.append(TokenWithOffset(offset, token))
        return text

    def _end(self) -> str:
        """Return what was held back, unless a stop string ended the text."""
        if self._filter.hit:
            return ""
        return self._filter.feed(self._decoder.finish()) + self._filter.finish()

    def _take(self, *, last: bool) -> list[TokenWithOffset]:
        """Return the tokens that begin in the text shown so far; the ``last`` time also those without text."""
        ready = len(self._waiting) if last else 0
        while ready < len(self._waiting) and self._waiting[ready].offset < self._shown:
            ready += 1
        taken, self._waiting = self._waiting[:ready], self._waiting[ready:]
        return taken
