"""What a chain of adapters that wait for nothing makes of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from launcher.adapters.base import Adapter, Edit
from launcher.asgi.errors import ApiError
from launcher.core.types import Request, Response
from launcher.core.unread import Unread
from launcher.proxy.adapted_bodies import Parts, bytes_of, json_object
from launcher.proxy.adapted_headers import joined_headers, split_once
from launcher.proxy.edited_stream import EditedEvents, EditedStream
from launcher.proxy.head import Head, Headers
from launcher.proxy.upstream import Prepared, Upstream

Edited = tuple[Sequence[Request], Prepared, bytes]
"""A request as each adapter was given it; and as it leaves: its head but the length, and its body."""


@dataclass(frozen=True)
class Edits:
    """A chain of adapters that wait for nothing, the outermost first; ``copy`` says that all of them only do that."""

    adapters: Sequence[Edit]
    copy: bool
    asking: Sequence[Callable[[Request], Request]]
    answering: Sequence[tuple[int, Callable[[Request, Response], Response]]]
    """How whole answers are changed, by the places of the adapters in the chain, the innermost first."""

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> Self | None:
        """Return a chain as edits; None if one of its adapters may have to wait."""
        edits = [each for each in adapters if isinstance(each, Edit) and type(each).__call__ is Edit.__call__]
        if not edits or len(edits) < len(adapters) or any(each.observer or each.keeps_answers for each in edits):
            return None
        places = [i for i, each in enumerate(edits) if type(each).edit_answer is not Edit.edit_answer]
        answering = [(i, edits[i].edit_answer) for i in reversed(places)]
        return cls(edits, all(each.copies for each in edits), [each.edit for each in edits], answering)

    def plan(self, upstream: Upstream, parts: Parts, head: Head) -> EditPlan | None:
        """Return what a head says of its requests; None for one that adapters cannot read, or that cannot be sent."""
        try:
            seen, unseen = split_once(upstream, head)
        except ApiError:
            return None
        path = head.target.decode("ascii")
        opened = upstream.opened(path, joined_headers(seen, unseen))
        if opened is None:
            return None
        read_bytes = upstream.max_answer_bytes if parts.reads_answer else None
        return EditPlan(self, upstream, parts, path, seen, unseen, opened, read_bytes)


class EditPlan(NamedTuple):
    """What a head alone says of a request that adapters edit."""

    edits: Edits
    upstream: Upstream
    parts: Parts
    path: str
    headers: Mapping[str, str]
    unseen: Headers
    opened: Prepared
    read_bytes: int | None
    """The bound on a whole answer that an adapter reads; None where none does."""

    def edited(self, data: bytes, sample: str) -> Edited | None:
        """Return a request as the adapters change it; None if it goes elsewhere. Raises what they raise."""
        edits, upstream, parts, path, headers, unseen, opened, _ = self
        body = json_object(data, upstream.max_request_bytes) if parts.reads_request else Unread(data)
        given, request = list[Request](), Request.of(path, body, headers, sample)
        for edit in edits.asking:
            given.append(request)
            request = edit(request)
        if request.headers is not headers:
            changed = upstream.opened(path, joined_headers(request.headers, unseen))
            if changed is None:
                return None
            opened = changed
        if request.path != path:
            return None
        made = data if request.body is body and not parts.rewrites_request else bytes_of(request.body)
        return given, opened, made

    def stream(self, url: str, given: Sequence[Request]) -> EditedStream:
        """Return how the adapters change the stream that answers."""
        made = [adapter.edit_events(request) for adapter, request in zip(self.edits.adapters, given, strict=True)]
        if not self.parts.reads_events:
            return EditedStream()
        inner_first = [each for each in reversed(made) if each is not None]
        return EditedEvents(url, self.upstream.max_answer_bytes, inner_first, self.edits.copy)
