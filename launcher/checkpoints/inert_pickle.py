"""Reads what torch pickled without torch, building nothing but inert records: no code of a checkpoint ever runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from launcher.core import Json
from launcher.errors import CheckpointError

ALLOWED_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed.checkpoint.planner",
    "torch.distributed._shard.sharded_tensor.metadata",
)
"""Only plain records are in these; anything else in an index could run code when torch reads the same file later."""

ALLOWED_NAMES = {
    ("torch.serialization", "_get_layout"),
    ("torch", "device"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}
DTYPES = {
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int16", "int8", "uint8", "bool",
}  # fmt: skip


class Record:
    """Stands for an instance of any class: the ``args`` it was made with and the ``state`` it was given."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        made = super().__new__(cls)  # unpickling may skip __init__
        made.args, made.state = args, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take no item: what a subclass of dict holds is not of interest."""

    def append(self, item: Any) -> None:
        """Take no item, likewise."""

    def __getitem__(self, name: str) -> Any:
        return self.state[name]


class _Dict(dict):  # type: ignore[type-arg]
    """A dictionary that stays one under unpickling's BUILD step."""


def _plain(module: str, name: str) -> Any:
    """Return what stands for a name that is plain data, None for every other name."""
    if (module, name) == ("torch", "Size"):
        return tuple
    if module == "torch" and name in DTYPES:
        return name
    return _Dict if (module, name) == ("collections", "OrderedDict") else None


class _IndexUnpickler(pickle.Unpickler):
    """Refuses every name outside of the allow-list."""

    def find_class(self, module: str, name: str) -> Any:
        known = _plain(module, name)
        if known is not None:
            return known
        if module in ALLOWED_MODULES or (module, name) in ALLOWED_NAMES:
            return Record
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")


class _ArgumentsUnpickler(pickle.Unpickler):
    """Reads any name as a record: this file is read here only, and never by torch."""

    def find_class(self, module: str, name: str) -> Any:
        return _plain(module, name) or Record

    def persistent_load(self, pid: Any) -> None:
        """Leave a tensor's storage out."""


def read_index(file: Path) -> Record:
    """Return the index of a distributed checkpoint.

    Raises `CheckpointError` if it is damaged or names a class that is not allowed.
    """
    try:
        with file.open("rb") as stream:
            index = _IndexUnpickler(stream).load()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(f"{file}: not an index of torch.distributed.checkpoint: {error}") from error
    if not isinstance(index, Record) or not isinstance(index.state, dict) or "state_dict_metadata" not in index.state:
        raise CheckpointError(f"{file}: not an index of torch.distributed.checkpoint")
    return index


def read_arguments(file: Path) -> dict[str, Json]:
    """Return Megatron-LM's ``args`` of a ``common.pt``, empty if there are none; tensors and objects stay unread."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            content = _ArgumentsUnpickler(io.BytesIO(archive.read(name))).load()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise CheckpointError(f"{file}: not a file of torch.save: {error}") from error
    arguments = content.get("args") if isinstance(content, dict) else None
    return dict(arguments.state) if isinstance(arguments, Record) and isinstance(arguments.state, dict) else {}
