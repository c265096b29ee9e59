"""Tokens to text deltas as they are generated: whole characters, exact offsets, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

from launcher.api.logprobs import TokenWithOffset
from launcher.core.tokenizer import Tokenizer
from launcher.engines.base import AsyncEngine, Finish, GenerationRequest, TokenLogprob, TokenOutput

Ending = Finish | Literal["tool_calls"]
"""Why an answer ended: as the engine says, or with calls of tools."""


class CallReader(Protocol):
    """Takes calls of tools out of one answer's text."""

    shown: Mapping[int, bytes]
    """The texts of special tokens that it reads."""

    def read(self, delta: TextDelta) -> None:
        """Take the calls out of the text of the next delta."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to generate for ``choices[index]``. ``stop`` is matched on the generated text.

    ``echo`` has the bytes of each token of the prompt if the text begins with it. ``calls`` makes the reader of its
    calls of tools.
    """

    index: int
    generation: GenerationRequest
    stop: tuple[str, ...] = ()
    echo: tuple[bytes, ...] = ()
    calls: Callable[[], CallReader] | None = None


@dataclass(slots=True)
class CallDelta:
    """A piece of the call with this ``index``: the first has its ``id`` and ``name``, and each a part of the JSON."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class TextDelta:
    """Text to send, the tokens that belong to it, and the number of tokens generated for it.

    The last delta of a choice has ``finish``. ``tokens`` are those that begin in ``text``, so that both are aligned.
    Tokens of a stop string are generated and counted, but not shown. ``calls`` are pieces of calls of tools;
    ``unparsed`` counts texts that look like calls, and are none.
    """

    text: str = ""
    tokens: list[TokenWithOffset] = field(default_factory=list)
    generated: int = 0
    finish: Ending | None = None
    calls: list[CallDelta] = field(default_factory=list)
    unparsed: int = 0

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens or self.finish or self.calls)

    def add(self, other: TextDelta) -> None:
        """Append the delta that follows."""
        self.text += other.text
        self.tokens += other.tokens
        self.generated += other.generated
        self.finish = other.finish
        self.calls += other.calls
        self.unparsed += other.unparsed


async def text_deltas(engine: AsyncEngine, choice: Choice) -> AsyncGenerator[TextDelta, None]:
    """Generate a choice. However this ends, the engine's slot is free afterwards.

    Raises what `AsyncEngine.generate` raises.
    """
    reader = None if choice.calls is None else choice.calls()
    detokenizer = Detokenizer(engine.tokenizer, choice, {} if reader is None else reader.shown)
    outputs = cast("AsyncGenerator[TokenOutput, None]", engine.generate(choice.generation))
    async with aclosing(outputs):
        async for output in outputs:
            delta = detokenizer.delta(output)
            if reader is not None:
                reader.read(delta)
            yield delta
            if delta.finish:
                return


class Detokenizer:
    """Turns the token outputs of one generation into text deltas; ``shown`` are texts of special tokens."""

    def __init__(self, tokenizer: Tokenizer, choice: Choice, shown: Mapping[int, bytes] = {}) -> None:
        self._tokenizer = tokenizer
        self._special = shown
        self._prompt, self._echo = choice.generation.prompt, choice.echo
        self._list_tokens = choice.generation.sampling.logprobs is not None
        self._decoder = Utf8Decoder()
        self._filter = StopFilter(choice.stop)
        self._pending: list[TokenWithOffset] = []
        self._shown = 0

    def delta(self, output: TokenOutput) -> TextDelta:
        """Return the text that is now final. Tokens behind a stop string are not counted."""
        delta = TextDelta()
        if self._echo:
            delta.text = self._echoed(output.prompt or tuple(map(TokenLogprob, self._prompt)))
            self._echo = ()
        delta.text += self._generated(output, delta)
        if delta.finish:
            delta.text += self._end()
            delta.finish = "stop" if self._filter.hit else delta.finish
        self._shown += len(delta.text)
        delta.tokens = self._take(last=bool(delta.finish) and not self._filter.hit)
        return delta

    def _echoed(self, tokens: tuple[TokenLogprob, ...]) -> str:
        return "".join(self._decode(token, data) for token, data in zip(tokens, self._echo, strict=True))

    def _generated(self, output: TokenOutput, delta: TextDelta) -> str:
        text = ""
        ending = len(output.tokens) - 1 if output.finish == "stop" else -1
        for i, token in enumerate(output.tokens):
            data = b"" if i == ending else self._bytes(token.token)
            text += self._filter.feed(self._decode(token, data))
            delta.generated += 1
            if self._filter.hit:
                delta.finish = "stop"
                return text
        delta.finish = output.finish
        return text

    def _bytes(self, token: int) -> bytes:
        return self._special.get(token) or self._tokenizer.token_bytes(token)

    def _decode(self, token: TokenLogprob, data: bytes) -> str:
        offset, text = self._decoder.feed(data)
        if self._list_tokens:
            self._pending.append(TokenWithOffset(offset, token))
        return text

    def _end(self) -> str:
        """Return the text that was held back, unless a stop string ended the text."""
        if self._filter.hit:
            return ""
        return self._filter.feed(self._decoder.finish()) + self._filter.finish()

    def _take(self, *, last: bool) -> list[TokenWithOffset]:
        """Return the tokens that begin in the text sent so far; the ``last`` time also those without text."""
        ready = len(self._pending) if last else 0
        while ready < len(self._pending) and self._pending[ready].offset < self._shown:
            ready += 1
        taken, self._pending = self._pending[:ready], self._pending[ready:]
        return taken


class Utf8Decoder:
    """Decodes the bytes of tokens into characters, incrementally.

    The concatenation of all that `feed` and `finish` return equals the concatenated bytes decoded with
    ``errors="replace"``, however the bytes were cut into tokens. ``chars`` is the number of characters so far.
    """

    def __init__(self) -> None:
        self.chars = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> tuple[int, str]:
        """Return the offset of the character that holds the first byte of ``data``, and the characters now complete.

        A token without bytes lies before the next character.
        """
        if not data:
            return self.chars, ""
        if self._pending():
            return self._continue(data)
        offset = self.chars
        return offset, self._count(self._decode.decode(data))

    def finish(self) -> str:
        """Return the replacement character for the bytes of an incomplete character."""
        return self._count(self._decode.decode(b"", True))

    def _continue(self, data: bytes) -> tuple[int, str]:
        """Feed after an unfinished character: the first byte either continues it, or shows that it was invalid."""
        head = self._count(self._decode.decode(data[:1]))
        offset = self.chars if self._pending() else self.chars - 1
        return offset, head + self._count(self._decode.decode(data[1:]))

    def _pending(self) -> bool:
        return bool(self._decode.getstate()[0])

    def _count(self, text: str) -> str:
        self.chars += len(text)
        return text


class StopFilter:
    """Passes text up to the first stop string, and holds back a possible beginning of one.

    The result does not depend on how the text is cut. The stop string that is complete first wins; of several that end
    together, the longest. ``hit`` says that a stop string was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.hit = False
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that no stop string can remove any more."""
        if not self._stops:
            return text
        text = self._held + text
        cut = self._cut(text)
        if cut is not None:
            self.hit, self._held = True, ""
            return text[:cut]
        keep = len(text) - self._tail(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """Return the text that was held back; at the end of the text it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _cut(self, text: str) -> int | None:
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        return min(found)[1] if found else None

    def _tail(self, text: str) -> int:
        """Return the length of the longest suffix of ``text`` that is a prefix of a stop string."""
        return max(overlap(text, stop) for stop in self._stops)


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of ``text`` that is a proper prefix of ``stop``."""
    size = min(len(stop) - 1, len(text))
    while size:
        size = stop.rfind(text[-1], 0, size) + 1
        if text.endswith(stop[:size]):
            return size
        size -= 1
    return 0
