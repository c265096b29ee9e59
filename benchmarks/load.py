"""Compare the throughput of our server under an evaluation with that under a bare load generator.

    python benchmarks/load.py [--rounds 5] [--samples 400] [--concurrency 16] [--engine megatron]

The server serves the shipped model in a process of its own. A first evaluation leaves the requests that it sent. The
load generator then sends the same requests with as many in flight: it parses nothing but the length of an answer. The
evaluation asks, checks, scores and writes every sample. Both take turns, in alternating order. The figures are medians
over the rounds: requests a second from the first request to the last answer, and the ratio within one round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop
from evaluate import ROOT, skipped, write

START_S = 300.0
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Generator(asyncio.Protocol):
    """One connection that sends the next request as soon as an answer is whole."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests, self._done = requests, done
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast(asyncio.Transport, transport)
        self._write, self._close = made.write, made.close
        self._send()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        length = LENGTH.search(self._data, 0, end + 2) if end >= 0 else None
        if length is not None and len(self._data) >= end + 4 + int(length[1]):
            if not self._data.startswith(b"HTTP/1.1 200"):
                self._done.set_exception(RuntimeError(self._data[:300].decode(errors="replace")))
                return
            self._data = b""
            self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._write(request)
        elif not self._done.done():
            self._done.set_result(None)
            self._close()


async def generate(url: str, bodies: list[bytes], concurrency: int) -> float:
    """Send all requests; return the seconds that this took."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = iter([head.encode() + b"%d\r\n\r\n%s" % (len(body), body) for body in bodies])
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(concurrency)]
    start = time.perf_counter()
    for end in ends:
        await loop.create_connection(partial(Generator, requests, end), host, port)
    await asyncio.gather(*ends)
    return time.perf_counter() - start


@contextmanager
def server(folder: Path, engine: str, *more: str) -> Iterator[str]:
    """Yield the URL of our server, in a process of its own; ``more`` are further settings."""
    options = [
        "mode=serve",
        f"engine={engine}",
        f"hydra.run.dir={folder}",
        f"validate.skip={skipped()}",
        "backend.port=0",
        *more,
    ]
    with (folder.parent / "server.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "launch.py", *options], cwd=ROOT, stdout=log, stderr=log)
        try:
            yield _url(process, folder)
        finally:
            process.terminate()
            process.wait()


def _url(process: subprocess.Popen[bytes], folder: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if (folder / "endpoint.json").exists():
            return str(json.loads((folder / "endpoint.json").read_text())["url"])
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {(folder.parent / 'server.log').read_text()[-2000:]}")


def evaluated(url: str, tasks: Path, run: Path, concurrency: int) -> float:
    """Run an evaluation; return its requests a second."""
    options = ["backend=external", f"backend.url={url}", f"validate.skip={skipped()}", "tasks=[bench]"]
    paths = [
        f"--config-dir={tasks}",
        f"hydra.run.dir={run}",
        f"evaluate.concurrency={concurrency}",
        "evaluate.min_coverage=0",
    ]
    done = subprocess.run([sys.executable, "launch.py", *paths, *options], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    results = json.loads((run / "results.json").read_text())
    return float(results["throughput"]["requests_per_s"])


def sent(run: Path) -> list[bytes]:
    """Return the bodies of the requests of a run."""
    lines = (run / "samples.jsonl").read_text().splitlines()
    return [json.dumps(json.loads(line)["request"]["body"]).encode() for line in lines]


def generated(url: str, bodies: Path, concurrency: int) -> float:
    """Run the load generator in a process of its own; return its requests a second."""
    command = [sys.executable, __file__, "--generate", url, str(bodies), "--concurrency", str(concurrency)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout)


def compare(folder: Path, rounds: int, samples: int, concurrency: int, engine: str) -> None:
    """Measure both in turns, and print the medians."""
    tasks, bodies = write(folder / "items", "generation", samples), folder / "bodies.json"
    found: list[tuple[float, float]] = []
    with server(folder / "server", engine) as url:
        evaluated(url, tasks, folder / "first", concurrency)
        bodies.write_text(json.dumps([body.decode() for body in sent(folder / "first")]))
        for number in range(rounds):
            run = folder / f"run-{number}"
            if number % 2:
                bare = generated(url, bodies, concurrency)
                found.append((evaluated(url, tasks, run, concurrency), bare))
            else:
                own = evaluated(url, tasks, run, concurrency)
                found.append((own, generated(url, bodies, concurrency)))
    own, bare = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(own / bare for own, bare in found)
    load = os.getloadavg()[0]
    print(f"{samples} generations, {concurrency} in flight, engine={engine}, {rounds} rounds, load {load:.0f}:")
    print(f"   evaluation {own:.1f} requests/s, load generator {bare:.1f}: ratio {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", nargs=2, metavar=("URL", "BODIES"), help="be the load generator")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--engine", default="megatron")
    given = parser.parse_args()
    if given.generate:
        url, path = given.generate
        bodies = [body.encode() for body in json.loads(Path(path).read_text())]
        print(len(bodies) / uvloop.run(generate(url, bodies, given.concurrency)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), given.rounds, given.samples, given.concurrency, given.engine)


if __name__ == "__main__":
    main()
