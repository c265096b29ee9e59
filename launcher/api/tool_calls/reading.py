"""Reads calls out of an answer as it is generated; how the text is cut into pieces changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launcher.api.detokenizer import CallDelta, TextDelta, overlap
from launcher.api.tool_calls.base import Call, Frame, JsonSpan, NotACall, OtherText, ToolCallFormat
from launcher.core.types import Json

SPACE = " \t\r\n"


@dataclass
class Reader:
    """Reads calls where the model chose to make them.

    A call is passed on when it is whole and can be read; a text that only looks like one stays content. White space
    next to calls belongs to their form, not to the content. If ``single``, calls behind the first stay content.
    """

    format: ToolCallFormat
    tools: Mapping[str, Json]
    shown: Mapping[int, bytes] = field(default_factory=dict)
    single: bool = False
    _text: str = ""
    _blank: str = ""
    """White space whose place is not known yet: before a call, or within the content."""
    _behind_call: bool = False
    _count: int = 0
    _said: bool = False
    """Whether there is content."""
    _ids: set[str] = field(default_factory=set)
    _searched: int = 0
    """So many characters of the text, which begins with calls, have no end of them."""

    def read(self, delta: TextDelta) -> None:
        self._text += delta.text
        delta.text = ""
        self._take(delta, final=delta.finish is not None)
        if delta.finish is None:
            return
        self._end(delta)
        if self._count and delta.finish == "stop":
            delta.finish = "tool_calls"

    def _take(self, delta: TextDelta, final: bool) -> None:
        while self._text:
            at = self._opening(final)
            if at is None:
                return
            self._say(delta, self._text[:at])
            self._text = self._text[at:]
            if self._text and not self._block(delta, final):
                return

    def _opening(self, final: bool) -> int | None:
        """Return where calls begin, or how much of the text is content for sure; None if all may be theirs."""
        bare = self._bare(final)
        if bare is not None:
            return bare if bare < len(self._text) else None
        found = [at for mark in self.format.marks if (at := self._text.find(mark)) >= 0]
        if found:
            return min(found)
        held = 0 if final else max((overlap(self._text, mark) for mark in self.format.marks), default=0)
        return len(self._text) - held or None

    def _bare(self, final: bool) -> int | None:
        """Return where calls without a mark begin or may begin; None if they cannot begin here."""
        if self._said or not self.format.bare:
            return None
        rest = self._text.lstrip(self._gap if self._behind_call else SPACE)
        begins = rest.startswith(self.format.bare) or (not rest and not final)
        return len(self._text) - len(rest) if begins else None

    @property
    def _gap(self) -> str:
        """What may stand between calls."""
        return SPACE + self.format.separators

    def _block(self, delta: TextDelta, final: bool) -> bool:
        """Take the calls that the text begins with; return whether the text behind them can be read."""
        begins = self._text.startswith((*self.format.marks, *filter(None, [self.format.bare])))
        if not begins:
            return False
        end = self._end_of_calls(final)
        if end is None and not final:
            return False
        self._searched = 0
        block, self._text = self._text[:end], "" if end is None else self._text[end:]
        try:
            calls = self.format.calls(block, self.tools)
        except NotACall as reason:
            delta.unparsed += not isinstance(reason, OtherText)
            self._say(delta, block)
            return True
        taken = calls[: 1 - self._count] if self.single else calls
        if len(taken) < len(calls):
            delta.unparsed += 1
            self._say(delta, block)
        for call in taken:
            self._call(delta, call)
        return True

    def _end_of_calls(self, final: bool) -> int | None:
        """Return where the calls end that the text begins with; searched for only where new text may tell."""
        if final:
            return self.format.end_at_last(self._text)
        marks = self.format.end_marks
        start = max(0, self._searched - max(map(len, marks), default=0))
        if marks and not any(mark in self._text[start:] for mark in marks):
            self._searched = len(self._text)
            return None
        end = self.format.end(self._text)
        self._searched = len(self._text)
        return end

    def _call(self, delta: TextDelta, call: Call) -> None:
        self._blank, self._behind_call = "", True
        delta.calls.append(CallDelta(self._count, id=_id(self.format, call.id, self._ids), name=call.name))
        delta.calls.append(CallDelta(self._count, call.arguments))
        self._count += 1

    def _say(self, delta: TextDelta, text: str) -> None:
        if self._behind_call:
            text = text.lstrip(self._gap)
            if not text:
                return
            text = f"\n{text}" if self._said else text
        text = self._blank + text
        kept = text.rstrip(SPACE)
        self._blank = text[len(kept) :]
        if kept:
            delta.text += kept
            self._behind_call, self._said = False, True

    def _end(self, delta: TextDelta) -> None:
        delta.text += self._blank
        self._blank = ""


def _id(form: ToolCallFormat, given: str | None, others: set[str]) -> str:
    """Return the id of a call, which is the model's own if no other call of the answer has it."""
    found = given if given and given not in others else form.new_id()
    others.add(found)
    return found


@dataclass
class ForcedReader:
    """Reads calls that a grammar forces: arguments are passed on as they come, since they cannot go wrong.

    An answer that is cut by its limit ends within a call; what is left of a call without a name is content.
    """

    format: ToolCallFormat
    frame: Frame
    shown: Mapping[int, bytes] = field(default_factory=dict)
    _text: str = ""
    _count: int = 0
    _span: JsonSpan | None = None
    _ids: set[str] = field(default_factory=set)

    def read(self, delta: TextDelta) -> None:
        self._text += delta.text
        delta.text = ""
        delta.calls.extend(self._pieces())
        if delta.finish is None or self._span is not None:
            return
        delta.text = self._left()
        delta.unparsed += bool(delta.text)
        if delta.finish == "stop" and self._count:
            delta.finish = "tool_calls"

    def _pieces(self) -> Iterator[CallDelta]:
        while self._text:
            if self._span is None:
                text = self._name()
                if text is None:
                    return
                name, given = self.format.named(text)
                yield CallDelta(self._count, id=_id(self.format, given, self._ids), name=name)
                self._count += 1
                self._span = JsonSpan()
                continue
            end = self._span.feed(self._text)
            yield CallDelta(self._count - 1, self._text[:end])
            self._text = "" if end is None else self._text[end:]
            self._span = self._span if end is None else None

    def _name(self) -> str | None:
        """Take what comes before the arguments; None if it is not whole yet."""
        start = self._text.find(self.frame.name)
        end = self._text.find(self.frame.arguments, start + len(self.frame.name)) if start >= 0 else -1
        if end < 0:
            return None
        name = self._text[start + len(self.frame.name) : end]
        self._text = self._text[end + len(self.frame.arguments) :]
        return name

    def _left(self) -> str:
        """Return what is left at the end, without what belongs to the form."""
        if not self._count:
            return self._text
        if self.frame.end.startswith(self._text):
            return ""
        rest = self._text.removeprefix(self.frame.end)
        forms = (self.frame.after, (self.frame.between or "") + self.frame.name)
        return "" if any(form.startswith(rest) for form in forms) else rest
