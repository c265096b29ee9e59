"""NVIDIA Triton Inference Server in front of an engine in this process."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from launcher.asgi.config import Limits, check_aliases, check_origins
from launcher.backends.base import Backend, check_world_size
from launcher.backends.endpoint import ANY_PORT, api_key, base_url, frontend_of, planned_url, wait_ready
from launcher.backends.pytriton.installation import missing_requirement
from launcher.backends.pytriton.ports import Ports, choose
from launcher.core import health_metrics
from launcher.core.errors import UserError
from launcher.core.http import netloc
from launcher.core.ranges import Port, Seconds
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import component, name_of

if TYPE_CHECKING:
    from launcher.backends.pytriton.request_handler import RequestHandler
    from launcher.backends.pytriton.supervisor import Supervisor


@component("backend/pytriton")
class PyTriton(Backend):
    """Serves through Triton: the OpenAI API in front, and Triton's own KServe protocol beside it.

    ``host``, ``port``, ``api_key_env``, ``aliases``, ``cors_origins``, ``limits``, ``start_timeout_s`` and
    ``stop_timeout_s`` are those of ``backend=inline``; they hold for the OpenAI API, not for Triton's protocol.

    Triton listens on ``triton_host`` at ``http_port``, ``grpc_port`` and ``metrics_port`` (0: any free port). The run
    folder's ``triton.json`` has the ports and an access token; with an API key, Triton requires that token for
    inference. A Triton that does not answer for ``probe_timeout_s`` is replaced. ``workspace`` is the folder for
    Triton's files, which must allow programs to run; the default is the system's folder for temporary files.
    """

    spread: ClassVar[Spread] = Spread.model

    host: str = "127.0.0.1"
    port: Port = 0
    api_key_env: str | None = None
    aliases: list[str] = field(default_factory=list)
    cors_origins: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    triton_host: str = "127.0.0.1"
    http_port: Port = 0
    grpc_port: Port = 0
    metrics_port: Port = 0
    start_timeout_s: Seconds = 300.0
    stop_timeout_s: Seconds = 5.0
    probe_timeout_s: Seconds = 10.0
    workspace: str | None = None

    def __post_init__(self) -> None:
        check_aliases(self.aliases)
        check_origins(self.cors_origins)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        check_world_size(deployment.parallelism, allocation)
        api_key(self.api_key_env)
        if problem := missing_requirement():
            raise UserError(f"backend=pytriton: {problem}")
        choose(self.triton_host, self._ports)
        listens = {name: netloc(self.triton_host, port or ANY_PORT) for name, port in asdict(self._ports).items()}
        return {"server": planned_url(self.host, self.port), "triton": listens}

    @property
    def _ports(self) -> Ports:
        return Ports(self.http_port, self.grpc_port, self.metrics_port)

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.api.app import create_app
        from launcher.asgi.server import bind, server_log, serving
        from launcher.backends.pytriton.request_handler import handler_in_thread
        from launcher.backends.pytriton.runner import TritonRunner

        key, path, d = api_key(self.api_key_env), RunFolder(deployment.folder).server_log, deployment
        with (
            bind(self.host, self.port) as bound,
            server_log(path) as log,
            logging_to(log),
            handler_in_thread(d.admission) as handler,
            self._triton(handler, d.folder, key is not None, allocation) as triton,
            d.engine.load(d, allocation) as engine,
            handler.serving(engine),
        ):
            runner = TritonRunner(engine, handler, triton)
            triton.wait()
            app = create_app(
                runner,
                frontend=frontend_of(self, key),
                admission=d.admission,
                ready_timeout_s=self.start_timeout_s,
                log=log,
                more_metrics=lambda: triton.metrics() + health_metrics.text(d.folder),
            )
            with serving(app, bound, log, self.stop_timeout_s, self.limits):
                url, token = base_url(self.host, bound.getsockname()[1]), d.validator_token
                endpoint = Endpoint(
                    url,
                    runner.model,
                    "pytriton",
                    name_of(d.engine),
                    key,
                    validator_token=token,
                    tokenizer=runner.tokenizer,
                )
                wait_ready(endpoint, self.start_timeout_s, f"see {path}")
                yield endpoint

    @contextmanager
    def _triton(
        self, handler: RequestHandler, folder: Path, token_required: bool, allocation: Allocation
    ) -> Iterator[Supervisor]:
        """Start Triton in the background, while the engine loads."""
        from launcher.backends.pytriton.server import ServerSettings
        from launcher.backends.pytriton.socket_server import listening
        from launcher.backends.pytriton.supervisor import Supervisor, Timeouts

        with usable_workspace(self.workspace) as triton_workspace, listening(handler, triton_workspace / "engine.sock"):
            settings = ServerSettings(
                host=self.triton_host,
                gpus=allocation.gpus > 0,
                token_required=token_required,
                connection_file=RunFolder(folder).triton,
                log_file=RunFolder(folder.resolve()).triton_log,
                engine=triton_workspace / "engine.sock",
            )
            timeouts = Timeouts(self.start_timeout_s, self.probe_timeout_s)
            supervisor = Supervisor(settings, self._ports, triton_workspace, handler, timeouts)
            with supervisor.running():
                yield supervisor


@contextmanager
def usable_workspace(parent: str | None) -> Iterator[Path]:
    """Yield a workspace in ``parent``. Raises `UserError`."""
    from launcher.backends.pytriton.workspace import workspace

    with ExitStack() as stack:
        try:
            folder = stack.enter_context(workspace(parent))
        except OSError as error:
            where, why = parent or f"null, which is {tempfile.gettempdir()}", error.strerror or str(error)
            expected = "a folder that this user may write to and that programs may run from"
            raise UserError(f"backend.workspace={where}: {why}; must be {expected}") from None
        yield folder


@contextmanager
def logging_to(log: logging.Logger) -> Iterator[None]:
    """Send Triton's log records to the server's log."""
    source = logging.getLogger("pytriton")
    propagate, source.propagate = source.propagate, False
    for handler in log.handlers:
        source.addHandler(handler)
    try:
        yield
    finally:
        source.propagate = propagate
        for handler in log.handlers:
            source.removeHandler(handler)
