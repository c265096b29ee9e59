"""Compare the cost of our proxy with that of others, side by side in one run.

    python benchmarks/proxy.py [--rounds 2] [--seconds 2] [--connections 1 64 512] [--only ours nemo]
        [--kinds json sse16 sse] [--nemo PYTHON] [--litellm PYTHON]
    python benchmarks/proxy.py --delay
    python benchmarks/proxy.py --soak 600

The upstream gives a constant answer. JSON comes from nginx where it is installed. Streams of 64 server-sent events come
from a process of this file, and so does JSON without nginx. Their events come 16 at a time (``sse16``), or each by
itself (``sse``), as fast as the upstream can. ``wrk`` asks. What counts is the user and system time of the proxy's
processes. All proxies run, and take turns, in alternating order. Each figure is the median over the rounds, and so is
each ratio, of figures within one round. A proxy that is not installed is left out with the reason. The defaults take
four minutes.

``--nemo`` names the Python of an environment with nemo-evaluator 0.3.0, which needs Python 3.12; ``--litellm`` that of
one with litellm[proxy]. NeMo Evaluator collects a stream: it sends no byte of it before its end.

``--delay`` prints how much later an event of a slow stream reaches a client than it left the upstream. ``--soak``
prints the memory of our proxy while it is asked for so many seconds, and fails if it grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.adapters.base import Adapter  # noqa: E402
from launcher.adapters.payload import Payload  # noqa: E402
from launcher.adapters.reasoning import Reasoning  # noqa: E402
from launcher.adapters.system_message import SystemMessage  # noqa: E402
from launcher.core.types import Endpoint  # noqa: E402
from launcher.proxy.settings import Proxy  # noqa: E402
from launcher.proxy.supervisor import Mounted, listening, running  # noqa: E402

PATH = "/v1/chat/completions"
KEY = "benchmark-key"
EVENTS = 64
START_S = 120.0
TEXT = "<think>" + "because " * 40 + "</think>" + "word " * 80
ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 120, "total_tokens": 132},
}  # fmt: skip
CHAINS = ("empty", "chain")
KINDS = ("json", "sse16", "sse")
TOGETHER = 16
"""Events that leave the upstream at once, in streams of the kind ``sse16``."""
SLOW_S = 0.002
"""Between two events of a slow stream."""
GROWTH = 1.05
"""The memory at the end of a soak may be so many times that after its first fifth."""
NGINX = """
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600; client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi; {body} }}
"""
CONSTANT = """
server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; root {folder};
error_page 405 =200 /answer; try_files /answer =404; }} }}
"""
FORWARD = """
upstream up {{ server 127.0.0.1:{port}; keepalive 512; }}
server {{ listen 127.0.0.1:{own}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_buffering off;
proxy_set_header Connection ""; }} }}
"""
NEMO = """
import sys, time
from nemo_evaluator.adapters.proxy import start_adapter_proxy
names = [("system_message", {"system_message": "Be brief."}), ("payload_modifier", {"params_to_add": {"top_p": 1}}),
         ("reasoning", {})] if sys.argv[3] == "chain" else []
specs = [{"name": name, "config": config} for name, config in names]
url = f"http://127.0.0.1:{sys.argv[2]}/v1/chat/completions"
start_adapter_proxy(upstream_url=url, model_id="m", port=int(sys.argv[1]), interceptor_specs=specs)
time.sleep(1e6)
"""


@dataclass(frozen=True)
class Cost:
    """What one load did: requests per second of CPU and of time, the 99th percentile in ms, and failures."""

    per_cpu_s: float
    per_s: float
    p99_ms: float
    failures: str


@dataclass(frozen=True)
class Running:
    """A proxy: its port, and the processes whose time counts, with their children."""

    port: int
    pids: Sequence[int]

    def cpu_s(self) -> float:
        found = [psutil.Process(pid) for pid in self.pids]
        family = [*found, *(child for each in found for child in each.children(recursive=True))]
        return sum(sum(each.cpu_times()[:2]) for each in family)

    def memory_mib(self) -> float:
        return sum(psutil.Process(pid).memory_info().rss for pid in self.pids) / 2**20


def events() -> list[bytes]:
    made = []
    for number in range(EVENTS):
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": "stop" if number == EVENTS - 1 else None}
        found = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        made.append(b"data: " + json.dumps(found).encode() + b"\n\n")
    return [*made, b"data: [DONE]\n\n"]


WHOLE = json.dumps(ANSWER).encode()
JSON_HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(WHOLE)}\r\n\r\n".encode()
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%b\r\n" % (len(event), event) for event in events()]
LAST = b"0\r\n\r\n"
BATCHES = [b"".join(CHUNKS[i : i + TOGETHER]) for i in range(0, EVENTS, TOGETHER)]
ANSWERS = {
    "json": [JSON_HEAD + WHOLE],
    "sse16": [SSE_HEAD + BATCHES[0], *BATCHES[1:-1], BATCHES[-1] + CHUNKS[-1] + LAST],
    "sse": [SSE_HEAD, *CHUNKS, LAST],
    "slow": [SSE_HEAD, *CHUNKS, LAST],
}
TIME = re.compile(rb'"created": ?(\d+)')


class Constant(asyncio.Protocol):
    """Answers each request at once, in parts that leave one after another; a request ends with its body."""

    parts: Sequence[bytes] = ()
    slow = False
    """Whether the events come one by one, after a while, and tell the time at which they left."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data, self._loop = transport, b"", asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", self._data[: max(head, 0)])
        if head >= 0 and len(self._data) >= head + 4 + (int(length[1]) if length else 0):
            self._data = b""  # wrk sends one request at a time
            self._send(0)

    def _send(self, place: int) -> None:
        part = self.parts[place]
        if self.slow:
            part = _now_in(part)
        self._transport.write(part)
        if place + 1 < len(self.parts):
            self._loop.call_later(SLOW_S if self.slow else 0, self._send, place + 1)


def _now_in(chunk: bytes) -> bytes:
    """Return the chunk of an event with the time in nanoseconds in place of its date."""
    event = TIME.sub(b'"created": %d' % time.monotonic_ns(), chunk.partition(b"\r\n")[2].removesuffix(b"\r\n"))
    return chunk if TIME.search(chunk) is None else b"%x\r\n%b\r\n" % (len(event), event)


def serve_constant(port: int, kind: str) -> None:
    """Be an upstream."""
    import uvloop

    Constant.parts, Constant.slow = ANSWERS[kind], kind == "slow"

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    uvloop.run(serve())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def process(command: Sequence[str], port: int, **environment: str) -> Iterator[int]:
    """Run a server until it listens; yield its process id, and end it and its children."""
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.1)
        yield started.pid
    finally:
        family = [*psutil.Process(started.pid).children(recursive=True), started] if started.poll() is None else []
        for each in family:
            each.kill()
        started.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def upstreams(folder: Path, kinds: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield the port of a constant answer for each kind."""
    ports = {kind: free_port() for kind in kinds}
    with ExitStack() as stack:
        for kind, port in ports.items():
            (folder / "answer").write_bytes(WHOLE)
            if kind == "json" and (nginx := shutil.which("nginx")) is not None:
                body = CONSTANT.format(port=port, folder=folder)
                command = [nginx, "-c", _nginx_file(folder, f"up-{kind}", body)]
            else:
                command = [sys.executable, __file__, "--serve", str(port), kind]
            stack.enter_context(process(command, port))
        folder.chmod(0o755)
        yield ports


def _nginx_file(folder: Path, name: str, body: str) -> str:
    path = folder / f"{name}.conf"
    path.write_text(NGINX.format(folder=folder, name=name, body=body))
    return str(path)


@contextmanager
def ours(upstream: int, chain: str, folder: Path, python: str) -> Iterator[Running]:
    adapters: list[Adapter] = [SystemMessage(text="Be brief."), Payload(add={"top_p": 1}), Reasoning()]
    endpoint = Endpoint(f"http://127.0.0.1:{upstream}/v1", "m", "external", "x", is_builtin=False)
    place = Path(tempfile.mkdtemp(dir=folder))
    mounted = Mounted(endpoint, adapters if chain == "chain" else [], None, place / "adapters", place / "log")
    others = _workers()
    with listening(Proxy()) as listener, running(Proxy(), listener, mounted, KEY) as supervisor:
        port = int(supervisor.url.rpartition(":")[2].removesuffix("/v1"))
        yield Running(port, sorted(_workers() - others))


@contextmanager
def nemo(upstream: int, chain: str, folder: Path, python: str) -> Iterator[Running]:
    script, port = folder / "nemo.py", free_port()
    script.write_text(NEMO)
    with process([python, str(script), str(port), str(upstream), chain], port) as pid:
        yield Running(port, [pid])


@contextmanager
def litellm(upstream: int, chain: str, folder: Path, python: str) -> Iterator[Running]:
    config, port = folder / "litellm.yaml", free_port()
    parameters = {"model": "openai/m", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "x"}
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]}))
    command = [
        str(Path(python).with_name("litellm")),
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with process(
        command, port, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true"
    ) as pid:
        yield Running(port, [pid])


@contextmanager
def nginx(upstream: int, chain: str, folder: Path, python: str) -> Iterator[Running]:
    port = free_port()
    file = _nginx_file(folder, f"forward-{port}", FORWARD.format(port=upstream, own=port))
    with process([python, "-c", file], port) as pid:
        yield Running(port, [pid])


def load(port: int, connections: int, seconds: int, kind: str, folder: Path) -> tuple[int, str]:
    """Ask for some seconds; return the number of answers, and what wrk printed."""
    script = folder / f"{kind}.lua"
    body = {"model": "m", "messages": [{"role": "user", "content": "hello " * 60}], "max_tokens": 128}
    body |= {} if kind == "json" else {"stream": True}
    script.write_text(
        f"wrk.method='POST'\nwrk.body=[[{json.dumps(body)}]]\nwrk.headers['Content-Type']='application/json'\n"
        f"wrk.headers['Authorization']='Bearer {KEY}'\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script)]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True)
    count = re.search(r"(\d+) requests in", done.stdout)
    assert count is not None, done.stdout
    return int(count[1]), done.stdout


def measured(proxy: Running, kind: str, connections: int, seconds: int, folder: Path) -> Cost:
    before, start = proxy.cpu_s(), time.monotonic()
    count, said = load(proxy.port, connections, seconds, kind, folder)
    spent, elapsed = proxy.cpu_s() - before, time.monotonic() - start
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert p99 is not None, said
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]
    return Cost(
        count / spent, count / elapsed, float(p99[1]) * scale, "; ".join(re.findall(r"Non-2xx.*|Socket err.*", said))
    )


def _workers() -> set[int]:
    """Return the processes of our proxies, which are children of this one."""
    return {p.pid for p in psutil.Process().children() if "launcher.proxy.worker" in " ".join(p.cmdline())}


def available(asked: argparse.Namespace) -> dict[str, tuple[Any, str]]:
    """Return the proxies that can be measured, with their programs; print why others cannot."""
    found: dict[str, tuple[Any, str]] = {"ours": (ours, sys.executable)}
    if asked.nemo and subprocess.run([asked.nemo, "-c", "import nemo_evaluator.adapters.proxy"]).returncode == 0:
        found["nemo"] = nemo, asked.nemo
    else:
        print("NeMo Evaluator is left out: --nemo names no Python 3.12 with nemo-evaluator==0.3.0")
    if asked.litellm and Path(asked.litellm).with_name("litellm").exists():
        found["litellm"] = litellm, asked.litellm
    else:
        print("LiteLLM is left out: --litellm names no Python with litellm[proxy]")
    if (program := shutil.which("nginx")) is not None:
        found["nginx"] = nginx, program
    else:
        print("nginx is left out: it is not installed")
    return {name: each for name, each in found.items() if not asked.only or name in asked.only}


def compare(asked: argparse.Namespace, folder: Path) -> None:
    found = available(asked)
    with upstreams(folder, asked.kinds) as ports:
        for kind in asked.kinds:
            with proxies(found, ports[kind], kind, folder) as rows:
                for connections in asked.connections:
                    table(asked, folder, rows, kind, connections)


@contextmanager
def proxies(
    found: dict[str, tuple[Any, str]], upstream: int, kind: str, folder: Path
) -> Iterator[dict[tuple[str, str], Running]]:
    """Run all proxies, with the empty chain and with ours and NeMo Evaluator's; each has been asked for a second."""
    names = [(name, chain) for name in found for chain in CHAINS if chain == "empty" or name in ("ours", "nemo")]
    with ExitStack() as stack:
        rows = {(n, c): stack.enter_context(found[n][0](upstream, c, folder, found[n][1])) for n, c in names}
        for each in rows.values():
            load(each.port, 64, 1, kind, folder)
        yield rows


def table(
    asked: argparse.Namespace, folder: Path, rows: dict[tuple[str, str], Running], kind: str, connections: int
) -> None:
    """Measure all proxies under one load, and print one row for each."""
    costs: dict[tuple[str, str], list[Cost]] = {row: [] for row in rows}
    for number in range(asked.rounds):
        for row in rows if number % 2 == 0 else reversed(rows):
            costs[row].append(measured(rows[row], kind, connections, asked.seconds, folder))
    print(f"\n{kind}, {connections} connections: medians of {asked.rounds} rounds")
    print("| proxy | adapters | per CPU-second | per second | p99 | of NeMo's, per CPU-second | of NeMo's p99 |")
    print("|---|---|---|---|---|---|---|")
    for (name, chain), found in costs.items():
        others = costs.get(("nemo", chain), [])
        figures = [statistics.median(getattr(c, field) for c in found) for field in ("per_cpu_s", "per_s", "p99_ms")]
        ratios = [
            statistics.median(_ratio(getattr(a, field), getattr(b, field)) for a, b in zip(found, others, strict=True))
            for field in ("per_cpu_s", "p99_ms")
        ] if others else []  # fmt: skip
        shown = [f"{ratio:.2f}" for ratio in ratios] or ["", ""]
        print(
            f"| {name} | {chain} | {figures[0]:,.0f} | {figures[1]:,.0f} | {figures[2]:.1f} ms | {' | '.join(shown)} |"
        )
        for failure in {c.failures for c in found if c.failures}:
            print(f"  {name}, {chain}: {failure}")
    sys.stdout.flush()


def _ratio(one: float, other: float) -> float:
    """Return a ratio; a proxy that answered nothing in the time has none."""
    return one / other if other else float("nan")


def soak(asked: argparse.Namespace, folder: Path) -> None:
    """Print the memory of our proxy under load, every tenth of the time; fail if it grows."""
    grown = []
    with upstreams(folder, asked.kinds) as ports:
        for kind in asked.kinds:
            with ours(ports[kind], "chain", folder, "") as proxy:
                memory = []
                for _ in range(10):
                    load(proxy.port, 64, max(1, asked.soak // 10 // len(asked.kinds)), kind, folder)
                    memory.append(proxy.memory_mib())
            print(f"{kind}: MiB after each tenth: {' '.join(f'{each:.1f}' for each in memory)}", flush=True)
            if memory[-1] > GROWTH * memory[1]:
                grown.append(kind)
    if grown:
        sys.exit(f"the memory grows: {', '.join(grown)}")


def delay(asked: argparse.Namespace, folder: Path) -> None:
    """Print how long events are under way, without a proxy and through each, over one connection."""
    print("| proxy | adapters | first event, median | all events, median | all events, 99 % |")
    print("|---|---|---|---|---|")
    with upstreams(folder, ["slow"]) as ports:
        _print_delays("none", "", ports["slow"])
        for name, (proxy, program) in available(asked).items():
            for chain in CHAINS if name in ("ours", "nemo") else CHAINS[:1]:
                with proxy(ports["slow"], chain, folder, program) as running_proxy:
                    _print_delays(name, chain, running_proxy.port)


def _print_delays(name: str, chain: str, port: int) -> None:
    streams = [_delays_ms(port) for _ in range(20)][5:]
    every = sorted(each for found in streams for each in found)
    first, middle = statistics.median(found[0] for found in streams), statistics.median(every)
    print(
        f"| {name} | {chain} | {first:.2f} ms | {middle:.2f} ms | {every[len(every) * 99 // 100]:.2f} ms |", flush=True
    )


def _delays_ms(port: int) -> list[float]:
    """Ask for a slow stream; return how long each of its events was under way."""
    body, found, rest = b'{"model": "m", "messages": [], "stream": true}', list[float](), b""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while len(found) < EVENTS and (part := client.recv(65536)):
            now, rest = time.monotonic_ns(), rest + part
            sent = [int(each) for each in TIME.findall(rest)]
            found += [(now - each) / 1e6 for each in sent[len(found) :]]
    assert len(found) == EVENTS, rest[:500]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--nemo", default="")
    parser.add_argument("--litellm", default="")
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--delay", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve_constant(int(asked.serve[0]), asked.serve[1])
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        (soak if asked.soak else delay if asked.delay else compare)(asked, Path(folder))


if __name__ == "__main__":
    main()
