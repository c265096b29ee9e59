"""Measure the cost of HTTP: requests and tokens per second through the server against the bare engine.

    python benchmarks/serving.py [--engines echo,megatron] [--rounds 5] [--seconds 2] [--tokens 32]

Every round measures the bare engine and the server, one after the other, with 1 and with 16 requests in flight. The
client is a separate process, as in real use. The benchmark prints medians over the rounds, and the median of the
rounds' ratios, which is reliable on a busy machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from launcher.backends.inline import Inline
from launcher.core.types import resolve
from launcher.distributed.allocation import allocate
from launcher.engines.base import AsyncEngine, Deployment, Engine, GenerationRequest, Sampling
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism

CONCURRENCY = (1, 16)
PROMPT = "The quick brown fox jumps over the lazy dog. 7+5="
TINY = Model("tiny", "package:launcher/assets/tiny")


@dataclass(frozen=True)
class Rate:
    """The rates of one measurement, per second."""

    requests: float
    tokens: float


async def measure(ask: Callable[[], Awaitable[int]], concurrency: int, seconds: float) -> Rate:
    """Keep ``concurrency`` calls of ``ask`` in flight for about ``seconds``; each returns its number of tokens."""
    answers: list[int] = []
    start = time.perf_counter()

    async def keep_asking() -> None:
        while time.perf_counter() - start < seconds:
            answers.append(await ask())

    await asyncio.gather(*(keep_asking() for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    return Rate(len(answers) / elapsed, sum(answers) / elapsed)


async def through_http(url: str, model: str, tokens: int, concurrency: int, seconds: float) -> Rate:
    import aiohttp

    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> int:
            async with session.post(f"{url}/completions", json=body) as answer:
                answer.raise_for_status()
                return int((await answer.json())["usage"]["completion_tokens"])

        await ask()
        return await measure(ask, concurrency, seconds)


def client(url: str, model: str, tokens: int, concurrency: int, seconds: float) -> Rate:
    """Measure from a separate process."""
    import uvloop

    return cast(Rate, uvloop.run(through_http(url, model, tokens, concurrency, seconds)))


async def bare(runner: AsyncEngine, tokens: int, concurrency: int, seconds: float) -> Rate:
    prompt = tuple(runner.tokenizer.encode(PROMPT))
    sampling, ids = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True), count()

    async def ask() -> int:
        made = 0
        async for event in runner.generate(GenerationRequest(f"bench-{next(ids)}", prompt, sampling)):
            made += len(event.tokens)
        return made

    await ask()
    return await measure(ask, concurrency, seconds)


def engines(names: list[str]) -> Iterator[tuple[str, Engine, Model]]:
    if "echo" in names:
        yield "echo", Echo(), Model("echo")
    if "megatron" in names and resolve(TINY.path).exists():
        from launcher.engines.megatron import Megatron

        yield "megatron (tiny)", Megatron(), TINY


@contextmanager
def both(engine: Engine, model: Model) -> Iterator[tuple[asyncio.Runner, AsyncEngine, str]]:
    """Load the engine twice: bare with an event loop, and behind HTTP."""
    import uvloop

    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(model, engine, Parallelism(), Optimizations(), Path(folder))
        with (
            engine.load(deployment, allocate()) as runner,
            Inline().serve(deployment, allocate()) as endpoint,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
        ):
            yield loop, runner, endpoint.url


def rounds(
    engine: Engine, model: Model, options: argparse.Namespace, pool: Executor
) -> Iterator[tuple[int, Rate, Rate]]:
    """Yield ``(concurrency, bare, through HTTP)`` of every round."""
    with both(engine, model) as (loop, runner, url):
        for _ in range(options.rounds):
            for concurrency in CONCURRENCY:
                alone = loop.run(bare(runner, options.tokens, concurrency, options.seconds))
                asked = (url, model.name, options.tokens, concurrency, options.seconds)
                yield concurrency, alone, pool.submit(client, *asked).result()


def report(name: str, found: list[tuple[int, Rate, Rate]]) -> None:
    for concurrency in CONCURRENCY:
        pairs = [(alone, served) for at, alone, served in found if at == concurrency]
        alone, served = ([pair[i] for pair in pairs] for i in (0, 1))
        ratios = sorted(b.tokens / a.tokens for a, b in pairs)
        print(
            f"{name:16} {concurrency:11} {_medians(alone)} {_medians(served)}"
            f" {statistics.median(ratios):7.3f} ({ratios[0]:.3f} - {ratios[-1]:.3f})",
            flush=True,
        )


def _medians(rates: list[Rate]) -> str:
    requests, tokens = (statistics.median(getattr(rate, name) for rate in rates) for name in ("requests", "tokens"))
    return f"{requests:12.1f} {tokens:13.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="echo,megatron", help="which of echo and megatron to measure")
    parser.add_argument("--rounds", type=int, default=5, help="how often each measurement is repeated")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one measurement lasts")
    parser.add_argument("--tokens", type=int, default=32, help="tokens generated per request")
    options = parser.parse_args()
    titles = ("bare req/s", "bare tok/s", "HTTP req/s", "HTTP tok/s")
    print(
        f"{'engine':16} {'concurrency':>11} "
        + " ".join(f"{t:>{w}}" for t, w in zip(titles, (12, 13, 12, 13), strict=True)),
        "  HTTP / bare",
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for name, engine, model in engines(options.engines.split(",")):
            report(name, list(rounds(engine, model, options, pool)))


if __name__ == "__main__":
    main()
