"""How a request passes, as far as its head alone decides that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from launcher.adapters.base import Adapter
from launcher.adapters.failures import shown_name
from launcher.proxy.adapted_bodies import Parts
from launcher.proxy.edits import EditPlan, Edits
from launcher.proxy.head import ClientRequest, Head
from launcher.proxy.routes import OTHERS, OWN, is_completion, is_disguised, tolerant, without_run
from launcher.proxy.upstream import Prepared, Upstream


class Plan(NamedTuple):
    """What a head alone says of its request: whether it is a completion, and how it passes as bytes if it does.

    ``head`` names no run any more. ``parts`` is what adapters read of the request; None where they do not see it.
    ``edits`` is there where none of them has to wait for anything.
    """

    head: Head
    is_completion: bool
    parts: Parts | None = None
    passes: Prepared | None = None
    edits: EditPlan | None = None


class Planner:
    """Plans requests once for each head."""

    def __init__(self, upstream: Upstream, adapters: Sequence[Adapter]) -> None:
        self._upstream = upstream
        self._adapters = adapters
        self._edits = Edits.of(adapters)
        self.changing = [shown_name(adapter) for adapter in adapters if adapter.changes_answers]
        """The adapters that a request must not evade."""

    def plan(self, request: ClientRequest) -> Plan:
        """Return the plan of a request."""
        plan: Plan | None = request.head.made.get("plan")
        if plan is None:
            plan = request.head.made["plan"] = self._plan(without_run(request.head), len(request.body))
        return plan

    def _plan(self, head: Head, length: int) -> Plan:
        completes = is_completion(head)
        if self._adapters and completes:
            parts = Parts.of(self._adapters, head.path)
            edits = None if self._edits is None else self._edits.plan(self._upstream, parts, head)
            return Plan(head, completes, parts, edits=edits)
        if head.path.startswith(OWN) or self.is_disguised(head) or self.evades(head):
            return Plan(head, completes)
        return Plan(head, completes, passes=self._upstream.prepared(head, length))

    def is_disguised(self, head: Head) -> bool:
        """Tell whether the endpoint may take a request for a completion though the adapters would not."""
        return bool(self._adapters) and is_disguised(head)

    def evades(self, head: Head) -> bool:
        """Tell whether a request generates text in another way than those that change answers know."""
        return bool(self.changing) and head.method == "POST" and tolerant(head.path).endswith(OTHERS)
