"""What the path of a request means: a completion, a path of the proxy itself, or anything else of the endpoint."""

from __future__ import annotations

from urllib.parse import unquote

from launcher.core.types import route_of
from launcher.proxy.head import Head

OWN = "/_proxy/"
"""The paths of the proxy itself; any other path is the endpoint's."""
RUN_PATH = f"{OWN}run/"
"""``/_proxy/run/<id>/...`` is ``/...`` of the proxy of that run, and of no other."""
HEALTH, METRICS = f"{OWN}health", f"{OWN}metrics"
ADAPTED = ("/v1/completions", "/v1/chat/completions")
OTHERS = (
    *("/v1/responses", "/v1/messages", "/generate", "/generate_stream", "/invocations", "/completion", "/infill"),
    *("/api/generate", "/api/chat", "/api/v1/chat"),
)
"""Paths at which servers generate text, too, in forms that no adapter knows: of OpenAI, Anthropic, vLLM and others."""


def is_completion(head: Head) -> bool:
    """Tell whether a request is a completion in a form that adapters know."""
    return head.method == "POST" and route_of(head.path).endswith(ADAPTED)


def is_disguised(head: Head) -> bool:
    """Tell whether a path that adapters do not know may be that of a completion for the endpoint."""
    return head.method == "POST" and not is_completion(head) and tolerant(head.path).endswith(ADAPTED)


def tolerant(path: str) -> str:
    """Return a path as the most tolerant of servers read it: any case, backslashes, codes, parameters, empty parts."""
    segments = [part.partition(";")[0] for part in unquote(path).replace("\\", "/").lower().split("/")]
    return "/" + "/".join(filter(None, segments))


def run_of(path: str) -> str | None:
    """Return the id of the run that a path names."""
    return path.removeprefix(RUN_PATH).partition("/")[0] if path.startswith(RUN_PATH) else None


def without_run(head: Head) -> Head:
    """Return a head whose path names no run."""
    run = run_of(head.path)
    if run is None:
        return head
    named = len(RUN_PATH) + len(run)
    path, target = head.path[named:], head.target[named:]
    if not path.startswith("/"):
        path, target = f"/{path}", b"/" + target
    return head._replace(path=path, target=target, made={})
