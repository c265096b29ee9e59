"""Separates a model's reasoning from its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from operator import is_
from pathlib import Path

from launcher.adapters.base import Changes, Downstream, Edit, Part, counting
from launcher.adapters.messages import REASONING
from launcher.adapters.reasoning_parser import (
    AFTER,
    BEFORE,
    INSIDE,
    ParsedDelta,
    ReasoningParser,
    Section,
    UnmatchedEndTag,
)
from launcher.core.errors import AdapterError, UserError
from launcher.core.responses import quoted
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Request, Response, is_object
from launcher.settings.component import component

COUNTED = ("answers", "with_reasoning", "unfinished", "reasoning_characters", "answer_characters")


@component("adapters/reasoning")
class Reasoning(Edit):
    """Moves the text between the first ``start_tag`` and the next ``end_tag`` to ``reasoning_content``.

    It works on ``message.content`` and ``choices[].text``, and on the deltas of a stream as they come. Text before the
    start tag stays in the answer. Reasoning without its end tag is no answer: the choice is marked with
    ``reasoning_unfinished: true``, and its sample ends as truncated. ``starts_inside`` is for prompts that end with the
    start tag, as many chat templates do: the answer then begins inside the reasoning. Where the server separates the
    reasoning itself, in ``reasoning_content`` or ``reasoning``, its answer passes as it is. So does one that has tool
    calls and no text.

    An end tag without a start tag is an `AdapterError`: the reasoning would be scored as the answer. Requests
    with ``echo`` that generate at most one token (log-likelihoods) pass unchanged; others with ``echo`` are
    refused. Token log-probabilities still cover the whole text, reasoning included.

    ``reasoning.json`` in the run folder counts the answers: ``answers``, ``with_reasoning``, ``unfinished``, and the
    characters ``reasoning_characters`` and ``answer_characters``; a resumed run adds to it.

    Use it for models that think aloud, if the server does not separate the reasoning itself.

    Example: ``python launch.py 'adapters=[retry,reasoning]' adapters.reasoning.starts_inside=true``
    """

    copies = True
    reads = Part.all
    rewrites = Part.answer | Part.events

    start_tag: str = "<think>"
    end_tag: str = "</think>"
    starts_inside: bool = False

    def __post_init__(self) -> None:
        if not self.start_tag or not self.end_tag or self.start_tag == self.end_tag:
            raise UserError("adapters.reasoning: start_tag and end_tag must be two different, non-empty texts")
        self.counts = dict.fromkeys(COUNTED, 0)

    def edit(self, request: Request) -> Request:
        if not request.body.get("echo") or not request.route.endswith("/completions"):
            return request
        limit = request.body.get("max_tokens")
        if not isinstance(limit, int) or limit > 1:
            raise AdapterError("reasoning: 'echo' with more than one generated token cannot be split into thoughts")
        return request

    def edit_events(self, request: Request) -> Changes | None:
        return _Streams(self) if _is_split(request) else None

    def edit_answer(self, request: Request, response: Response) -> Response:
        if not 200 <= response.status < 300 or response.fault is not None or not _is_split(request):
            return response
        found = response.body
        choices = found.get("choices") if is_object(found) else None
        if type(choices) is not list:
            raise AdapterError(f"reasoning: the answer to {request.path} has no list of 'choices'")
        if len(choices) == 1:
            changed = self._choice(only := choices[0])
            return response if changed is only else response.with_body({**found, "choices": [changed]})
        made = [self._choice(choice) for choice in choices]
        return response if all(map(is_, made, choices)) else response.with_body({**found, "choices": made})

    def files(self) -> dict[str, str]:
        return {RunFolder.counted("reasoning"): "adapters.reasoning"}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with counting(RunFolder(folder).counts("reasoning"), self.counts, COUNTED):
            yield

    def _choice(self, choice: Json) -> Json:
        """Return a choice with its text split; the same object where all of it is the answer."""
        in_chat = type(choice) is dict and "message" in choice
        holder, key = (choice["message"], "content") if in_chat else (choice, "text")
        text, given = _texts(holder, key)
        if given:
            unfinished = choice.get("finish_reason") == "length" and not text
            self.count(len(text), len(given), unfinished)
            return {**choice, "reasoning_unfinished": True} if unfinished else choice
        if not text and holder.get("tool_calls"):
            self.count(0, 0, False)
            return choice
        answer, reasoning, section = self._divided(text)
        self.count(len(answer), len(reasoning), section is INSIDE)
        if section is BEFORE:
            return choice
        made = {**holder, key: answer, "reasoning_content": reasoning}
        made = {**choice, "message": made} if in_chat else made
        return {**made, "reasoning_unfinished": True} if section is INSIDE else made

    def _divided(self, text: str) -> tuple[str, str, Section]:
        """Return the answer and the reasoning in a whole text, and the section in which that ends."""
        if not self.starts_inside:
            before, tag, rest = text.partition(self.start_tag)
            reasoning, end, after = rest.partition(self.end_tag)
            if tag and end and self.end_tag not in before:
                return before + after, reasoning, AFTER
            if not tag and self.end_tag not in text:
                return text, "", BEFORE
        parser = self.new_parser()
        piece = _feed(parser.whole, text)
        return piece.answer, piece.reasoning, parser.section

    def new_parser(self) -> ReasoningParser:
        return ReasoningParser(self.start_tag, self.end_tag, inside=self.starts_inside)

    def count(self, answer: int, reasoning: int, unfinished: bool) -> None:
        """Count an answer with so many characters."""
        counts = self.counts
        counts["answers"] += 1
        counts["answer_characters"] += answer
        if reasoning:
            counts["with_reasoning"] += 1
            counts["reasoning_characters"] += reasoning
        if unfinished:
            counts["unfinished"] += 1


class _Streams(Changes):
    """All choices of a stream."""

    def __init__(self, adapter: Reasoning) -> None:
        self._adapter = adapter
        self._by_index: dict[int, _Stream] = {}
        self._last: Json = {}
        self._alone: _Stream | None = None
        """The choice of the last event, if that had only one."""

    def change(self, event: Json) -> Json:
        """Return an event with its texts split; the same object where all of it belongs to the answer."""
        self._alone = None
        try:
            return self._split(event)
        except (KeyError, TypeError, AttributeError):
            raise AdapterError(f"reasoning: an event of the stream has another form: {quoted(event)}") from None

    def _split(self, event: Json) -> Json:
        choices = event.get("choices") or []
        if len(choices) == 1:
            self._last, only = event, choices[0]
            self._alone = self._of(only["index"])
            changed = self._alone.split(only)
            return event if changed is only else {**event, "choices": [changed]}
        if choices:
            self._last = event
        made = [self._of(choice["index"]).split(choice) for choice in choices]
        return event if all(map(is_, made, choices)) else {**event, "choices": made}

    def is_alike(self, text: str) -> bool:
        return self._alone is not None and self._alone.is_alike(text)

    def count_alike(self, characters: int, events: int) -> None:
        assert self._alone is not None
        self._alone.count_alike(characters)

    def _of(self, index: int) -> _Stream:
        stream = self._by_index.get(index)
        if stream is None:
            stream = self._by_index[index] = _Stream(self._adapter.new_parser())
        return stream

    def end(self) -> list[Json]:
        """Return an event with what was held back, if there is something; count the answers."""
        left = [stream.rest(index) for index, stream in self._by_index.items() if not stream.closed]
        rests = [choice for choice in left if choice is not None]
        for stream in self._by_index.values():
            self._adapter.count(stream.answer, stream.reasoning, stream.unfinished)
        return [{**self._last, "choices": rests, "usage": None}] if rests else []


def _is_split(request: Request) -> bool:
    """Tell whether the texts of an answer are split: those of completions that echo no prompt."""
    return request.route.endswith("/completions") and not request.body.get("echo")


def _texts(holder: Json, key: str) -> tuple[str, str]:
    """Return the text of a choice, and the reasoning that the server has separated itself. Raises `AdapterError`."""
    if type(holder) is dict:
        text, given = holder.get(key), _separated(holder)
        if (type(text) is str or text is None) and (type(given) is str or given is None):
            return text or "", given or ""
    raise AdapterError("reasoning: a choice of the answer has no text that could be split")


def _separated(holder: Mapping[str, Json]) -> Json:
    """Return the reasoning of a message, or of a delta, that the server has separated itself."""
    return holder.get(REASONING[0]) or holder.get(REASONING[1]) or None


class _Stream:
    """One choice of a stream."""

    def __init__(self, parser: ReasoningParser) -> None:
        self.parser = parser
        self.answer = self.reasoning = 0
        """Characters so far."""
        self.closed = False
        self._chat = self._has_calls = self._is_separated = False
        self._finish: Json = None
        self._whole: Section | None = None
        """Where the last text went, if all of it is in one place, and its event had nothing else to look at."""

    @property
    def unfinished(self) -> bool:
        """Whether the answer ended before its reasoning did."""
        if self._is_separated:
            return self._finish == "length" and not self.answer
        return self.parser.unfinished and (self.reasoning > 0 or not self._has_calls)

    def split(self, choice: Mapping[str, Json]) -> Json:
        """Return the choice of one event with its text split; the same object if all of it belongs to the answer."""
        self._chat = "delta" in choice
        holder = choice["delta"] or {} if self._chat else choice
        key = "content" if self._chat else "text"
        text: Json = holder.get(key)
        given = _separated(holder)
        is_plain = bool(text) and not given and not choice.get("finish_reason")
        if is_plain and self.parser.is_answer(text):
            self._whole = AFTER
            self.answer += len(text)
            return choice
        if given:
            self._separate(given)
        if holder.get("tool_calls"):
            self._has_calls = True
        piece = _feed(self.parser.feed, text or "")
        self._whole = INSIDE if is_plain and piece == ParsedDelta(reasoning=text) else None
        if choice.get("finish_reason"):
            self._finish = choice["finish_reason"]
            piece += self._close()
        return self._made(choice, holder, key, piece)

    def is_alike(self, text: str) -> bool:
        """Tell whether a text goes where the last one went."""
        if self._whole is AFTER:
            return self.parser.is_answer(text)
        return self._whole is INSIDE and self.parser.is_reasoning(text)

    def count_alike(self, characters: int) -> None:
        """Count a text for which `is_alike` was true."""
        if self._whole is AFTER:
            self.answer += characters
        else:
            self.reasoning += characters

    def _separate(self, given: str) -> None:
        """Note that the server separates thoughts itself."""
        self.reasoning += len(given)
        self._is_separated = True
        if self.parser.section is Section.inside:
            self.parser.section = Section.after

    def rest(self, index: int) -> Json | None:
        """Return a choice with the text that was held back, for a stream that ended without a finish reason."""
        choice: Json = {"index": index, "finish_reason": None}
        piece = self._close()
        if not piece.answer and not piece.reasoning and not self.unfinished:
            return None
        return self._made(choice, {} if self._chat else choice, "content" if self._chat else "text", piece)

    def _close(self) -> ParsedDelta:
        self.closed = True
        return self.parser.close()

    def _made(self, choice: Mapping[str, Json], holder: Mapping[str, Json], key: str, piece: ParsedDelta) -> Json:
        self.answer += len(piece.answer)
        self.reasoning += len(piece.reasoning)
        changed = dict(holder)
        if piece.answer or holder.get(key) is not None:
            changed[key] = piece.answer
        if piece.reasoning:
            changed["reasoning_content"] = piece.reasoning
        made = {**choice, "delta": changed} if self._chat else changed
        return {**made, "reasoning_unfinished": True} if self.closed and self.unfinished else made


def _feed(parse: Callable[[str], ParsedDelta], text: str) -> ParsedDelta:
    try:
        return parse(text)
    except UnmatchedEndTag as error:
        raise AdapterError(
            f"reasoning: {error}; if the prompt opens the reasoning, set adapters.reasoning.starts_inside=true"
        ) from None
