"""Measure what each adapter costs over the empty chain, in microseconds of CPU per request.

    python benchmarks/adapters.py [--rounds 5] [--requests 1000] [--only retry caching]

The innermost handler answers at once: a chat of 1 kB as a whole answer, and a stream of 64 events. The chains take
turns within each round. A cost is that of the process, with all its threads, above the empty chain in the same round.
Each figure is the median over the rounds. ``caching`` is measured twice: for new requests, and for those that it has.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.adapters.base import Adapter  # noqa: E402
from launcher.adapters.chain import all_running, pipeline  # noqa: E402
from launcher.core.types import Request, Response  # noqa: E402
from launcher.pipeline.components import extensions  # noqa: E402
from launcher.settings.component import COMPONENTS  # noqa: E402

EVENTS = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "caching": {"upstream_id": "it"},
    "drop_params": {"names": ["user"]},
    "modify_tools": {"remove": ["look"]},
    "payload": {"add": {"seed": 1}, "remove": ["user"]},
    "rate_limit": {"requests_per_minute": 1e12, "burst": 1_000_000},
    "request_log": {"max_count": None},
    "response_log": {"max_count": None},
    "http_dump": {"max_count": 1_000_000},
}
MESSAGES = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What is the sum of 2 and 2? " * 20}]
TEXT = "<think>" + "It is the sum of two numbers. " * 10 + "</think>" + "The answer is 4. " * 20
USAGE = {"prompt_tokens": 100, "completion_tokens": 64, "total_tokens": 164}
ANSWER: dict[str, Any] = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": USAGE,
    "model": "m",
}
PARTS = ["<think>", *(["It is a sum. "] * 20), "</think>", *(["the answer "] * 40)]
STREAM: list[Any] = [{"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]} for part in PARTS]
STREAM += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}] * (EVENTS - len(STREAM))


@dataclass(frozen=True)
class Chain:
    """A chain to measure: its name, its adapter, and whether the requests were made before."""

    name: str
    adapter: str = ""
    again: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=None)
    options = parser.parse_args()
    extensions()
    found: dict[str, dict[str, list[float]]] = {"whole": {}, "stream": {}}
    for kind, costs in found.items():
        for _ in range(options.rounds):
            for chain in chains(options.only):
                costs.setdefault(chain.name, []).append(cost_us(chain, options.requests, stream=kind == "stream"))
    print(*table(found["whole"], found["stream"]), sep="\n")


def chains(only: list[str] | None) -> Iterator[Chain]:
    yield Chain("empty chain")
    for name in sorted(path.split("/")[1] for path in COMPONENTS if path.startswith("adapters/")):
        if only is None or name in only:
            yield Chain(f"{name}, new" if name == "caching" else name, name)
            if name == "caching":
                yield Chain("caching, stored", name, again=True)


def cost_us(chain: Chain, requests: int, *, stream: bool) -> float:
    """Return the microseconds of CPU per request."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        return asyncio.run(_cost_us(chain, requests, Path(folder), stream=stream))


async def _cost_us(chain: Chain, requests: int, folder: Path, *, stream: bool) -> float:
    for _ in range(chain.again):
        async with all_running(made := _made(chain, folder), folder, None) as failures:
            await _asked(pipeline(made, _server, failures), requests, stream=stream)
    start = time.process_time()
    async with all_running(made := _made(chain, folder), folder, None) as failures:
        await _asked(pipeline(made, _server, failures), requests, stream=stream)
    assert not failures.counts, failures
    return (time.process_time() - start) / requests * 1e6


def _made(chain: Chain, folder: Path) -> list[Adapter]:
    settings = dict(SETTINGS.get(chain.adapter, {}))
    if chain.adapter == "caching":
        settings["folder"] = str(folder / "answers")
    return [COMPONENTS[f"adapters/{chain.adapter}"](**settings)] if chain.adapter else []


async def _asked(handler: Any, requests: int, *, stream: bool) -> None:
    for number in range(requests):
        body = {"model": "m", "messages": MESSAGES, "user": "me", "max_tokens": 64, "temperature": 0, "seed": number}
        body |= {"stream": True} if stream else {}
        response = await handler(Request("/v1/chat/completions", body, sample=f"t/{number}/0"))
        if response.events is not None:
            async for _ in response.events:
                pass


async def _server(request: Request) -> Response:
    await asyncio.sleep(0)
    if request.body.get("stream"):
        return Response(200, events=_events(), latency_s=0.001)
    return Response(200, ANSWER, {"content-type": "application/json"}, latency_s=0.001)


async def _events() -> AsyncIterator[Any]:
    for event in STREAM:
        yield event


def table(whole: dict[str, list[float]], stream: dict[str, list[float]]) -> Iterator[str]:
    yield f"| adapter | whole answer, us | ratio | stream of {EVENTS} events, us | ratio |"
    yield "|---|---|---|---|---|"
    for name in whole:
        cells = [cell for costs in (whole, stream) for cell in _cells(costs[name], costs["empty chain"])]
        yield f"| {name} | {' | '.join(cells)} |"


def _cells(costs: list[float], empty: list[float]) -> tuple[str, str]:
    """Return what a chain costs above the empty one, and its cost as a multiple of that one's."""
    if costs is empty:
        return f"{statistics.median(costs):.1f} in all", "1"
    above = statistics.median(cost - base for cost, base in zip(costs, empty, strict=True))
    return f"{above:.1f}", f"{statistics.median(cost / base for cost, base in zip(costs, empty, strict=True)):.1f}"


if __name__ == "__main__":
    main()
