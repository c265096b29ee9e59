"""A process of the proxy: it serves on the shared socket until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.adapters.chain import all_running
from launcher.adapters.kept_counts import INTERVAL_S
from launcher.core import health_metrics, redaction
from launcher.core.connections import Connections
from launcher.core.errors import UserError
from launcher.core.event_loop import run_async
from launcher.core.logs import file_handler
from launcher.core.types import Endpoint, Json
from launcher.core.write_queue import WriteQueue
from launcher.proxy.forwarder import Forwarder
from launcher.proxy.front import LAST_S, Front, most_connections
from launcher.proxy.head import RUN
from launcher.proxy.metrics import Counters
from launcher.proxy.service import Service
from launcher.proxy.settings import Proxy
from launcher.proxy.upstream import Upstream
from launcher.settings.component import plain_settings, restored

log = logging.getLogger("launcher.proxy")

GC_THRESHOLDS = (20_000, 20, 50)
"""Python's are 700, 10 and 10. A request leaves hardly any cycles, but the search took a tenth of its time."""


MISSING = f"what its adapters counted in its last {INTERVAL_S:g} s may be missing"


@dataclass(frozen=True)
class Assignment:
    """What a worker gets from its supervisor on standard input, as one line of JSON."""

    number: int
    run: str
    listener: int
    counters: int
    folder: str
    log: str
    proxy: Json
    adapters: Sequence[Json]
    endpoint: Json
    deployment: Mapping[str, Json] | None
    key: str | None
    replaces: bool = False
    """Whether it takes the place of one that has died."""


def describe(adapter: Adapter) -> Json:
    """Return an adapter as plain data."""
    kind = type(adapter)
    return {"module": kind.__module__, "name": kind.__qualname__, "settings": plain_settings(adapter)}


def restore(description: Json) -> Adapter:
    """Return the adapter that `describe` described."""
    kind = getattr(import_module(description["module"]), description["name"])
    adapter = restored(kind, description["settings"])
    assert isinstance(adapter, Adapter)
    return adapter


def of_worker(log: Path, number: int) -> Path:
    """Return the log of a worker: processes must not write to the same file, which one of them may rotate."""
    return log if number == 0 else log.with_suffix(f".{number}{log.suffix}")


def main() -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assignment = Assignment(**json.loads(sys.stdin.buffer.readline()))
    for secret in (assignment.key, assignment.endpoint.get("api_key")):
        if secret:
            redaction.hide(secret)
    process = f"proxy-{assignment.number}"
    logging.getLogger().addHandler(file_handler(of_worker(Path(assignment.log), assignment.number), process))
    log.setLevel(logging.INFO)
    try:
        run_async(_work(assignment))
    except UserError as error:
        _say({"error": str(error)})
        sys.exit(UserError.exit_code)


def _say(message: Json) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)


async def _work(a: Assignment) -> None:
    settings = restored(Proxy, a.proxy)
    stop, counters = asyncio.Event(), Counters(a.counters, settings.workers, a.number)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_await_supervisor, args=(loop, stop, settings.stop_timeout_s), daemon=True).start()

    def ready() -> None:
        _spare_the_collector()
        log.info("worker %d takes connections (process %d)", a.number, os.getpid())
        if a.replaces and any(adapter.files() for adapter in adapters):
            log.warning("worker %d takes the place of one that has died: %s", a.number, MISSING)
        _say({"ready": os.getpid()})

    adapters, endpoint = [restore(each) for each in a.adapters], Endpoint(**a.endpoint, is_builtin=False)
    async with answering(settings, endpoint, adapters, Path(a.folder), a.deployment, counters, a.run, a.key) as service:
        await Front(settings, service, socket.socket(fileno=a.listener), counters).serve(stop, ready)
    log.info("worker %d has ended", a.number)


def _spare_the_collector() -> None:
    """Have cyclic garbage looked for less often, and not among what was there before the first request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@asynccontextmanager
async def answering(
    settings: Proxy,
    endpoint: Endpoint,
    adapters: Sequence[Adapter],
    folder: Path,
    deployment: Mapping[str, Json] | None,
    counters: Counters,
    run: str,
    key: str | None,
) -> AsyncIterator[Service]:
    """Yield what answers clients, with the adapters running."""
    write_queue = WriteQueue()
    async with (
        Connections(settings.upstream_connections, write_queue=write_queue) as connections,
        all_running(adapters, folder, deployment) as failures,
    ):
        service = Service(
            settings.limits, most_connections(settings), RUN + b": " + run.encode() + b"\r\n", write_queue
        )
        upstream = Upstream(endpoint, settings, connections)
        forwarder = Forwarder(upstream, adapters, failures, counters, run, key, lambda: service.draining)
        forwarder.pages.health = partial(health_metrics.text, folder.parent)
        service.answering = forwarder
        yield service


def _await_supervisor(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, stop_timeout_s: float) -> None:
    """End once the supervisor is gone, also if the event loop hangs."""
    while os.read(sys.stdin.fileno(), 4096):
        continue
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)
    time.sleep(stop_timeout_s + 2 * LAST_S)
    os._exit(1)


if __name__ == "__main__":
    main()
