"""One gRPC stream to Triton that carries every request of this process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.event_queue import Event
from launcher.backends.pytriton.installation import MODEL
from launcher.core.errors import EngineUnavailable
from launcher.engines.base import GenerationRequest, TokenOutput

TOKEN_HEADER = "triton-grpc-protocol-triton-access-token"
PACE_S = 0.0001
LONGEST_S = 0.003
"""How long a request waits, per request under way, for others to travel with: a message costs more than that."""
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class GrpcClient:
    """Sends generations and receives the events of all of them from one feed. Lives in the loop that made it.

    When the stream breaks, everything under way fails with `EngineUnavailable`, and ``failed`` says why; then a new
    link is needed.
    """

    def __init__(self, address: str, token: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.feed = secrets.token_hex(8)
        self.failed: str | None = None
        self.traffic = 0
        self._next = 0
        self._early: dict[int, list[Event]] = {}
        self._waiting: dict[str, asyncio.Queue[TokenOutput | Exception]] = {}
        self._outgoing: asyncio.Queue[GenerationRequest] = asyncio.Queue()
        self._task = self.loop.create_task(self._run(address, token))

    async def generate(self, generation: GenerationRequest) -> AsyncIterator[TokenOutput]:
        """Stream the events of a sequence. Raises what the engine raised, or `EngineUnavailable`."""
        if self.failed is not None:
            raise EngineUnavailable(self.failed)
        id = generation.id
        events = self._waiting[id] = asyncio.Queue()
        self._outgoing.put_nowait(generation)
        try:
            finished = False
            while not finished:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                finished = event.finish is not None
                yield event
        finally:
            self._waiting.pop(id, None)

    def fail(self, reason: str) -> None:
        """Fail everything that is under way, and take no more; called in the link's loop."""
        if self.failed is None:
            self.failed = reason
            for events in self._waiting.values():
                events.put_nowait(EngineUnavailable(reason))
            self._task.cancel()

    async def _run(self, address: str, token: str) -> None:
        import grpc
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        try:
            async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
                stub = GRPCInferenceServiceStub(channel)
                answers = stub.ModelStreamInfer(self._requests(), metadata=((TOKEN_HEADER, token),))
                async for answer in answers:
                    self._take(answer)
            self.fail("Triton ended the connection")
        except grpc.RpcError as error:
            self.fail(f"the connection to Triton broke: {error.code().name}")
        finally:
            self.fail("the connection to Triton ended")

    async def _requests(self) -> AsyncIterator[Any]:
        """Open the feed, then send what is there to be sent; while others are under way, wait for company."""
        yield request(self.feed, self.feed)
        while True:
            ready = [await self._outgoing.get()]
            if len(self._waiting) > 1:
                await asyncio.sleep(min(PACE_S * len(self._waiting), LONGEST_S))
            while not self._outgoing.empty():
                ready.append(self._outgoing.get_nowait())
            yield request(ready[0].id, self.feed, tensors.pack_requests(ready))

    def _take(self, answer: Any) -> None:
        """Take an answer; what Triton refuses, the feed or a batch, ends the link."""
        self.traffic += 1
        if answer.error_message:
            self.fail(_reason(answer.error_message))
        for packed in answer.infer_response.raw_output_contents:
            number, events = tensors.unpack(packed)
            self._early[number] = events
        while self._next in self._early:
            for event in self._early.pop(self._next):
                self._deliver(event)
            self._next += 1

    def _deliver(self, event: Event) -> None:
        events = self._waiting.get(event.id)
        if events is not None:
            events.put_nowait(event.what)


def _reason(message: str) -> str:
    """Return what the last line of a refusal says, which the engine's process wrote or Triton."""
    line = message.strip().rpartition("\n")[2]
    _, ours, reason = line.partition("EngineUnavailable: ")
    return reason if ours else f"Triton cannot answer: {line}"


def request(id: str, feed: str, batch: bytes | None = None) -> Any:
    """Return a ``ModelInferRequest`` of the KServe protocol, which opens a feed or sends a batch to it."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    found = ModelInferRequest(model_name=MODEL, id=id)
    found.parameters["feed"].string_param = feed
    if batch is not None:
        found.inputs.add(name="batch", datatype="UINT8", shape=[len(batch)])
        found.raw_input_contents.append(batch)
    return found
