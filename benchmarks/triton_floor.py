"""Measure the minimum cost of Triton: our model, whose requests a socket echoes, over one gRPC stream.

Usage: ``.venv/bin/python benchmarks/triton_floor.py``. Prints the CPU ms per request of all processes, including this
client. It measures requests back to back, and one at a time with a pause after each, as an HTTP front makes it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import uvloop
from bare_triton import BODY, Asker

from launcher.backends.pytriton.frames import Frame, FrameDecoder, pack
from launcher.backends.pytriton.grpc_client import request
from launcher.backends.pytriton.ports import Ports, choose
from launcher.backends.pytriton.server import Server, ServerSettings
from launcher.backends.pytriton.workspace import workspace

HERE = "127.0.0.1"
CASES = ((1, 1000, 0.0), (16, 3000, 0.0), (64, 4000, 0.0), (1, 500, 0.003))
"""Concurrency, number of requests, and the pause in seconds after each."""


class Echo(asyncio.Protocol):
    """Stands for the engine's process."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._frames = transport, FrameDecoder()

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.decode(data):
            self._transport.write(pack(Frame(frame.id, packed=frame.packed, final=True)))


def listen(path: Path, ready: threading.Event) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_unix_server(Echo, path)
        ready.set()
        await server.serve_forever()

    uvloop.run(serve())


def cpu_s() -> float:
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


async def measure(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        asker = Asker(channel, lambda id: request(id, "floor", BODY))
        await asyncio.gather(*[asker.ask() for _ in range(100)])
        for concurrency, count, pause_s in CASES:
            left, cpu, start = iter(range(count)), cpu_s(), time.perf_counter()

            async def work(left: Iterator[int] = left, pause_s: float = pause_s) -> None:
                for _ in left:
                    await asker.ask()
                    await asyncio.sleep(pause_s)

            await asyncio.gather(*[work() for _ in range(concurrency)])
            rate, cost = count / (time.perf_counter() - start), (cpu_s() - cpu) / count * 1e3
            print(f"{concurrency:>3} at a time, pause {pause_s * 1e3:.0f} ms: {cost:.2f} CPU ms, {rate:.0f} requests/s")


if __name__ == "__main__":
    with workspace() as folder:
        ports, engine, ready = choose(HERE, Ports()), folder / "engine.sock", threading.Event()
        threading.Thread(target=listen, args=(engine, ready), daemon=True).start()
        ready.wait()
        settings = ServerSettings(HERE, False, False, folder / "triton.json", folder / "triton.log", engine)
        server = Server(settings, ports, folder / "1")
        server.start()
        assert (problem := server.wait(60)) is None, problem
        uvloop.run(measure(f"{HERE}:{ports.grpc}"))
        server.stop()
