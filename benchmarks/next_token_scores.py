"""Compare two ways to score choices of one token behind vLLM: echoed prompts, and one request for the next token.

    python benchmarks/next_token_scores.py --program /opt/vllm/bin/vllm [--model smollm2] [--items 32]

``echo`` is what tasks send: one prompt per choice, whose log-probabilities come back; vLLM reads no prefix cache for
them. ``next token`` sends the context once and asks for the log-probabilities of the choices' tokens
(``logprob_token_ids``), behind the prefix cache. Items are sums with four choices under letters, behind five examples.
CPU time is that of all processes of the server. The two take turns, in both orders.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from async_llm import QUIET, SKIPPED, SMALL, THREADS, Side
from backends import launched

LETTERS = (" A", " B", " C", " D")
IN_FLIGHT = 16
Scored = Callable[[str], Awaitable[list[float]]]


def question(first: int, second: int, answer: str = "") -> str:
    numbers = (first * second + 1, first + second, first, second)
    lines = "\n".join(f"{letter.strip()}. {number}" for letter, number in zip(LETTERS, numbers, strict=True))
    return f"Question: What is {first} plus {second}?\n{lines}\nAnswer:{answer}"


def items(count: int) -> list[str]:
    drawn = random.Random(0)
    shots = "\n\n".join(question(number, number + 3, " B") for number in range(2, 7))
    return [f"{shots}\n\n{question(drawn.randint(1, 99), drawn.randint(1, 99))}" for _ in range(count)]


class Asker:
    """Asks one server for the log-probabilities of the letters."""

    def __init__(self, session: aiohttp.ClientSession, root: str, model: str) -> None:
        self._session, self._root, self._model = session, root, model
        self._ids: list[int] = []

    async def post(self, path: str, **body: Any) -> Any:
        async with self._session.post(f"{self._root}{path}", json={"model": self._model, **body}) as answer:
            found = await answer.json()
            assert answer.status == 200, found
            return found

    async def find_ids(self, context: str) -> None:
        """Find the token of each letter. Ends the program where a letter is not one token behind the context."""
        before, *after = [
            (await self.post("/tokenize", prompt=context + letter, add_special_tokens=False))["tokens"]
            for letter in ("", *LETTERS)
        ]
        if any(each[:-1] != before for each in after):
            sys.exit("a letter is not one token of this model")
        self._ids = [each[-1] for each in after]

    async def echo(self, context: str) -> list[float]:
        prompts = [context + letter for letter in LETTERS]
        found = await self.post("/v1/completions", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True)
        return [choice["logprobs"]["token_logprobs"][-2] for choice in found["choices"]]

    async def next_token(self, context: str) -> list[float]:
        asked = {"prompt": context, "max_tokens": 1, "temperature": 0, "logprobs": 1, "logprob_token_ids": self._ids}
        found = await self.post("/v1/completions", **asked, return_tokens_as_token_ids=True)
        (top,) = found["choices"][0]["logprobs"]["top_logprobs"]
        return [top[f"token_id:{id}"] for id in self._ids]


async def all_of(scored: Scored, contexts: Sequence[str]) -> list[list[float]]:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(context: str) -> list[float]:
        async with slots:
            return await scored(context)

    return await asyncio.gather(*map(one, contexts))


async def compare(side: Side, root: str, model: str, contexts: Sequence[str]) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        asker, costs, found = Asker(session, root, model), dict[str, list[float]](), list[list[list[float]]]()
        await asker.find_ids(contexts[0])
        await all_of(asker.next_token, contexts[:1])
        for name in ("next token", "echo", "echo", "next token"):
            before, _ = side.spent()
            found.append(await all_of(asker.echo if name == "echo" else asker.next_token, contexts))
            costs.setdefault(name, []).append((side.spent()[0] - before) / len(contexts) * 1e3)
    ours, theirs, *_ = found
    apart = max(abs(a - b) for each, other in zip(ours, theirs, strict=True) for a, b in zip(each, other, strict=True))
    same = sum(each.index(max(each)) == other.index(max(other)) for each, other in zip(ours, theirs, strict=True))
    for name, spent in costs.items():
        print(f"{name:<11} CPU ms an item: {' and '.join(f'{value:.0f}' for value in spent)}")
    print(f"{same} of {len(contexts)} choices equal, log-probabilities differ by at most {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="vllm", help="the program `vllm`, in its own environment")
    parser.add_argument("--model", default="smollm2", help="an option of the group `model`")
    parser.add_argument("--items", type=int, default=32)
    given = parser.parse_args()
    program = shutil.which(given.program)
    if program is None:
        print(f"left out: the program '{given.program}' is not here; `make vllm` makes build/vllm/bin/vllm (--program)")
        return
    os.environ.update(THREADS | QUIET)
    with tempfile.TemporaryDirectory() as name:
        arguments = (
            *("backend=vllm", f"backend.program={json.dumps(f'{program} serve')}", f"model={given.model}"),
            *(f"backend.arguments={json.dumps(SMALL)}", f"backend.cache={name}/cache", "optimizations.dtype=fp32"),
            *("tasks=[addition]", SKIPPED),
        )
        with launched(Path(name) / "run", *arguments) as server:
            root = server.url.removesuffix("/v1")
            asyncio.run(compare(Side(server.roots[0]), root, server.model, items(given.items)))


if __name__ == "__main__":
    main()
