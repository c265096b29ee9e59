"""Checkpoints that would run a command, or cost the machine, if any of them were believed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import resource
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from launcher.checkpoints import base

MEMORY, CPU_S = 1500 * 2**20, 60
"""What one file of less than 1 MB may cost: address space beyond that in use, and seconds of the processor."""

RUNS = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"}
"""Python's audit events of what a checkpoint would do if it could: look up what a pickle names, or start a program."""

seen: list[str] = []
watching = False


def watch(event: str, _: tuple[Any, ...]) -> None:
    if watching and event in RUNS:
        seen.append(event)


sys.addaudithook(watch)


@contextmanager
def bounded() -> Iterator[None]:
    """Fail what takes more memory or time than `MEMORY` and `CPU_S`, or runs something."""
    global watching
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, hard))
    before = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    seen.clear()
    watching = True
    try:
        yield
    finally:
        watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not seen


def _too_long(*_: Any) -> None:
    raise AssertionError(f"more than {CPU_S} s of the processor")


ASSETS = Path(base.__file__).parents[1] / "assets"
STEP = "iter_0000800"


def tiny(folder: Path) -> Path:
    """Copy the shipped Megatron-Bridge model and return the folder of its one iteration."""
    shutil.copytree(ASSETS / "tiny", folder, ignore=shutil.ignore_patterns("provenance.json"))
    return folder / STEP


class Command:
    """Runs a command when it is unpickled: it makes the file ``trace``."""

    def __init__(self, trace: Path) -> None:
        self.command = f"touch '{trace}'"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def dotted(metadata: Path, trace: Path) -> None:
    """Put a call of ``os.system`` before the honest index, named as an attribute of a module that is allowed.

    Protocol 4 looks up ``os.system`` in ``torch.distributed.checkpoint.filesystem``, which imports ``os``.
    """
    module, name, command = b"torch.distributed.checkpoint.filesystem", b"os.system", f"touch '{trace}'".encode()
    call = b"".join(b"\x8c" + bytes([len(text)]) + text for text in (module, name)) + b"\x93"
    call += b"\x8c" + bytes([len(command)]) + command + b"\x85R0"  # the result is dropped
    metadata.write_bytes(b"\x80\x04" + call + _without_frames(metadata.read_bytes())[2:])


def _without_frames(pickled: bytes) -> bytes:
    """Return a pickle without the instructions that say how long a frame is."""
    cuts = [place or 0 for code, _, place in pickletools.genops(pickled) if code.name == "FRAME"]
    for place in reversed(cuts):
        pickled = pickled[:place] + pickled[place + 9 :]
    return pickled


def as_object(metadata: Path, trace: Path) -> None:
    """Make an object of the embedding in an index whose names are all honest; its bytes run a command.

    torch loads the bytes of an object with ``weights_only=False``, even where the model asks for a tensor.
    """
    index = pickle.loads(metadata.read_bytes())
    key = "embedding.word_embeddings.weight"
    shape = index.state_dict_metadata[key].size
    place = next(place for place in index.storage_data if place.fqn == key)
    info = index.storage_data.pop(place)
    content = io.BytesIO()
    torch.save(Command(trace), content)
    data = metadata.parent / info.relative_path
    info.offset, info.length = data.stat().st_size, len(content.getvalue())
    data.write_bytes(data.read_bytes() + content.getvalue())
    index.state_dict_metadata[key] = BytesStorageMetadata()
    index.state_dict_metadata[key].size = shape  # what an earlier version of this program looked for
    index.state_dict_metadata[key].properties = pickle.loads(metadata.read_bytes()).state_dict_metadata[key].properties
    index.storage_data[type(place)(key)] = info
    metadata.write_bytes(pickle.dumps(index))


def in_the_tensor(metadata: Path, trace: Path) -> None:
    """Put a command where the index promises the numbers of the embedding."""
    index = pickle.loads(metadata.read_bytes())
    info = next(info for place, info in index.storage_data.items() if place.fqn == "embedding.word_embeddings.weight")
    content = io.BytesIO()
    torch.save(Command(trace), content)
    data = metadata.parent / info.relative_path
    info.offset, before = data.stat().st_size, info.length
    padded = _padded(content.getvalue(), before)
    info.length = len(padded)
    data.write_bytes(data.read_bytes() + padded)
    metadata.write_bytes(pickle.dumps(index))


def _padded(archive: bytes, length: int) -> bytes:
    """Return an archive of at least this length, with the same content."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/padding", bytes(length))
    return made.getvalue()


def in_the_arguments(metadata: Path, trace: Path) -> None:
    """Put a command into ``common.pt``, which megatron-core loads before any tensor."""
    torch.save({"args": Command(trace)}, metadata.parent / "common.pt")


def as_a_local_index(metadata: Path, trace: Path) -> None:
    """Put a command into rank 0's own index, which torch reads where the common one cannot be read."""
    (metadata.parent / "__0.metadata").write_bytes(pickle.dumps(Command(trace)))
    metadata.write_bytes(metadata.read_bytes()[:-20])


EXPLOITS: dict[str, Callable[[Path, Path], None]] = {
    "dotted": dotted,
    "as_object": as_object,
    "in_the_tensor": in_the_tensor,
    "in_the_arguments": in_the_arguments,
    "as_a_local_index": as_a_local_index,
}
"""What would run a command if torch read the index at the first path; it makes the file at the second."""

HARMLESS = ("in_the_arguments",)
"""Those whose file is not read at all, so that the checkpoint loads."""
