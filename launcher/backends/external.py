"""A server that runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from launcher.backends.base import Backend, check_optimizations, check_world_size
from launcher.backends.endpoint import api_key
from launcher.backends.listing import Listing, split_url
from launcher.core.errors import UserError
from launcher.core.ranges import Seconds
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.component import component
from launcher.settings.model import Parallelism


@component("backend/external")
class External(Backend):
    """Uses the OpenAI-compatible server at ``url``, which ends in ``/v1``. The launcher neither starts nor stops it.

    ``api_key_env`` names the environment variable that holds the key. ``model`` is the name to send; by default the
    only one that the server lists. ``engine`` is the server's software in reports. ``timeout_s`` is the timeout of each
    request that lists the models.
    """

    runs_engine: ClassVar[bool] = False
    identity_fields: ClassVar[frozenset[str]] = frozenset({"url", "model"})

    url: str
    api_key_env: str | None = None
    model: str | None = None
    engine: str = "unknown"
    timeout_s: Seconds = 30.0

    def __post_init__(self) -> None:
        split_url(self.url)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        check_world_size(deployment.parallelism, allocation)
        check_optimizations(deployment.optimizations)
        model = deployment.model
        started_with = {
            "model.path": model.path,
            "model.tool_call_parser": model.tool_call_parser.asked,
            "parallelism": deployment.parallelism != Parallelism(),
        }
        for key in (key for key, value in started_with.items() if value):
            raise UserError(f"{key}: has no effect with backend=external; start the server with this setting instead")
        api_key(self.api_key_env)
        return {"server": self.url, "model": self.model or "<the only one that it lists>"}

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        url, key = self.url.rstrip("/"), api_key(self.api_key_env)
        listing = Listing(f"backend.url={self.url}", url, key, self.api_key_env, self.timeout_s)
        model, uuid_ids = listing.choose(self.model), listing.takes_only_uuids()
        yield Endpoint(url, model, "external", self.engine, key, is_builtin=False, uuid_ids=uuid_ids)
