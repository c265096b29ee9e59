"""Any OpenAI-compatible server that a command starts: vLLM, SGLang, NIM, ..."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import ClassVar

from launcher.backends.base import Backend, check_optimizations, check_world_size
from launcher.backends.command import argv_template
from launcher.backends.endpoint import ANY_PORT, api_key, planned_url, root_url
from launcher.core.errors import UserError
from launcher.core.ranges import Port, Seconds
from launcher.core.redaction import reveal
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.component import component

REQUEST_TIMEOUT_S = 30.0


@component("backend/command")
class Command(Backend):
    """Starts a server with ``command``, waits until it is ready, and ends it with all processes that it has started.

    The command is split into arguments as a shell does, but no shell runs it. Names in braces are replaced:

    - ``{host}`` and ``{port}``: the address ``host`` and the ``port`` where the server must listen (0: any free one)
    - ``{model}`` (`model.name`), ``{checkpoint}`` (`model.path`), ``{tokenizer}``, ``{context_length}``,
      ``{tool_call_parser}``
    - ``{tensor}``, ``{pipeline}``, ``{context}``, ``{expert}`` of `parallelism`
    - ``{gpus}``: the number of GPUs

    A setting of these groups that differs from its default must be in the command. ``environment`` is added to the
    launcher's own. ``environment_env`` gives variables the values of other variables, which the launcher never writes.

    The server is ready when ``ready_path`` answers 200, 401 or 403 within ``start_timeout_s`` and it lists ``model``.
    The default is the only model that it lists. At the end it gets SIGTERM, and SIGKILL after ``stop_timeout_s``.
    ``api_key_env`` names the environment variable that holds the key to send. ``engine`` is the server's software in
    reports.
    """

    runs_engine: ClassVar[bool] = False
    identity_fields: ClassVar[frozenset[str]] = frozenset({"command", "environment", "environment_env", "model"})

    command: str
    host: str = "127.0.0.1"
    port: Port = 0
    api_key_env: str | None = None
    model: str | None = None
    engine: str = "unknown"
    environment: dict[str, str] = field(default_factory=dict)
    environment_env: dict[str, str] = field(default_factory=dict)
    ready_path: str = "/v1/models"
    start_timeout_s: Seconds = 1800.0
    stop_timeout_s: Seconds = 30.0

    def __post_init__(self) -> None:
        if not self.ready_path.startswith("/"):
            raise UserError(
                f"backend.ready_path={self.ready_path}: must be a path from the server's root, such as /health"
            )
        if not self.port and "port" not in argv_template.names(self.command):
            raise UserError(
                "backend.command: has no {port}; add it where the server takes its port, or set backend.port to the "
                "port that the server uses"
            )

    @property
    def checkpoints(self) -> bool:
        return "checkpoint" in argv_template.names(self.command)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        check_world_size(deployment.parallelism, allocation)
        check_optimizations(deployment.optimizations)
        api_key(self.api_key_env)
        self._environment()
        argv_template.check(self.command, deployment.model, deployment.parallelism)
        command = self._argv(deployment, allocation, self.port or ANY_PORT)
        return {"server": planned_url(self.host, self.port), "command": command}

    def _argv(self, deployment: Deployment, allocation: Allocation, port: int | str) -> list[str]:
        return argv_template.split(self.command, argv_template.values(deployment, allocation, self.host, port))

    def _environment(self) -> dict[str, str]:
        secret = {name: reveal(of, f"backend.environment_env.{name}") for name, of in self.environment_env.items()}
        return os.environ | self.environment | secret

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.backends.command.process import free_port, managed_process
        from launcher.backends.listing import Listing

        key, log = api_key(self.api_key_env), RunFolder(deployment.folder).server_log
        port = free_port(self.host, self.port)
        command = self._argv(deployment, allocation, port)
        root = root_url(self.host, port)
        with managed_process(command, self._environment(), log, self.stop_timeout_s) as process:
            listing = Listing(f"backend.command: {root}/v1", f"{root}/v1", key, self.api_key_env, REQUEST_TIMEOUT_S)
            process.wait(root + self.ready_path, key, self.start_timeout_s)
            yield Endpoint(
                listing.url,
                listing.choose(self.model),
                "command",
                self.engine,
                key,
                is_builtin=False,
                exit_reason=process.exit_reason,
                uuid_ids=listing.takes_only_uuids(),
            )
