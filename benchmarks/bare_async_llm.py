"""Run vLLM's AsyncLLM by itself, without an HTTP server: the least that a request to vLLM can cost.

vLLM's own Python runs this file, with a folder and a JSON of engine arguments; nothing of the launcher is there. It
says ``up``. Each line of standard input is a burst, as `async_llm.Burst` writes it; its answer is the time in seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count
from typing import Any

import uvloop
from vllm import AsyncEngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

NUMBERS = count()


def sampling(burst: dict[str, Any], tokens: int) -> SamplingParams:
    kind = RequestOutputKind.DELTA if burst["stream"] else RequestOutputKind.FINAL_ONLY
    score = 1 if burst["score"] else None
    return SamplingParams(
        max_tokens=tokens, temperature=0, ignore_eos=True, prompt_logprobs=score, logprobs=score, output_kind=kind
    )


async def ask(engine: AsyncLLM, burst: dict[str, Any], prompt: list[int], tokens: int) -> None:
    made, scored = 0, 0
    given = sampling(burst, tokens)
    async for output in engine.generate({"prompt_token_ids": prompt}, given, request_id=str(next(NUMBERS))):
        made += len(output.outputs[0].token_ids)
        scored = len(output.prompt_logprobs or ()) or scored
    assert made == tokens
    assert scored == (len(prompt) if burst["score"] else 0)


async def run(engine: AsyncLLM, burst: dict[str, Any]) -> float:
    left, start = iter(burst["requests"]), time.perf_counter()

    async def work() -> None:
        for prompt, tokens in left:
            await ask(engine, burst, prompt, tokens)

    await asyncio.gather(*[work() for _ in range(burst["in_flight"])])
    return time.perf_counter() - start


async def serve(model: str, arguments: dict[str, Any]) -> None:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **arguments))
    print("up", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(await run(engine, json.loads(line)), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], json.loads(sys.argv[2])))
