"""Measure backend=ray with 1, 2, 4 and 8 replicas of an engine that sleeps like a GPU, and the cost of its parts.

Usage: ``.venv/bin/python benchmarks/scaling.py [replicas ...]``. A step takes 10 ms and gives one token to each of up
to 16 sequences, so that one replica makes at most 1,600 tokens/s. There are twice as many clients as fit into all
batches, so each batch is full if the load is even. Their answers are whole and have 256 tokens, the least in an
evaluation of reasoning. The replicas sleep, but their tokens cost CPU. The benchmark prints the machine's CPU use,
because a figure from full cores says nothing about scaling. `benchmarks/fleet.py` uses the costs that this prints.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from backends import Server, burst, launched

STEP_S, BATCH, TOKENS = 0.01, 16, 256
BODY = {"prompt": "abc", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
ROUNDS = 3
SECONDS = 11
"""The expected length of a burst."""
IDLE_S = 6.0
PARTS = ("haproxy", "driver", "replicas", "ray")


def parts(server: Server) -> Counter[str]:
    """Return the CPU seconds so far of HAProxy, of the driver, of the replicas, and of Ray's own processes."""
    spent = Counter[str]()
    for process in psutil.Process(server.roots[0]).children(recursive=True):
        times, command = process.cpu_times(), " ".join(process.cmdline())
        spent[_part(command)] += times.user + times.system
    return spent


def _part(command: str) -> str:
    for part, sign in (("haproxy", "haproxy"), ("driver", "backends.ray.driver"), ("replicas", "ServeReplica")):
        if sign in command:
            return part
    return "ray"


def measure(replicas: int, folder: Path) -> float:
    """Measure and print one fleet; return its tokens per second."""
    given = ("engine=echo", "model=none", "backend=ray", f"engine.step_s={STEP_S}", f"engine.batch={BATCH}")
    with launched(folder, *given, f"backend.replicas={replicas}") as server:
        clients, count = 2 * BATCH * replicas, int(SECONDS / (STEP_S * TOKENS)) * BATCH * replicas
        asyncio.run(burst(server, BODY, clients, clients))
        before, own = parts(server), time.process_time()
        psutil.cpu_percent()
        rates = [asyncio.run(burst(server, BODY, clients, count)).tokens_per_s for _ in range(ROUNDS)]
        busy, client = parts(server) - before, (time.process_time() - own) / (ROUNDS * count) * 1e3
        full = psutil.cpu_percent()
        time.sleep(1)
        before = parts(server)
        time.sleep(IDLE_S)
        idle = parts(server) - before
    each = ", ".join(f"{part} {busy[part] / (ROUNDS * count) * 1e3:.2f}" for part in PARTS)
    still = ", ".join(f"{part} {idle[part] / IDLE_S * 1e3:.0f}" for part in PARTS)
    rate = statistics.median(rates)
    share = rate / replicas / (BATCH / STEP_S)
    print(f"{replicas} replicas: {rate:.0f} tokens/s, {share:.0%} of the engine's limit; CPUs {full:.0f} % busy")
    print(f"   CPU-ms per request: {each}, this client {client:.2f}; CPU-ms per second when idle: {still}", flush=True)
    return rate


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        counts = [int(word) for word in sys.argv[1:]] or [1, 2, 4, 8]
        found = {n: measure(n, Path(temporary) / str(n)) for n in counts}
    first = min(found)
    for n, rate in found.items():
        print(f"{n} replicas: {rate / found[first] * first / n:.1%} of linear")
