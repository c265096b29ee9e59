"""Measure what vLLM's HTTP server costs over vLLM's AsyncLLM, and what the launcher's proxy adds.

    python benchmarks/async_llm.py --program /opt/vllm/bin/vllm [--model smollm2] [--dtype bf16] [--rounds 1]

``direct`` is AsyncLLM in a program of its own (`bare_async_llm.py`). ``server`` is ``backend=vllm`` as the launcher
starts it. ``proxy`` is the same server behind the launcher's proxy, with the default adapters. All have the same
converted checkpoint, flags and one compute thread, and take turns in alternating order. A burst is as many requests as
are in flight, of 16 to 256 prompt tokens and 8 to 128 generated ones; scores are log-probabilities of prompts.

CPU time is that of all processes of a side. ``front`` is the part outside of vLLM's engine core and its worker. These
do the same work on every side, so that the difference of fronts is what HTTP costs, also on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from backends import launched

from launcher.validate.certificate import NAMES

SIDES = ("direct", "server", "proxy")
HEAD = f"{'':26} {'requests/s':^29}   {'CPU ms a request':^29}   {'of which in front':^29}   server  proxy"
THREADS = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
SMALL = "--enforce-eager --kv-cache-memory-bytes 1G"
TORCH = {"fp32": "float32", "bf16": "bfloat16"}
CORE = "VLLM::"
"""How vLLM's engine core and its workers call themselves."""
SKIPPED = f"validate.skip=[{','.join(NAMES[2:])}]"
PROMPT, OUTPUT, IDS = (16, 256), (8, 128), (100, 200)
LONGEST = {"tiny": 128}
"""The prompts of a model whose context is short."""
TIMES = {"tiny": 8}
"""How often a fast model gets as many requests as are in flight."""


@dataclass(frozen=True)
class Burst:
    """Requests of prompt and number of tokens, so many of them at a time."""

    in_flight: int
    stream: bool
    score: bool
    requests: Sequence[tuple[Sequence[int], int]]

    @property
    def name(self) -> str:
        kind = "scores" if self.score else "streamed" if self.stream else "whole"
        return f"{kind}, {self.in_flight} in flight"


@dataclass(frozen=True)
class Figures:
    """The figures of one side in one burst, per request."""

    requests_per_s: float
    cpu_ms: float
    front_ms: float


@dataclass(frozen=True)
class Side:
    """The processes of one side, whose CPU time counts."""

    pid: int

    def spent(self) -> tuple[float, float]:
        """Return the CPU seconds of all processes, and of those that are no engine core."""
        root, total, front = psutil.Process(self.pid), 0.0, 0.0
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
            front += 0.0 if process.name().startswith(CORE) else times.user + times.system
        return total, front

    def figures(self, burst: Burst) -> Figures:
        before = self.spent()
        seconds, count = self.run(burst), len(burst.requests)
        total, front = (after - then for after, then in zip(self.spent(), before, strict=True))
        return Figures(count / seconds, total / count * 1e3, front / count * 1e3)

    def run(self, burst: Burst) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Direct(Side):
    """AsyncLLM alone."""

    process: subprocess.Popen[str]

    def run(self, burst: Burst) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(burst)) + "\n")
        self.process.stdin.flush()
        return float(_line(self.process))


@dataclass(frozen=True)
class Served(Side):
    """A server with OpenAI's API."""

    url: str
    model: str

    def run(self, burst: Burst) -> float:
        return asyncio.run(self._run(burst))

    async def _run(self, burst: Burst) -> float:
        left, loop = iter(burst.requests), asyncio.get_running_loop()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def work() -> None:
                for prompt, tokens in left:
                    await self._ask(session, burst, prompt, tokens)

            start = loop.time()
            await asyncio.gather(*[work() for _ in range(burst.in_flight)])
            return loop.time() - start

    async def _ask(self, session: aiohttp.ClientSession, burst: Burst, prompt: Sequence[int], tokens: int) -> None:
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body |= {"echo": True, "logprobs": 1} if burst.score else {}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if burst.stream else {}
        async with session.post(f"{self.url}/completions", json=body) as answer:
            data = await answer.read()
            assert answer.status == 200, data
        last = json.loads(data.split(b"data: ")[-2] if burst.stream else data)
        assert last["usage"]["completion_tokens"] == tokens
        assert not burst.score or len(last["choices"][0]["logprobs"]["token_logprobs"]) == len(prompt) + tokens


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "up" or line[:1].isdigit():
            return line
    sys.exit("AsyncLLM ended")


def _python(program: str) -> str:
    """Return the Python that a program of an environment runs with."""
    return Path(program).read_text().splitlines()[0].removeprefix("#!").strip()


@contextmanager
def direct(python: str, checkpoint: str, arguments: Mapping[str, Any], log: Path | None = None) -> Iterator[Direct]:
    """Start AsyncLLM with these engine arguments, in the environment of ``python``; it prints into ``log``."""
    bare = str(Path(__file__).with_name("bare_async_llm.py"))
    command = [python, bare, checkpoint, json.dumps(arguments)]
    with (
        log.open("w") if log else nullcontext() as err,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err) as process,
    ):
        try:
            _line(process)
            yield Direct(process.pid, process)
        finally:  # AsyncLLM leaves its engine core behind
            tree = psutil.Process(process.pid)
            for each in (*tree.children(recursive=True), tree):
                each.kill()


def like_served(dtype: str) -> dict[str, Any]:
    """Return the engine arguments for the flags that `backend=vllm` gives the server."""
    limits = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "max_logprobs": 20}
    return {"dtype": TORCH[dtype], "generation_config": "vllm", **limits}


@contextmanager
def served(program: str, model: str, dtype: str, folder: Path) -> Iterator[tuple[Served, Served, str]]:
    """Start the server with the proxy in front; yield both, and the folder of the converted checkpoint."""
    arguments = [
        *("backend=vllm", f"backend.program={json.dumps(f'{program} serve')}"),
        f"backend.arguments={json.dumps(SMALL)}",
        *(f"model={model}", f"optimizations.dtype={dtype}", f"backend.cache={folder / 'cache'}"),
        *("proxy.port=0", "proxy.require_key=false", "tasks=[addition]", SKIPPED),
    ]
    with launched(folder / "run", *arguments) as server:
        (checkpoint,) = [each for each in (folder / "cache").iterdir() if each.is_dir()]
        proxy = json.loads((folder / "run" / "proxy.json").read_text())
        (pid,) = server.roots
        yield Served(pid, server.url, server.model), Served(pid, proxy["url"], server.model), str(checkpoint)


def bursts(seed: int, in_flight: Sequence[int], model: str) -> list[Burst]:
    """Return the bursts of a round; no prompt begins like another."""
    drawn, longest, times = random.Random(seed), LONGEST.get(model, PROMPT[1]), TIMES.get(model, 1)
    found = []
    for number in in_flight:
        for stream, score in ((False, False), (True, False), (False, True)):
            output = (1, 1) if score else OUTPUT
            sizes = [(drawn.randint(PROMPT[0], longest), drawn.randint(*output)) for _ in range(number * times)]
            requests = [([drawn.randrange(*IDS) for _ in range(size)], tokens) for size, tokens in sizes]
            found.append(Burst(number, stream, score, requests))
    return found


Found = dict[str, dict[str, list[Figures]]]


def take_turns(sides: dict[str, Side], rounds: int, in_flight: Sequence[int], model: str) -> Found:
    found: Found = defaultdict(lambda: defaultdict(list))
    for number in range(-1, rounds):  # one small round first, which counts for nothing
        for at, burst in enumerate(bursts(number, in_flight if number >= 0 else [4], model)):
            for name in SIDES[:: -1 if (number + at) % 2 else 1]:
                figures = sides[name].figures(burst)
                if number >= 0:
                    found[burst.name][name].append(figures)
    return found


def show(found: Found) -> None:
    """Print medians, and the ratios of CPU time that the difference of the fronts makes to ``direct``."""
    print(HEAD)
    print(f"{'':26}" + f" {' '.join(f'{name:>9}' for name in SIDES)}  " * 3)
    for name, sides in found.items():
        cells = [
            " ".join(f"{statistics.median(getattr(each, field) for each in sides[side]):>9.1f}" for side in SIDES)
            for field in ("requests_per_s", "cpu_ms", "front_ms")
        ]
        over = " ".join(f"{_over(sides, side):>6.1%}" for side in SIDES[1:])
        print(f"{name:<26} {'   '.join(cells)}   {over}", flush=True)


def _over(sides: dict[str, list[Figures]], side: str) -> float:
    pairs = zip(sides[side], sides["direct"], strict=True)
    cost = statistics.median(each.front_ms - its.front_ms for each, its in pairs)
    return cost / statistics.median(each.cpu_ms for each in sides["direct"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="vllm", help="the program `vllm`, in its own environment")
    parser.add_argument("--model", default="smollm2", help="an option of the group `model`")
    parser.add_argument("--dtype", default="fp32", choices=list(TORCH))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 64])
    given = parser.parse_args()
    program = shutil.which(given.program)
    if program is None:
        print(f"left out: the program '{given.program}' is not here; `make vllm` makes build/vllm/bin/vllm (--program)")
        return
    os.environ.update(THREADS | QUIET)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server, proxy, checkpoint = stack.enter_context(served(program, given.model, given.dtype, folder))
        bare = stack.enter_context(
            direct(_python(program), checkpoint, like_served(given.dtype), folder / "direct.log")
        )
        sides: dict[str, Side] = {"direct": bare, "server": server, "proxy": proxy}
        print(f"{given.model}, {given.dtype}, {given.rounds} rounds")
        show(take_turns(sides, given.rounds, given.in_flight, given.model))


if __name__ == "__main__":
    main()
