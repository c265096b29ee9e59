"""Read files of ``torch.save`` without torch's reader: the arguments of a run, and single tensors.

The format is a ZIP archive whose records are not compressed: ``<name>/data.pkl`` and, for every tensor, its numbers in
``<name>/data/<key>``. It is read here by its central directory; nothing of it is unpacked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from launcher.checkpoints.bounded import MB, shown, too_long
from launcher.checkpoints.torch_dist.inert_pickle import Global, Inert, Name, Record, loads
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor

END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
ENTRY, LOCAL = b"PK\1\2", b"PK\3\4"
SCALARS = (bool, int, float, str)
IN_EXTRA = 0xFFFFFFFF
"""A size or an offset that stands in the entry's extra field, in 8 bytes."""


@dataclass(frozen=True)
class Span:
    """A range of a file, in bytes."""

    start: int
    length: int


class Damaged(Exception):
    """Bytes that are no archive of ``torch.save``."""


def records(stream: BinaryIO, archive: Span, bounds: Bounds) -> dict[str, Span]:
    """Return where the content of every record of an archive lies in the stream. Raises `Damaged`."""
    directory, count = _directory(stream, archive)
    if directory.length > bounds.metadata_mb * MB:
        raise Damaged(too_long(directory.length, bounds))
    content = _read(stream, directory)
    found: dict[str, Span] = {}
    position = 0
    for _ in range(count):
        name, span, position = _entry(content, position, archive)
        if name in found:
            raise Damaged(f"two records are called {shown(name)}")
        found[name] = span
    return found


def content_of(stream: BinaryIO, record: Span, archive: Span) -> Span:
    """Return where a record's bytes lie, which its local header says. Raises `Damaged`."""
    header = _read(stream, Span(record.start, 30))
    if header[:4] != LOCAL:
        raise Damaged("a record has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    start = record.start + 30 + name + extra
    if start + record.length > archive.start + archive.length:
        raise Damaged("a record ends outside of its archive")
    return Span(start, record.length)


def _read(stream: BinaryIO, span: Span) -> bytes:
    stream.seek(span.start)
    content = stream.read(span.length)
    if len(content) != span.length:
        raise Damaged("it was cut short")
    return content


def _directory(stream: BinaryIO, archive: Span) -> tuple[Span, int]:
    """Return where the central directory is, and how many entries it has."""
    if archive.length < 22:
        raise Damaged("it is too short")
    end = _read(stream, Span(archive.start + archive.length - 22, 22))
    signature, count, length, offset = end[:4], *struct.unpack("<HII", end[10:20])
    if signature != END:
        raise Damaged("its end is not that of a ZIP archive")
    if archive.length >= 42 + 56:
        locator = _read(stream, Span(archive.start + archive.length - 42, 20))
        if locator[:4] == LOCATOR64:
            count, length, offset = _directory64(stream, archive, struct.unpack("<Q", locator[8:16])[0])
    if offset + length > archive.length or count > length // 46:
        raise Damaged("its directory lies outside of it")
    return Span(archive.start + offset, length), count


def _directory64(stream: BinaryIO, archive: Span, offset: int) -> tuple[int, int, int]:
    if offset + 56 > archive.length:
        raise Damaged("its directory lies outside of it")
    end = _read(stream, Span(archive.start + offset, 56))
    if end[:4] != END64:
        raise Damaged("its end is not that of a ZIP archive")
    count, length, start = struct.unpack("<QQQ", end[32:56])
    return count, length, start


def _entry(content: bytes, position: int, archive: Span) -> tuple[str, Span, int]:
    """Return the name, the place and the length of one record, and where the next entry begins."""
    fixed = content[position : position + 46]
    if len(fixed) < 46 or fixed[:4] != ENTRY:
        raise Damaged("its directory is damaged")
    flags, method = struct.unpack("<HH", fixed[8:12])
    packed, size, name_length, extra_length, note_length = struct.unpack("<IIHHH", fixed[20:34])
    (offset,) = struct.unpack("<I", fixed[42:46])
    start = position + 46
    name = content[start : start + name_length].decode("utf-8", errors="replace")
    extra = content[start + name_length : start + name_length + extra_length]
    packed, size, offset = _wide(extra, packed, size, offset)
    if method != 0 or flags & 1 or packed != size:
        raise Damaged(f"record {shown(name)} is compressed, which torch.save does not do")
    if offset + 30 + size > archive.length:
        raise Damaged(f"record {shown(name)} lies outside of it")
    return name, Span(archive.start + offset, size), start + name_length + extra_length + note_length


def _wide(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Return sizes and offset with the 8 bytes of the extra field in place of what does not fit into 4."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[position : position + 4])
        if kind == 1:
            wide = iter(struct.unpack(f"<{length // 8}Q", extra[position + 4 : position + 4 + length // 8 * 8]))
            values = [next(wide) if value == IN_EXTRA else value for value in (size, packed, offset)]
            return values[1], values[0], values[2]
        position += 4 + length
    return packed, size, offset


def read_arguments(file: Path, bounds: Bounds | None = None) -> dict[str, Json]:
    """Return Megatron-LM's ``args`` of a ``common.pt``, empty if there are none; tensors and objects stay unread.

    Raises `CheckpointError` naming the file, if it is damaged, or makes more than its size justifies.
    """
    try:
        if not file.is_file():
            raise CheckpointError(
                f"{file}: cannot be read: {'not a regular file' if file.exists() else 'no such file'}"
            )
        with file.open("rb") as stream:
            content = _pickled(stream, Span(0, file.stat().st_size), bounds or Bounds())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (Damaged, Inert, struct.error, StopIteration) as error:
        raise CheckpointError(f"{file}: not a file of torch.save: {error or 'it is damaged'}") from error
    arguments = content.get("args") if isinstance(content, dict) else None
    state = arguments.state if isinstance(arguments, Record) else None
    return {key: _plain(state[key]) for key in state if isinstance(key, str)} if isinstance(state, dict) else {}


def _plain(value: Any) -> Json:
    """Return an argument that is a number, a text or a list of them; any other as a `Record`, which shows its class.

    A list that holds a list ten times, and so on, is small here and endless where it is walked or printed.
    """
    if value is None or isinstance(value, SCALARS):
        return value
    if isinstance(value, (list, tuple)) and all(item is None or isinstance(item, SCALARS) for item in value):
        return value
    return Record(value.name if isinstance(value, Record) else ("builtins", type(value).__name__), ())


def _pickled(stream: BinaryIO, archive: Span, bounds: Bounds, allowed: frozenset[Name] | None = None) -> Any:
    """Return what ``data.pkl`` of an archive holds, inert."""
    found = records(stream, archive, bounds)
    names = [name for name in found if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise Damaged(f"{len(names)} records are called data.pkl (expected one)")
    span = content_of(stream, found[names[0]], archive)
    if span.length > bounds.metadata_mb * MB:
        raise Damaged(too_long(span.length, bounds))
    return loads(_read(stream, span), allowed)


TENSOR: Name = ("torch._utils", "_rebuild_tensor_v2")
ORDERED: Name = ("collections", "OrderedDict")
STORAGES: Mapping[Name, str] = {
    ("torch", "DoubleStorage"): "float64",
    ("torch", "FloatStorage"): "float32",
    ("torch", "HalfStorage"): "float16",
    ("torch", "BFloat16Storage"): "bfloat16",
}
"""The kinds of storage of a tensor that a model's weights can be in, with torch's name of the type."""

LONGEST_DESCRIPTION = 10_000
"""Bytes of the pickle that describes one tensor: a few hundred, and more for nothing honest."""


def read_tensor(file: Path, archive: Span, dtype: str, shape: tuple[int, ...], index: tuple[int, ...] = ()) -> Tensor:
    """Return the tensor that is saved in a range of a file: of this type and shape, as its index promises.

    ``index`` is of its first axes: only the numbers behind it are read.
    Raises `CheckpointError` naming the file for anything else.
    """
    try:
        with file.open("rb") as stream:
            return _tensor(stream, archive, dtype, shape, index)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (Damaged, Inert, struct.error, StopIteration) as error:
        raise CheckpointError(
            f"{file}: the weights at byte {archive.start} cannot be read: {error or 'they are damaged'}"
        ) from error


@dataclass(frozen=True)
class _View:
    """How a tensor lies in its storage, in elements: ``start`` of its first, ``end`` after its last."""

    key: str
    dtype: str
    elements: int
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        steps = zip(self.shape, self.strides, strict=True)
        return self.start + 1 + sum((size - 1) * stride for size, stride in steps) if self.numel else self.start

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def at(self, index: tuple[int, ...]) -> _View:
        """Return the part at an index of the first axes."""
        start = self.start + sum(place * stride for place, stride in zip(index, self.strides, strict=False))
        return replace(self, start=start, shape=self.shape[len(index) :], strides=self.strides[len(index) :])


def _tensor(stream: BinaryIO, archive: Span, dtype: str, shape: tuple[int, ...], index: tuple[int, ...]) -> Tensor:
    found = records(stream, archive, Bounds())
    names = [name for name in found if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise Damaged(f"{len(names)} records are called data.pkl (expected one)")
    folder = names[0].removesuffix("data.pkl")
    view = _view(_small(stream, archive, found, names[0]))
    if (view.dtype, view.shape) != (dtype, shape):
        raise Damaged(f"{view.dtype} of shape {list(view.shape)}; the index promises {dtype} of {list(shape)}")
    if f"{folder}byteorder" in found and _small(stream, archive, found, f"{folder}byteorder") != b"little":
        raise Damaged("its byte order is not little")
    numbers = content_of(stream, _find(found, f"{folder}data/{view.key}"), archive)
    _check_extent(numbers, view)
    return _numbers(stream, numbers, view.at(index))


def _find(found: Mapping[str, Span], name: str) -> Span:
    if name not in found:
        raise Damaged(f"record {shown(name)} is missing")
    return found[name]


def _small(stream: BinaryIO, archive: Span, found: Mapping[str, Span], name: str) -> bytes:
    """Return the content of a record that describes a tensor."""
    span = content_of(stream, found[name], archive)
    if span.length > LONGEST_DESCRIPTION:
        raise Damaged(f"record {shown(name)} takes {span.length} bytes (expected at most {LONGEST_DESCRIPTION})")
    return _read(stream, span)


def _view(description: bytes) -> _View:
    """Return how the tensor of a ``data.pkl`` lies in its storage, every field checked."""
    made = loads(description, {TENSOR, ORDERED, *STORAGES})
    if not isinstance(made, Record) or made.name != TENSOR or not isinstance(made.args, tuple) or len(made.args) < 4:
        raise Damaged("it is not a plain tensor")
    storage, start, shape, strides = made.args[:4]
    pid = storage.args if isinstance(storage, Record) and storage.name is None else ()
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str):
        raise Damaged("it is not a plain tensor")
    kind = pid[1].name if isinstance(pid[1], Global) else ("", "")
    if kind not in STORAGES:
        raise Damaged(f"its numbers are in a {shown('.'.join(kind))} (expected {', '.join(STORAGES.values())})")
    if not (_wholes((pid[4], start)) and _wholes(shape) and _wholes(strides) and len(shape) == len(strides)):
        raise Damaged("the shape of a tensor is damaged")
    return _View(pid[2], STORAGES[kind], pid[4], start, shape, strides)


def _wholes(values: Any) -> bool:
    """Whether these are sizes: whole numbers from zero on."""
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


def _check_extent(stored: Span, view: _View) -> None:
    """Compare a view and its storage with the bytes that are there."""
    import torch

    size = getattr(torch, view.dtype).itemsize
    if view.elements * size != stored.length or max(view.end, view.numel) > view.elements:
        raise Damaged(f"{stored.length} bytes for a tensor of {view.dtype} with shape {list(view.shape)}")


def _numbers(stream: BinaryIO, stored: Span, view: _View) -> Tensor:
    """Read what a view spans of its storage."""
    import torch

    dtype = getattr(torch, view.dtype)
    if not view.numel:
        return torch.empty(view.shape, dtype=dtype)
    content = bytearray((view.end - view.start) * dtype.itemsize)
    stream.seek(stored.start + view.start * dtype.itemsize)
    if stream.readinto(content) != len(content):  # type: ignore[attr-defined]
        raise Damaged("it was cut short")
    return torch.frombuffer(content, dtype=dtype).as_strided(view.shape, view.strides)
