"""What Hydra's files in a run folder were before a command, for one that is refused and must change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.core.files import Identity, identity, replace
from launcher.core.run_folder import RunFolder


@dataclass(frozen=True)
class KeptConfig:
    """The configuration of the session that holds a run folder: its files by name; empty for a new folder."""

    folder: Path
    files: Mapping[str, bytes]
    lease: Identity | None

    @classmethod
    def of(cls, folder: Path) -> KeptConfig:
        place, lease = RunFolder(folder).hydra, identity(RunFolder(folder).lease)
        with suppress(OSError):
            return cls(folder, {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}, lease)
        return cls(folder, {}, lease)

    def restore(self) -> None:
        """Write the files again that Hydra has replaced, unless another session has begun in the folder since.

        So the session that holds it can still be resumed.
        """
        if self.lease is None or identity(RunFolder(self.folder).lease) != self.lease:
            return
        for name, text in self.files.items():
            path = RunFolder(self.folder).hydra / name
            with suppress(OSError):
                if path.read_bytes() != text:
                    replace(path, [text])
