"""The model that Triton loads: it forwards requests to the engine's process, and responses to the clients.

It runs in Triton's Python stub, from a copy named model.py beside a copy of frames.py and without other modules.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from .frames import Frame, FrameDecoder, pack

CHUNK_BYTES = 1 << 20
CANCEL_POLL_INTERVAL_S = 0.5
"""How often to ask Triton which clients have gone."""


class TritonPythonModel:
    """A decoupled model; the Python backend prescribes the names of the class and its methods."""

    def initialize(self, args: Mapping[str, str]) -> None:
        settings = json.loads(args["model_config"])["parameters"]
        self._engine = socket.socket(socket.AF_UNIX)
        self._engine.connect(settings["engine"]["string_value"])
        self._writing = threading.Lock()
        self._ids = itertools.count()
        self._senders: dict[int, Any] = {}
        self._clients: dict[int, Any] = {}
        self._asking = threading.Lock()
        threading.Thread(target=self._answer, name="answers", daemon=True).start()
        threading.Thread(target=self._watch, name="clients", daemon=True).start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Forward all requests of one call in one write."""
        self._write(b"".join(map(self._packed, requests)))

    def finalize(self) -> None:
        self._engine.close()

    def _packed(self, request: Any) -> bytes:
        id = next(self._ids)
        self._senders[id] = request.get_response_sender()
        batch = triton.get_input_tensor_by_name(request, "batch")
        if batch is not None:
            return pack(Frame(id, text=request.parameters(), packed=batch.as_numpy().tobytes()))
        self._clients[id] = self._senders[id]
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return pack(Frame(id, tensors, request.parameters()))

    def _answer(self) -> None:
        """Send responses until the engine's process closes the connection."""
        frames = FrameDecoder()
        while data := self._engine.recv(CHUNK_BYTES):
            for frame in frames.decode(data):
                self._send(frame)

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._engine.sendall(data)

    def _watch(self) -> None:
        """Report requests whose client has gone to the engine's process."""
        while True:
            time.sleep(CANCEL_POLL_INTERVAL_S)
            with self._asking:
                gone = [id for id, sender in list(self._clients.items()) if sender.is_cancelled()]
            if gone:
                self._write(b"".join(pack(Frame(id, final=True)) for id in gone))

    def _send(self, frame: Frame) -> None:
        sender, flags = self._senders[frame.id], 0
        if frame.final:
            flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            del self._senders[frame.id]
            with self._asking:  # a sender that has sent its last response must not be used any more
                self._clients.pop(frame.id, None)
        sender.send(_response(frame), flags=flags)


def _response(frame: Frame) -> Any:
    if frame.text:
        return triton.InferenceResponse(error=triton.TritonError(frame.text))
    if frame.packed:
        return triton.InferenceResponse([triton.Tensor("feed", np.frombuffer(frame.packed, np.uint8))])
    if frame.tensors:
        return triton.InferenceResponse([triton.Tensor(name, array) for name, array in frame.tensors.items()])
    return None
