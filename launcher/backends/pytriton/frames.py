"""What travels between the model inside Triton and the engine's process: frames, each a header and tensors."""

# Triton's model gets a copy of this file: the standard library and numpy are all that it may import.
from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = struct.Struct("<Q?III")
"""A frame begins with its id, whether it is final, and how many bytes its text, its packed and its tensors have."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A request, or one of the answers to the request of the same ``id``.

    ``final`` is set in the last of the answers; in a frame of the model's it says that nobody waits for more of them.

    ``text`` is a request's parameters, in JSON; in an answer it is the error that ended it, if one did. ``packed`` is
    what the tensor ``batch`` of a request holds, or the tensor ``feed`` of an answer: what is frequent needs no
    description. All others are ``tensors``; arrays of bytes objects (Triton's BYTES) have one element.
    """

    id: int
    tensors: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    text: str = ""
    packed: bytes = b""
    final: bool = False


def pack(frame: Frame) -> bytes:
    text, tensors = frame.text.encode(), _described(frame.tensors) if frame.tensors else b""
    head = HEAD.pack(frame.id, frame.final, len(text), len(frame.packed), len(tensors))
    return b"".join((head, text, frame.packed, tensors))


def _described(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return a line of JSON, and the content of the arrays that it describes."""
    raw = {name: _raw(array) for name, array in tensors.items()}
    described = [(name, array.dtype.str, array.shape, len(raw[name])) for name, array in tensors.items()]
    return b"\n".join((json.dumps(described).encode(), b"".join(raw.values())))


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    (value,) = array.ravel()
    return bytes(value)


class Frames:
    """Puts frames together from what arrives, however that is cut."""

    def __init__(self) -> None:
        self._held = b""

    def take(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that ``data`` completes."""
        held, start = self._held + data if self._held else data, 0
        while len(held) - start >= HEAD.size:
            id, final, *sizes = HEAD.unpack_from(held, start)
            if len(held) - start < HEAD.size + sum(sizes):
                break
            ends = [*itertools.accumulate(sizes, initial=start + HEAD.size)]
            text, packed, tensors = (held[begin:end] for begin, end in itertools.pairwise(ends))
            start = ends[-1]
            yield Frame(id, _tensors(tensors) if tensors else {}, text.decode(), packed, final)
        self._held = held[start:]


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
