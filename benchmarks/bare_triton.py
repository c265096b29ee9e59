"""Run PyTriton by itself: a callable that echoes, over one gRPC stream, without the launcher's code in between.

The cost of a request here is the minimum for any front of PyTriton. Usage: lines ``concurrency count`` on standard
input; each is answered with ``done`` after that many requests. The program ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonLifecyclePolicy
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from launcher.backends.pytriton.installation import environment
from launcher.backends.pytriton.ports import Ports, choose
from launcher.backends.pytriton.workspace import workspace

BODY = b"x" * 300


async def echo(requests: list[Any]) -> AsyncIterator[list[dict[str, Any]]]:
    yield [{"out": request.data["in"]} for request in requests]


def triton(folder: Path, ports: Ports) -> Triton:
    here = "127.0.0.1"
    config = TritonConfig(
        http_address=here,
        http_port=ports.http,
        grpc_address=here,
        grpc_port=ports.grpc,
        metrics_address=here,
        metrics_port=ports.metrics,
        log_file=folder / "log",
    )
    policy = TritonLifecyclePolicy(launch_triton_on_startup=True, local_model_store=True)
    found = Triton(config=config, workspace=folder / "1", triton_lifecycle_policy=policy)
    inputs, outputs = ([Tensor(name=name, dtype=np.uint8, shape=(-1,))] for name in ("in", "out"))
    found.bind("echo", echo, inputs, outputs, config=ModelConfig(batching=False, decoupled=True))
    return found


class Asker:
    """Sends requests over one stream and waits for their answers."""

    def __init__(self, channel: grpc.aio.Channel, request: Callable[[str], ModelInferRequest]) -> None:
        self._request = request
        self._outgoing: asyncio.Queue[ModelInferRequest] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._count = 0
        self._answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(self._requests())
        self._task = asyncio.create_task(self._take())

    async def ask(self) -> None:
        self._count += 1
        request = self._request(str(self._count))
        answered = self._waiting[request.id] = asyncio.get_running_loop().create_future()
        self._outgoing.put_nowait(request)
        await answered

    async def _requests(self) -> AsyncIterator[ModelInferRequest]:
        while True:
            yield await self._outgoing.get()

    async def _take(self) -> None:
        async for answer in self._answers:
            assert not answer.error_message, answer.error_message
            self._waiting.pop(answer.infer_response.id).set_result(None)


def request(id: str) -> ModelInferRequest:
    found = ModelInferRequest(model_name="echo", id=id)
    found.inputs.add(name="in", datatype="UINT8", shape=[len(BODY)])
    found.raw_input_contents.append(BODY)
    return found


async def serve(address: str) -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address) as channel:
        asker = Asker(channel, request)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            concurrency, count = map(int, line.split())
            left = iter(range(count))

            async def work(left: Any = left) -> None:
                for _ in left:
                    await asker.ask()

            await asyncio.gather(*[work() for _ in range(concurrency)])
            print("done", flush=True)


if __name__ == "__main__":
    with workspace() as folder:
        ports = choose("127.0.0.1", Ports())
        os.environ.update(environment(folder), PYTRITON_NO_TENSORSTORE="1")  # half the CPU time without that store
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for its threads: a quarter less
        running = triton(folder, ports)
        running.run()
        asyncio.set_event_loop_policy(None)
        print("up", flush=True)
        asyncio.run(serve(f"127.0.0.1:{ports.grpc}"))
        running.stop()
