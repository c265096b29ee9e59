"""Compare backend=pytriton and backend=ray with backend=inline, and each with the layout of its peers.

Triton's peer makes a new ModelClient for each request. ``bare`` is PyTriton alone, an echo behind one gRPC stream
(`bare_triton.py`): the least that a request through it can cost. Ray's peer is a Serve app with Serve's proxy and
default settings: an ingress deployment asks a model deployment over a handle.

Usage: ``.venv/bin/python benchmarks/backends.py [rounds] [echo|ray|real|latency]``. Every server is a separate process,
and this process sends the load. The servers take turns, in alternating order. Each figure is the median over the
rounds. So is each comparison, of figures within one round, because the machine's speed varies from minute to minute.
CPU time is that of all processes of a server.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from launcher.backends.ray import cluster, session_dir
from launcher.core import processes

ROOT = Path(__file__).resolve().parent.parent
ECHO = {"prompt": "The quick brown fox jumps over the lazy dog.", "max_tokens": 64, "temperature": 0}
REAL = {"prompt": "12+34=", "max_tokens": 64, "temperature": 0, "ignore_eos": True}
PACED = {"prompt": "The quick brown fox", "max_tokens": 50, "temperature": 0, "ignore_eos": True, "stream": True}
TOKENS_PER_S = 50
APART_S = 0.013
IDLE_S = 5.0
REQUESTS = {1: 200, 16: 600, 64: 1000}


@dataclass(frozen=True)
class Server:
    """A server's address, and the processes whose CPU time counts."""

    url: str
    model: str
    roots: tuple[int, ...]

    def cpu_s(self) -> float:
        total = 0.0
        for root in map(psutil.Process, self.roots):
            for process in (root, *root.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def burst(self, body: dict, concurrency: int, count: int) -> Figures:
        return asyncio.run(burst(self, body, concurrency, count))


@dataclass(frozen=True)
class Bare(Server):
    """PyTriton alone, with a fixed request."""

    process: subprocess.Popen[str]

    def burst(self, body: dict, concurrency: int, count: int) -> Figures:
        assert self.process.stdin is not None
        cpu, start = self.cpu_s(), time.perf_counter()
        self.process.stdin.write(f"{concurrency} {count}\n")
        self.process.stdin.flush()
        _until(self.process, "done")
        return Figures(count / (time.perf_counter() - start), (self.cpu_s() - cpu) / count * 1e3, 0.0)


def _until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline()).strip() != word:
        assert line, f"it ended before it said {word}"


@contextmanager
def bare_triton() -> Iterator[Bare]:
    command = [sys.executable, str(ROOT / "benchmarks" / "bare_triton.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        _until(process, "up")
        yield Bare("", "echo", (process.pid,), process)
        process.communicate()  # it ends with its input; Triton's output during that time needs a reader


@contextmanager
def launched(folder: Path, *arguments: str) -> Iterator[Server]:
    """Run the launcher in mode=serve."""
    command = [sys.executable, str(ROOT / "launch.py"), "mode=serve", f"hydra.run.dir={folder}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("serving "):
            break
    else:
        sys.exit("".join(said))
    endpoint = json.loads((folder / "endpoint.json").read_text())
    try:
        yield Server(endpoint["url"], endpoint["model"], (process.pid,))
    finally:
        process.terminate()
        process.communicate()


def beside(stack: ExitStack, folder: Path, backends: tuple[str, ...], *arguments: str) -> dict[str, Server]:
    """Launch one server for each backend; ``stack`` ends them."""
    return {name: stack.enter_context(launched(folder / name, f"backend={name}", *arguments)) for name in backends}


def peer(grpc: str) -> None:
    """Serve as NVIDIA's examples do: FastAPI in front, and a client that connects again for each request."""
    import numpy as np
    import uvicorn
    from fastapi import FastAPI
    from pytriton.client import DecoupledModelClient

    app = FastAPI()

    @app.post("/v1/completions")
    def complete(body: dict) -> dict:
        tokens = np.frombuffer(body["prompt"].encode(), np.uint8).astype(np.int32)
        asked = {"max_tokens": body["max_tokens"], "temperature": body["temperature"]}
        sampling = np.array([json.dumps(asked).encode()])
        found: list[int] = []
        with DecoupledModelClient(f"grpc://{grpc}", "generate") as client:
            for answer in client.infer_sample(tokens=tokens, sampling=sampling):
                found += answer["tokens"].tolist()
        text = bytes(token for token in found if token < 256).decode()
        return {"choices": [{"text": text}], "usage": {"completion_tokens": len(found)}}

    config = uvicorn.Config(app, port=0, log_level="error")
    bound = config.bind_socket()
    print(bound.getsockname()[1], flush=True)
    uvicorn.Server(config).run([bound])


@contextmanager
def per_request_clients(folder: Path, behind: Server) -> Iterator[Server]:
    """Put the peer's front before the Triton of ``behind``."""
    triton = json.loads((folder / "triton.json").read_text())
    command = [sys.executable, __file__, "peer", triton["grpc"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip().rpartition(" ")[2]
        try:
            yield Server(f"http://127.0.0.1:{port}/v1", behind.model, (process.pid, *behind.roots))
        finally:
            process.terminate()


@dataclass(frozen=True)
class Figures:
    """The figures of one burst of requests."""

    requests_per_s: float
    cpu_ms: float
    tokens_per_s: float


async def burst(server: Server, body: dict, concurrency: int, count: int) -> Figures:
    left, tokens = iter(range(count)), 0
    url, body = f"{server.url}/completions", body | {"model": server.model}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            nonlocal tokens
            for _ in left:
                async with session.post(url, json=body) as answer:
                    data = await answer.read()
                    assert answer.status == 200, data
                    tokens += _tokens(data, bool(body.get("stream")), body["max_tokens"])

        cpu, start = server.cpu_s(), time.perf_counter()
        await asyncio.gather(*[work() for _ in range(concurrency)])
        seconds = time.perf_counter() - start
        return Figures(count / seconds, (server.cpu_s() - cpu) / count * 1e3, tokens / seconds)


def _tokens(data: bytes, stream: bool, most: int) -> int:
    if stream:
        assert data.endswith(b"data: [DONE]\n\n"), data[-300:]
        return most
    return int(json.loads(data)["usage"]["completion_tokens"])


Found = dict[tuple[int, bool], dict[str, list[Figures]]]


def handles(folder: str) -> None:
    """Serve as NVIDIA's deployment does: an HTTP ingress, a handle, and the model; all of Serve's defaults."""
    import socket
    import threading

    import ray
    from fastapi import FastAPI
    from ray import serve

    app = FastAPI()

    @serve.deployment
    class Model:
        def infer(self, body: dict) -> dict:
            text = body["prompt"][: body["max_tokens"]]
            return {"choices": [{"text": text}], "usage": {"completion_tokens": len(text) + 1}}

    @serve.deployment
    @serve.ingress(app)
    class Ingress:
        def __init__(self, model: serve.handle.DeploymentHandle) -> None:
            self._model = model

        @app.post("/v1/completions")
        async def complete(self, body: dict) -> dict:
            return await self._model.infer.remote(body)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Ingress.bind(Model.bind()))  # type: ignore[attr-defined]
    print(port, flush=True)
    threading.Event().wait()


@contextmanager
def handle_based() -> Iterator[Server]:
    """Run Ray's peer with a Ray of its own, which ends with it."""
    with session_dir.create(secrets.token_hex(32)) as folder, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "handles", str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=cluster.environment(folder, probe_s=10, nodes=1),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                sys.exit((folder / "log").read_text())
            yield Server(f"http://127.0.0.1:{port}/v1", "any", (process.pid,))
        finally:
            process.kill()
            process.wait()
            processes.kill_session(process.pid)


def take_turns(servers: dict[str, Server], peer: str, rounds: int) -> Found:
    """Send the same bursts to all servers; peers cannot stream, and the slow one gets a tenth."""
    found: Found = defaultdict(lambda: defaultdict(list))
    for server in servers.values():
        server.burst(ECHO, 4, 20)
    for number in range(rounds):
        for concurrency, count in REQUESTS.items():
            for stream in (False, True):
                for name, server in _in_turn(servers, number):
                    if name in (peer, "bare") and stream:
                        continue
                    some = max(count // 10, concurrency) if name == peer else count
                    figures = server.burst(ECHO | {"stream": stream}, concurrency, some)
                    found[concurrency, stream][name].append(figures)
    return found


def _in_turn(servers: dict[str, Server], number: int) -> list[tuple[str, Server]]:
    return list(servers.items())[:: -1 if number % 2 else 1]


def show(found: Found, names: tuple[str, ...]) -> None:
    """Print a table of inline, one backend, its peer, and further servers."""
    head = " ".join(f"{name:>10}" for name in names)
    titles = " | ".join(f"{title:^{len(head)}}" for title in ("requests/s", "CPU ms per request"))
    print(f"{'concurrency':>11} {'stream':>6} | {titles} | over inline  x peer")
    print(f"{'':>18} | {head} | {head} |")
    for (concurrency, stream), figures in found.items():
        print(f"{concurrency:>11} {'yes' if stream else 'no':>6} | {_row(figures, names)}", flush=True)


def _row(figures: dict[str, list[Figures]], names: tuple[str, ...]) -> str:
    rate = {name: statistics.median(f.requests_per_s for f in each) for name, each in figures.items()}
    cpu = {name: statistics.median(f.cpu_ms for f in each) for name, each in figures.items()}
    rates = " ".join(f"{rate.get(name, float('nan')):>10.0f}" for name in names)
    costs = " ".join(f"{cpu.get(name, float('nan')):>10.2f}" for name in names)
    inline, ours, peer, *_ = (figures.get(name, []) for name in names)
    over = statistics.median(our.cpu_ms - its.cpu_ms for our, its in zip(ours, inline, strict=True))
    times = f"{_ratio([f.requests_per_s for f in ours], [f.requests_per_s for f in peer]):>7.1f}" if peer else ""
    return f"{rates} | {costs} | {over:>+8.2f} ms {times}"


def _ratio(ours: list[float], others: list[float]) -> float:
    return statistics.median(our / other for our, other in zip(ours, others, strict=True))


def idle(server: Server) -> float:
    """Return the CPU time of an idle server, in ms per second."""
    cpu, start = server.cpu_s(), time.perf_counter()
    time.sleep(IDLE_S)
    return (server.cpu_s() - cpu) / (time.perf_counter() - start) * 1e3


def say_idle(servers: dict[str, Server]) -> None:
    print(f"idle, CPU ms per second: {', '.join(f'{name} {idle(servers[name]):.1f}' for name in servers)}")


def echo(rounds: int, folder: Path) -> None:
    """Requests per second and CPU time of PyTriton, with an engine that costs almost nothing."""
    with ExitStack() as stack:
        arguments = ("engine=echo", "model=none")
        servers = beside(stack, folder / "echo", ("inline", "pytriton"), *arguments)
        servers["peer"] = stack.enter_context(per_request_clients(folder / "echo" / "pytriton", servers["pytriton"]))
        servers["bare"] = stack.enter_context(bare_triton())
        show(take_turns(servers, "peer", rounds), ("inline", "pytriton", "peer", "bare"))
        say_idle(servers)


def ray(rounds: int, folder: Path) -> None:
    """The same for Ray Serve: one replica, and one of the peer."""
    with ExitStack() as stack:
        arguments = ("engine=echo", "model=none")
        servers = beside(stack, folder / "ray", ("inline", "ray"), *arguments)
        servers["handles"] = stack.enter_context(handle_based())
        show(take_turns(servers, "handles", rounds), ("inline", "ray", "handles"))
        say_idle(servers)


def real(rounds: int, folder: Path) -> None:
    """Tokens per second of the shipped model at concurrency 16."""
    found: dict[tuple[str, bool], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        servers = beside(stack, folder / "real", ("inline", "pytriton"))
        for server in servers.values():
            asyncio.run(burst(server, REAL, 16, 32))
        for number in range(rounds):
            for stream in (False, True):
                for name, server in _in_turn(servers, number):
                    figures = asyncio.run(burst(server, REAL | {"stream": stream}, 16, 128))
                    found[name, stream].append(figures.tokens_per_s)
    for stream in (False, True):
        inline, triton = (found[name, stream] for name in ("inline", "pytriton"))
        kind = "streamed" if stream else "whole"
        rates = f"inline {statistics.median(inline):.0f}, pytriton {statistics.median(triton):.0f}"
        print(f"tokens/s, model=tiny, concurrency 16, {kind}: {rates}, x{_ratio(triton, inline):.2f}")


async def listen(server: Server, concurrency: int) -> tuple[list[float], list[float]]:
    """Stream answers of a paced model; return the waits for the first tokens and for all others, in ms."""
    first: list[float] = []
    later: list[float] = []

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number * APART_S)
        last, waits = time.perf_counter(), []
        body = PACED | {"model": server.model}
        async with session.post(f"{server.url}/completions", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    now = time.perf_counter()
                    waits.append((now - last) * 1e3)
                    last = now
        first.append(waits[0])
        later.extend(waits[1:])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*[one(session, number) for number in range(concurrency)])
    return first, later


def latency(rounds: int, folder: Path) -> None:
    """Measure the wait for tokens of an engine that makes one every 20 ms per stream."""
    with ExitStack() as stack:
        arguments = ("engine=echo", "model=none", f"engine.tokens_per_second={TOKENS_PER_S}")
        servers = beside(stack, folder / "paced", ("inline", "pytriton", "ray"), *arguments)
        print(f"{'at a time':>9}   ms to the first token, and between tokens: median, 95th percentile")
        for concurrency in REQUESTS:
            found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in servers}
            for number in range(rounds):
                for name, server in _in_turn(servers, number):
                    for all_waits, waits in zip(found[name], asyncio.run(listen(server, concurrency)), strict=True):
                        all_waits.extend(waits)
            said = [f"{name} {_spread(first)}, {_spread(later)}" for name, (first, later) in found.items()]
            print(f"{concurrency:>9}   {'   '.join(said)}", flush=True)


def _spread(values: list[float]) -> str:
    highest = statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
    return f"{statistics.median(values):.1f} {highest:.1f}"


PARTS = {"echo": echo, "ray": ray, "real": real, "latency": latency}


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(*sys.argv[2:])
    elif sys.argv[1:2] == ["handles"]:
        handles(*sys.argv[2:])
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
        parts = [word for word in sys.argv[1:] if not word.isdigit()]
        if unknown := set(parts) - PARTS.keys():
            sys.exit(f"{', '.join(unknown)}: expected a number of rounds, or one of {', '.join(PARTS)}")
        with tempfile.TemporaryDirectory() as temporary:
            for part in parts or PARTS:
                PARTS[part](numbers[0] if numbers else 5, Path(temporary))
