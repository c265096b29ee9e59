"""One gRPC stream to Triton that carries all requests of this process."""

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
BATCH_WAIT_PER_REQUEST_S = 0.0001
MAX_BATCH_WAIT_S = 0.003
"""How long a request waits for others to share its message, per open request: a message costs more than that."""
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class GrpcClient:
    """Sends generation requests, and receives the events of all of them from one feed. Belongs to one event loop.

    When the stream breaks, all open requests fail with `EngineUnavailable`, and ``failed`` says why. Later requests
    need a new client. ``responses`` counts Triton's responses.
    """

    def __init__(self, address: str, token: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.feed = secrets.token_hex(8)
        self.failed: str | None = None
        self.responses = 0
        self._next = 0
        self._out_of_order: dict[int, list[Event]] = {}
        self._queues: dict[str, asyncio.Queue[TokenOutput | Exception]] = {}
        self._outgoing: asyncio.Queue[GenerationRequest] = asyncio.Queue()
        self._task = self.loop.create_task(self._run(address, token))

    async def generate(self, generation: GenerationRequest) -> AsyncIterator[TokenOutput]:
        """Stream the events of a sequence. Raises the engine's error, or `EngineUnavailable`."""
        if self.failed is not None:
            raise EngineUnavailable(self.failed)
        id = generation.id
        events = self._queues[id] = asyncio.Queue()
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
            self._queues.pop(id, None)

    def fail(self, reason: str) -> None:
        """Fail all open requests, and refuse new ones; called in the client's event loop."""
        if self.failed is None:
            self.failed = reason
            for events in self._queues.values():
                events.put_nowait(EngineUnavailable(reason))
            self._task.cancel()

    async def _run(self, address: str, token: str) -> None:
        import grpc
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        try:
            async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
                stub = GRPCInferenceServiceStub(channel)
                stream = stub.ModelStreamInfer(self._requests(), metadata=((TOKEN_HEADER, token),))
                async for response in stream:
                    self._receive(response)
            self.fail("Triton ended the connection")
        except grpc.RpcError as error:
            self.fail(f"the connection to Triton broke: {error.code().name}")
        finally:
            self.fail("the connection to Triton ended")

    async def _requests(self) -> AsyncIterator[Any]:
        """Open the feed, then send requests; while others are open, wait a moment to batch them."""
        yield request(self.feed, self.feed)
        while True:
            ready = [await self._outgoing.get()]
            if len(self._queues) > 1:
                await asyncio.sleep(min(BATCH_WAIT_PER_REQUEST_S * len(self._queues), MAX_BATCH_WAIT_S))
            while not self._outgoing.empty():
                ready.append(self._outgoing.get_nowait())
            yield request(ready[0].id, self.feed, tensors.pack_requests(ready))

    def _receive(self, response: Any) -> None:
        """Handle a response; an error of Triton for the feed or a batch ends the stream."""
        self.responses += 1
        if response.error_message:
            self.fail(_reason(response.error_message))
        for packed in response.infer_response.raw_output_contents:
            number, events = tensors.unpack(packed)
            self._out_of_order[number] = events
        while self._next in self._out_of_order:
            for event in self._out_of_order.pop(self._next):
                self._deliver(event)
            self._next += 1

    def _deliver(self, event: Event) -> None:
        events = self._queues.get(event.id)
        if events is not None:
            events.put_nowait(event.what)


def _reason(message: str) -> str:
    """Return the reason in the last line of an error, which the engine's process or Triton wrote."""
    line = message.strip().rpartition("\n")[2]
    _, ours, reason = line.partition("EngineUnavailable: ")
    return reason if ours else f"Triton cannot answer: {line}"


def request(id: str, feed: str, batch: bytes | None = None) -> Any:
    """Return a ``ModelInferRequest`` of the KServe protocol that opens a feed or sends a batch."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    found = ModelInferRequest(model_name=MODEL, id=id)
    found.parameters["feed"].string_param = feed
    if batch is not None:
        found.inputs.add(name="batch", datatype="UINT8", shape=[len(batch)])
        found.raw_input_contents.append(batch)
    return found
