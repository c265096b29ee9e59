"""How the command of a harness reaches the model: a proxy of its own, with the adapters of the run."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from launcher.adapters.base import Adapter
from launcher.core.redaction import hide
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.harness.stored import HarnessFolder
from launcher.proxy.settings import Authorization, Proxy


@dataclass(frozen=True)
class Access:
    """The URL to ask, which ends in ``/v1``, and the key.

    ``answered`` counts the completions so far, ``lost`` those that failed or were given up; ``gone`` says why no more
    can be answered.
    """

    base_url: str
    key: str | None
    answered: Callable[[], int]
    lost: Callable[[], int]
    gone: Callable[[], str | None]


@contextmanager
def proxied(
    endpoint: Endpoint,
    adapters: Sequence[Adapter],
    settings: Proxy,
    deployment: Mapping[str, Json] | None,
    files: HarnessFolder,
) -> Iterator[Access]:
    """Run the proxy of one harness, on loopback; its base URL has the id of this run.

    The endpoint's own key stays in the proxy. Where there is one, or an adapter has a secret, the harness gets a new
    key of the proxy. Else there is none, since lm-eval's client asks for the tokenizer without it. Raises `UserError`
    as the adapters do, and `ServerError`.
    """
    from launcher.proxy.supervisor import Mounted, listening, running

    place, key = RunFolder(files.path), None
    if endpoint.api_key is not None or any(adapter.variables() for adapter in adapters):
        key = secrets.token_urlsafe(32)
        hide(key, "proxy key")
    own = replace(
        settings, host="127.0.0.1", port=0, api_key_env=None, require_key=True, authorization=Authorization.replace
    )
    mounted = Mounted(endpoint, adapters, deployment, place.proxy_adapters, place.proxy_log)
    with listening(own) as listener, running(own, listener, mounted, key) as proxy:
        yield Access(
            proxy.run_url,
            key,
            lambda: proxy.completions,
            lambda: proxy.lost,
            lambda: proxy.reason if proxy.dead.is_set() else None,
        )
