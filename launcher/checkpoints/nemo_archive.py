"""A ``.nemo`` archive; it is listed and checked completely before anything is unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from launcher.checkpoints.bounded import DEEPEST, MB, shown
from launcher.core.errors import CheckpointError
from launcher.settings.model import Bounds

MOST_MEMBERS = 100_000
"""Files in an archive; a large model's has some thousands."""

COMPRESSIONS: Mapping[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""How an archive is opened by the bytes it starts with."""


DAMAGE = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError),
    *(ValueError, OverflowError, RecursionError),
)
"""What reading an archive raises that is cut short or damaged."""


class _OutOfBounds(Exception):
    """An archive that holds more than its size justifies, or what is no plain file."""


class _Limited:
    """A stream that does not go beyond a position, however much its compressed form promises."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream = stream
        self._most = most

    def read(self, count: int) -> bytes:
        self._check(self._stream.tell() + count)
        return self._stream.read(count)

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._most + MB:  # an end is looked for beyond the end
            raise _OutOfBounds(f"unpacks to more than {self._most} bytes (model.bounds.unpacked_ratio bounds it)")


class NemoArchive:
    """A tar file, compressed or not. Holds regular files and folders with plain names, each once, and nothing else."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        """List the archive; raises `CheckpointError` for one that is damaged, or more than its size justifies."""
        self.path = path
        self.bounds = bounds
        with self._opened() as tar:
            self._sizes = {name: member.size for name, member in self._members(tar) if member.isfile()}

    def weights(self, folder: PurePosixPath) -> dict[str, int]:
        """Return the size in bytes of every data file in a folder of the archive, by its name."""
        found = {PurePosixPath(name): size for name, size in self._sizes.items() if _is_weights(name)}
        return {path.name: size for path, size in found.items() if path.parent == folder}

    def has(self, ending: str) -> bool:
        return any(f"/{name}".endswith(f"/{ending}") for name in self._sizes)

    def unpack(self, folder: Path, weights: bool) -> None:
        """Unpack the weights, or everything else, which must be small."""
        rest = sum(size for name, size in self._sizes.items() if not _is_weights(name))
        if rest > self.bounds.metadata_mb * MB:
            raise CheckpointError(
                f"{self.path}: {rest} bytes beside its .distcp files (expected at most {self.bounds.metadata_mb} MB, "
                "model.bounds.metadata_mb)"
            )
        with self._opened() as tar:
            members = dict(self._members(tar))
            if {name: member.size for name, member in members.items() if member.isfile()} != self._sizes:
                raise CheckpointError(f"{self.path}: the archive changed after it was opened")
            chosen = [m for name, m in members.items() if m.isdir() or _is_weights(name) == weights]
            tar.extractall(folder, chosen, filter="data")

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        try:
            with self.path.open("rb") as plain:
                start, size = plain.read(6), self.path.stat().st_size
            opener = next((use for magic, use in COMPRESSIONS.items() if start.startswith(magic)), open)
            most = self.bounds.unpacked_ratio * size if opener is not open else size
            with opener(self.path, "rb") as stream:
                limited = cast(BinaryIO, _Limited(cast(BinaryIO, stream), most))
                with tarfile.open(fileobj=limited, mode="r:") as tar:
                    yield tar
        except _OutOfBounds as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        except DAMAGE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")[:200]
            raise CheckpointError(f"{self.path}: not a whole .nemo archive (expected a tar file): {reason}") from error

    def _members(self, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Yield the files and folders by their names without ``./``, refusing all that could be read in two ways."""
        seen: set[str] = set()
        for member in tar:
            name = str(PurePosixPath(member.name))
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
                raise _OutOfBounds(f"member {shown(name)} is a link, a device or sparse (expected files and folders)")
            if len(PurePosixPath(name).parts) > DEEPEST:
                raise _OutOfBounds(f"member {shown(name)} lies more than {DEEPEST} folders deep")
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise _OutOfBounds(f"member {shown(name)} lies outside of the archive")
            if name in seen and not member.isdir():
                raise _OutOfBounds(f"member {shown(name)} is there twice")
            seen.add(name)
            if len(seen) > MOST_MEMBERS:
                raise _OutOfBounds(f"more than {MOST_MEMBERS} members")
            yield name, member


def _is_weights(name: str) -> bool:
    return name.endswith(".distcp")
