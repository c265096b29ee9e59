"""Separates a model's reasoning from its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from operator import is_
from pathlib import Path

from launcher.adapters.base import Adapter, Downstream, Part, counting
from launcher.adapters.reasoning_parser import ParsedDelta, ReasoningParser, Section, UnmatchedEndTag
from launcher.core.errors import AdapterError, UserError
from launcher.core.event_stream import mapped
from launcher.core.run_folder import RunFolder
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

COUNTED = ("answers", "with_reasoning", "unfinished", "reasoning_characters", "answer_characters")


@component("adapters/reasoning")
class Reasoning(Adapter):
    """Moves the text between the first ``start_tag`` and the next ``end_tag`` to ``reasoning_content``.

    It works on ``message.content`` and ``choices[].text``, and on the deltas of a stream as they come. Text before the
    start tag stays in the answer. Reasoning without its end tag is no answer: the choice is marked with
    ``reasoning_unfinished: true``, and its sample ends as truncated. ``starts_inside`` is for prompts that end with the
    start tag, as many chat templates do: the answer then begins inside the reasoning.

    An end tag without a start tag is an `AdapterError`: the reasoning would be scored as the answer. Requests
    with ``echo`` that generate at most one token (log-likelihoods) pass unchanged; others with ``echo`` are
    refused. Token log-probabilities still cover the whole text, reasoning included.

    ``reasoning.json`` in the run folder counts the answers: ``answers``, ``with_reasoning``, ``unfinished``, and the
    characters ``reasoning_characters`` and ``answer_characters``; a resumed run adds to it.

    Use it for models that think aloud, if the server does not separate the reasoning itself.

    Example: ``python launch.py 'adapters=[retry,reasoning]' adapters.reasoning.starts_inside=true``
    """

    needs_task = False
    reads = Part.all
    rewrites = Part.answer | Part.events

    start_tag: str = "<think>"
    end_tag: str = "</think>"
    starts_inside: bool = False

    def __post_init__(self) -> None:
        if not self.start_tag or not self.end_tag or self.start_tag == self.end_tag:
            raise UserError("adapters.reasoning: start_tag and end_tag must be two different, non-empty texts")
        self.counts: Counter[str] = Counter()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if not request.path.endswith("/completions"):
            return await call_next(request)
        if request.body.get("echo"):
            return await self._pass(request, call_next)
        response = await call_next(request)
        if response.events is not None:
            streams = _Streams(self)
            return replace(response, events=mapped(response.events, streams.change, streams.end))
        if not response.ok or response.fault is not None:
            return response
        found = response.body
        if (type(found) is not dict and not isinstance(found, Mapping)) or not isinstance(found.get("choices"), list):
            raise AdapterError(f"reasoning: the answer to {request.path} has no list of 'choices'")
        choices = [self._choice(choice) for choice in response.body["choices"]]
        return response.with_body({**response.body, "choices": choices})

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        with counting(RunFolder(folder).counts("reasoning"), self.counts, COUNTED):
            yield

    async def _pass(self, request: Request, call_next: Handler) -> Response:
        limit = request.body.get("max_tokens")
        if limit is None or limit > 1:
            raise AdapterError("reasoning: 'echo' with more than one generated token cannot be split into thoughts")
        return await call_next(request)

    def _choice(self, choice: Json) -> Json:
        in_chat = isinstance(choice, dict) and "message" in choice
        holder, key = (choice["message"], "content") if in_chat else (choice, "text")
        if not isinstance(holder, dict) or not (
            _is_text(holder.get(key)) and _is_text(holder.get("reasoning_content"))
        ):
            raise AdapterError("reasoning: a choice of the answer has no text that could be split")
        made, unfinished = self._split(holder, key, choice.get("finish_reason"))
        marked = {**choice, "message": made} if in_chat else made
        return {**marked, "reasoning_unfinished": True} if unfinished else marked

    def _split(self, holder: Mapping[str, Json], key: str, finish: str | None) -> tuple[dict[str, Json], bool]:
        """Return ``holder`` with its text split, and whether the reasoning was unfinished."""
        text, given = holder.get(key) or "", holder.get("reasoning_content")
        if given:
            unfinished = finish == "length" and not text
            self.count(len(text), len(given), unfinished=unfinished)
            return dict(holder), unfinished
        answer, reasoning, section = self._divided(text)
        unfinished = section is Section.inside
        self.count(len(answer), len(reasoning), unfinished=unfinished)
        if section is Section.before:
            return dict(holder), False
        return {**holder, key: answer, "reasoning_content": reasoning}, unfinished

    def _divided(self, text: str) -> tuple[str, str, Section]:
        """Return the answer and the reasoning in a whole text, and the section in which that ends."""
        if not self.starts_inside and self.start_tag not in text and self.end_tag not in text:
            return text, "", Section.before
        if not self.starts_inside:
            before, tag, rest = text.partition(self.start_tag)
            reasoning, end, after = rest.partition(self.end_tag)
            if tag and end and self.end_tag not in before:
                return before + after, reasoning, Section.after
        parser = self.new_parser()
        piece = _feed(parser.whole, text)
        return piece.answer, piece.reasoning, parser.section

    def new_parser(self) -> ReasoningParser:
        return ReasoningParser(self.start_tag, self.end_tag, inside=self.starts_inside)

    def count(self, answer: int, reasoning: int, *, unfinished: bool) -> None:
        """Count an answer with so many characters."""
        counts = self.counts
        counts["answers"] += 1
        counts["answer_characters"] += answer
        if reasoning:
            counts["with_reasoning"] += 1
            counts["reasoning_characters"] += reasoning
        if unfinished:
            counts["unfinished"] += 1


class _Streams:
    """All choices of a stream."""

    def __init__(self, adapter: Reasoning) -> None:
        self._adapter = adapter
        self._by_index: dict[int, _Stream] = {}
        self._last: Json = {}

    def change(self, event: Json) -> Json:
        """Return an event with its texts split; the same object where all of it belongs to the answer."""
        self._last = event
        choices = event.get("choices") or []
        if len(choices) == 1:
            only = choices[0]
            changed = self._of(only["index"]).split(only)
            return event if changed is only else {**event, "choices": [changed]}
        made = [self._of(choice["index"]).split(choice) for choice in choices]
        return event if all(map(is_, made, choices)) else {**event, "choices": made}

    def _of(self, index: int) -> _Stream:
        stream = self._by_index.get(index)
        if stream is None:
            stream = self._by_index[index] = _Stream(self._adapter.new_parser())
        return stream

    def end(self) -> list[Json]:
        """Return an event with what was held back, if there is something; count the answers."""
        rests = [stream.rest(index) for index, stream in self._by_index.items() if not stream.closed]
        for stream in self._by_index.values():
            self._adapter.count(stream.answer, stream.reasoning, unfinished=stream.parser.unfinished)
        return [{**self._last, "choices": rests, "usage": None}] if rests else []


def _is_text(value: Json) -> bool:
    return value is None or isinstance(value, str)


class _Stream:
    """One choice of a stream."""

    def __init__(self, parser: ReasoningParser) -> None:
        self.parser = parser
        self.answer = self.reasoning = 0
        """Characters so far."""
        self.closed = False
        self._chat = False

    def split(self, choice: Mapping[str, Json]) -> Json:
        """Return the choice of one event with its text split; the same object if all of it belongs to the answer."""
        self._chat = "delta" in choice
        holder = choice["delta"] if self._chat else choice
        key = "content" if self._chat else "text"
        text = holder.get(key)
        if (
            text
            and not choice.get("finish_reason")
            and "reasoning_content" not in holder
            and self.parser.is_answer(text)
        ):
            self.answer += len(text)
            return choice
        if holder.get("reasoning_content") and self.parser.section is Section.inside:
            self.parser.section = Section.after  # the server separates thoughts itself
        piece = _feed(self.parser.feed, text or "")
        if choice.get("finish_reason"):
            piece += self._close()
        return self._made(choice, holder, key, piece)

    def rest(self, index: int) -> Json:
        """Return a choice with the text that was held back, for a stream that ended without a finish reason."""
        choice: Json = {"index": index, "finish_reason": None}
        piece = self._close()
        return self._made(choice, {} if self._chat else choice, "content" if self._chat else "text", piece)

    def _close(self) -> ParsedDelta:
        self.closed = True
        return self.parser.close()

    def _made(self, choice: Mapping[str, Json], holder: Mapping[str, Json], key: str, piece: ParsedDelta) -> Json:
        self.answer += len(piece.answer)
        self.reasoning += len(piece.reasoning)
        changed = dict(holder)
        if key in holder or piece.answer:
            changed[key] = piece.answer
        if piece.reasoning:
            changed["reasoning_content"] = piece.reasoning
        made = {**choice, "delta": changed} if self._chat else changed
        return {**made, "reasoning_unfinished": True} if self.closed and self.parser.unfinished else made


def _feed(parse: Callable[[str], ParsedDelta], text: str) -> ParsedDelta:
    try:
        return parse(text)
    except UnmatchedEndTag as error:
        raise AdapterError(
            f"reasoning: {error}; if the prompt opens the reasoning, set adapters.reasoning.starts_inside=true"
        ) from None
