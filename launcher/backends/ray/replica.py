"""One replica: an engine, and the shared API over it on a port of its own, in a process that Ray Serve keeps."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from multiprocessing import AuthenticationError

from launcher.asgi.config import Limits
from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.heartbeat import PERIOD_S, Address, HeartbeatClient
from launcher.backends.ray.shared_secret import SharedSecret
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.distributed.allocation import LOOPBACK, allocate
from launcher.engines.base import AsyncEngine

ADDED_BYTES, ADDED_HEADERS = 4096, 8
PATIENCE_S = 5.0
"""So long a new replica tries to reach the driver."""


class Replica:
    """A Serve deployment. It is there when it answers, and its process ends when it cannot any more.

    A replica that is broken but alive would answer fastest, with errors, and so attract the requests.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._open = ExitStack()
        self._voice: HeartbeatClient | None = None
        _keep_private()
        voice = _voice(address, key)
        try:
            self._runner = self._serve(voice.assignment, voice)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            voice.say({"kind": "failed", "reason": reason})
            self._open.close()
            raise
        self._voice = voice
        threading.Thread(target=self._report, args=(voice,), name="roll-call", daemon=True).start()

    def __del__(self) -> None:
        """Serve's way of saying that this replica is not needed any more: the driver lets it go when it is idle."""
        if self._voice is not None:
            self._voice.say({"kind": "leaving"})
            threading.Event().wait()

    def check_health(self) -> None:
        """Tell Serve, which asks, whether to replace this replica."""
        error = self._runner.state().error
        if error is not None:
            raise RuntimeError(error)

    def _serve(self, assignment: DriverConfig, voice: HeartbeatClient) -> AsyncEngine:
        from launcher.api.app import create_app
        from launcher.asgi.server import bind, server_log, serving

        os.chdir(assignment.working_folder)
        d, patience, enter = assignment.deployment, assignment.patience, self._open.enter_context
        alone = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
        allocation = replace(allocate(alone), cpus=max(1, int(assignment.share.cpus)))
        who = identity()
        # HAProxy is on the driver's node: there, no other host needs to reach the replica.
        bound = enter(bind(LOOPBACK if who["node"] == assignment.host else who["node"], 0))
        log = enter(server_log(RunFolder(d.folder).server_log))
        runner = enter(d.engine.load(d, allocation))
        app = create_app(runner, frontend=assignment.frontend, ready_timeout_s=patience.start_s, log=log)
        host, port = bound.getsockname()[:2]
        enter(
            serving(
                SharedSecret(app, assignment.secret), bound, log, patience.stop_s, roomier(assignment.frontend.limits)
            )
        )
        voice.say({"kind": "ready", **who, "host": host, "port": port, "model": runner.model})
        return runner

    def _report(self, voice: HeartbeatClient) -> None:
        """Say how the engine is, until it is broken or the driver is gone; then leave."""
        try:
            while (state := self._runner.state()).error is None:
                voice.say({"kind": "state", "state": asdict(state)})
                if voice.gone(PERIOD_S):
                    break
            voice.say({"kind": "failed", "reason": state.error or "the driver is gone"})
        finally:
            os._exit(1)


def _keep_private() -> None:
    """Let Serve's server for calls between deployments listen on loopback, instead of on all addresses.

    It unpickles what it is sent, and is not asked for anything here. No option sets where it listens; it begins to when
    this class is made.
    """
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", LOOPBACK))


def roomier(limits: Limits) -> Limits:
    """Return the limits of a client, with room for what HAProxy adds to its headers."""
    return replace(limits, header_bytes=limits.header_bytes + ADDED_BYTES, headers=limits.headers + ADDED_HEADERS)


def _voice(address: Address, key: bytes) -> HeartbeatClient:
    """Call the driver. If there is none any more, the application goes: on a Ray of others it would stay for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return HeartbeatClient(address, key)
        except (OSError, EOFError, AuthenticationError):
            if time.monotonic() > deadline:
                _delete_own_application()
                raise
        time.sleep(PERIOD_S)


def _delete_own_application() -> None:
    """Delete the Serve application that this replica belongs to."""
    from ray import serve

    serve.delete(serve.get_replica_context().app_name, _blocking=False)


def identity() -> dict[str, Json]:
    """Return who this replica is: Serve's name for it, its process, its node's address and Ray's id for that."""
    import ray
    from ray import serve

    context = serve.get_replica_context()
    return {
        "id": context.replica_id.unique_id,
        "pid": os.getpid(),
        "node": ray.util.get_node_ip_address(),
        "node_id": ray.get_runtime_context().get_node_id(),
    }
