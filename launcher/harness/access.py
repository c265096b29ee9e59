"""How the command of a harness reaches the model, and how many of its requests were answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.core.errors import TransportError
from launcher.core.http import authorization, fetch
from launcher.core.types import Endpoint

TIMEOUT_S = 10.0
COUNTED = ("/v1/completions", "/v1/chat/completions")


@dataclass(frozen=True)
class Access:
    """The URL to ask, which ends in ``/v1``, and the key; ``answered`` counts requests so far, None if unknown."""

    base_url: str
    key: str | None
    answered: Callable[[], int | None]


@contextmanager
def direct(endpoint: Endpoint) -> Iterator[Access]:
    """Yield the access to the endpoint itself. Only a server of ours says how many requests it answered."""
    before = _answered(endpoint)

    def answered() -> int | None:
        now = _answered(endpoint)
        return None if now is None or before is None else now - before

    yield Access(endpoint.url, endpoint.api_key, answered)


def _answered(endpoint: Endpoint) -> int | None:
    if not endpoint.is_builtin:
        return None
    from prometheus_client.parser import text_string_to_metric_families

    url, headers = f"{endpoint.root}/metrics", authorization(endpoint.api_key)
    try:
        answer = fetch("GET", url, timeout_s=TIMEOUT_S, headers=headers)
    except TransportError:
        return None
    if answer.status != 200:
        return None
    families = text_string_to_metric_families(answer.body.decode())
    samples = [one for family in families for one in family.samples]
    counted = (one for one in samples if one.name == "launcher_requests_total" and one.labels.get("path") in COUNTED)
    return int(sum(one.value for one in counted))
