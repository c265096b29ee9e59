"""Framing between the model inside Triton and the engine's process: a header and tensors."""

# Triton's model gets a copy of this file: import only the standard library and numpy.
from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = struct.Struct("<Q?III")
"""The header of a frame: its id, whether it is final, and the sizes in bytes of its text, packed data and tensors."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A request, or one of the responses to the request with the same ``id``.

    ``final`` marks the last response. In a frame from the model it means that the client has gone.

    ``text`` holds a request's parameters as JSON, or the error that ended a response. ``packed`` is the content of a
    request's tensor ``batch``, or of a response's tensor ``feed``: these are frequent, so they have no description. All
    other tensors are in ``tensors``; arrays of bytes objects (Triton's BYTES) have one element.
    """

    id: int
    tensors: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    text: str = ""
    packed: bytes = b""
    final: bool = False


def pack(frame: Frame) -> bytes:
    text, tensors = frame.text.encode(), _describe(frame.tensors) if frame.tensors else b""
    head = HEAD.pack(frame.id, frame.final, len(text), len(frame.packed), len(tensors))
    return b"".join((head, text, frame.packed, tensors))


def _describe(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return a line of JSON that describes the arrays, and their content."""
    raw = {name: _raw(array) for name, array in tensors.items()}
    described = [(name, array.dtype.str, array.shape, len(raw[name])) for name, array in tensors.items()]
    return b"\n".join((json.dumps(described).encode(), b"".join(raw.values())))


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    (value,) = array.ravel()
    return bytes(value)


class FrameDecoder:
    """Decodes frames from chunks of bytes of any size."""

    def __init__(self) -> None:
        self._buffer = b""

    def decode(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that ``data`` completes."""
        buffer, start = self._buffer + data if self._buffer else data, 0
        while len(buffer) - start >= HEAD.size:
            id, final, *sizes = HEAD.unpack_from(buffer, start)
            if len(buffer) - start < HEAD.size + sum(sizes):
                break
            ends = [*itertools.accumulate(sizes, initial=start + HEAD.size)]
            text, packed, tensors = (buffer[begin:end] for begin, end in itertools.pairwise(ends))
            start = ends[-1]
            yield Frame(id, _tensors(tensors) if tensors else {}, text.decode(), packed, final)
        self._buffer = buffer[start:]


def _tensors(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    line, _, data = data.partition(b"\n")
    found, start = {}, 0
    for name, kind, shape, size in json.loads(line):
        found[name] = _array(kind, shape, data[start : start + size])
        start += size
    return found


def _array(kind: str, shape: list[int], raw: bytes) -> np.ndarray[Any, Any]:
    if kind == "|O":
        return np.array([raw], object).reshape(shape)
    return np.frombuffer(raw, kind).reshape(shape)
