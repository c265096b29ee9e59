"""The engine in this process, and its HTTP server in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import ClassVar

from launcher.asgi.config import Limits, check_aliases, check_origins
from launcher.backends.base import Backend, check_world_size
from launcher.backends.endpoint import api_key, base_url, frontend_of, planned_url, wait_ready
from launcher.core import health_metrics
from launcher.core.ranges import Port, Seconds
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import component, name_of


@component("backend/inline")
class Inline(Backend):
    """Serves from this process, at the address ``host`` and the ``port`` (0: any free one).

    ``api_key_env`` names the environment variable that holds the key.

    ``aliases`` are further names of the model, for clients that require one. Pages from ``cors_origins`` may send
    requests from a browser (``*``: any page). ``limits`` bound the requests of clients.

    Within ``start_timeout_s`` after loading, the engine must produce a token. At the end, open requests have
    ``stop_timeout_s`` to finish.
    """

    spread: ClassVar[Spread] = Spread.model

    host: str = "127.0.0.1"
    port: Port = 0
    api_key_env: str | None = None
    aliases: list[str] = field(default_factory=list)
    cors_origins: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    start_timeout_s: Seconds = 300.0
    stop_timeout_s: Seconds = 5.0

    def __post_init__(self) -> None:
        check_aliases(self.aliases)
        check_origins(self.cors_origins)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        check_world_size(deployment.parallelism, allocation)
        api_key(self.api_key_env)
        return {"server": planned_url(self.host, self.port)}

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.api.app import create_app
        from launcher.asgi.server import bind, server_log, serving

        key, path = api_key(self.api_key_env), RunFolder(deployment.folder).server_log
        d, frontend = deployment, frontend_of(self, key)
        with (
            bind(self.host, self.port) as bound,
            server_log(path) as log,
            d.engine.load(d, allocation) as runner,
            serving(
                create_app(
                    runner,
                    frontend=frontend,
                    admission=d.admission,
                    ready_timeout_s=self.start_timeout_s,
                    log=log,
                    more_metrics=lambda: health_metrics.text(d.folder),
                ),
                bound,
                log,
                self.stop_timeout_s,
                frontend.limits,
            ),
        ):
            url = base_url(self.host, bound.getsockname()[1])
            endpoint = Endpoint(
                url,
                runner.model,
                "inline",
                name_of(d.engine),
                key,
                validator_token=d.validator_token,
                tokenizer=runner.tokenizer,
            )
            wait_ready(endpoint, self.start_timeout_s, f"see {path}")
            yield endpoint
