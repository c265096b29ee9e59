"""A stream as the adapters change it, in the calls that bring its bytes."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.adapters.base import Changes
from launcher.core.errors import HttpError
from launcher.core.types import Json
from launcher.proxy.adapted_bodies import read_event, read_events
from launcher.proxy.events import EventSplitter
from launcher.proxy.reply import dumped
from launcher.proxy.template import END, Templates

DONE = b"[DONE]"


class EditedStream:
    """The bytes of a stream as the adapters make them; ``done`` says that its last event has come."""

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None

    def fed(self, chunk: bytes) -> bytes:
        """Return what goes on of the next bytes; an ``error`` stands behind it."""
        return chunk

    def rest(self) -> bytes:
        """Return what follows the last event; an ``error`` stands behind it."""
        return b""

    def check(self) -> None:
        """Raise the error."""
        if self.error is not None:
            raise self.error


class EditedEvents(EditedStream):
    """A stream whose events the adapters read. One that none of them changes passes as the bytes that it was."""

    def __init__(self, url: str, most: int, changes: Sequence[Changes], copy: bool) -> None:
        super().__init__()
        self._url, self._most = url, most
        self._changes, self._copy = [each.change for each in changes], copy
        self._ends = [each.end for each in changes]
        self._splitter = EventSplitter()
        self._received = 0
        learns = copy and all(type(each).is_alike is not Changes.is_alike for each in changes)
        self._templates = Templates(changes) if learns else None

    def fed(self, chunk: bytes) -> bytes:
        self._received += len(chunk)
        if self._templates is None or self._splitter.held or self._received > self._most:
            return self._parsed(chunk)
        passed, rest = self._templates.passed(chunk)
        while rest and self._goes_on and self._templates.is_new and (end := rest.find(END)) >= 0:
            end += len(END)
            more = self._parsed(rest[:end])
            again, rest = self._templates.passed(rest[end:])
            passed += more + again
        return passed + self._parsed(rest) if rest and self._goes_on else passed

    @property
    def _goes_on(self) -> bool:
        return not self.done and self.error is None

    def _parsed(self, chunk: bytes) -> bytes:
        texts = self._splitter.feed(chunk)
        if DONE in texts:
            self.done = True
            del texts[texts.index(DONE) :]
        made: list[bytes] = []
        try:
            self._read(texts, made)
            if self._received > self._most:
                raise HttpError(self._url, f"the stream has more than {self._most:,} bytes")
        except Exception as error:
            self.error = error
        return _framed(made)

    def _read(self, texts: Sequence[bytes], made: list[bytes]) -> None:
        """Add what the adapters make of events."""
        event: Json = None
        if len(texts) == 1:
            event = read_event(self._url, texts[0], self._most)
            made.append(self._changed(event, texts[0]))
        else:
            for events in read_events(self._url, texts, self._most):
                for event in events:
                    made.append(self._changed(event, texts[len(made)]))
        if self._templates is not None and made:
            self._templates.learn(texts[len(made) - 1], event, made[-1])

    def _changed(self, event: Json, text: bytes) -> bytes:
        new = event
        for change in self._changes:
            new = change(new)
        return text if new is event and self._copy and b"\n" not in text else dumped(new)

    def rest(self) -> bytes:
        if not self.done:
            raise HttpError(self._url, "the stream ended without [DONE]")
        made: list[bytes] = []
        try:
            for place, end in enumerate(self._ends, 1):
                for event in list(end()):
                    for change in self._changes[place:]:
                        event = change(event)
                    made.append(dumped(event))
        except Exception as error:
            self.error = error
            return _framed(made)
        return _framed([*made, DONE])


def _framed(texts: Sequence[bytes]) -> bytes:
    """Return the texts of events as they stand in a stream."""
    return b"data: " + b"\n\ndata: ".join(texts) + b"\n\n" if texts else b""
