"""The state of one checkpoint in a training run's folder: its step, and whether it is complete."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from launcher.checkpoints import detect
from launcher.checkpoints.iterations import TRACKER
from launcher.core.errors import CheckpointError

UNFINISHED = "-unfinished"
"""What NeMo adds to a checkpoint's name for an empty file that is there while it is written, or removed."""

TRAINER_STATE = "trainer_state.json"
"""What Hugging Face's Trainer writes last of what a model needs."""

TEMPORARY = re.compile(r"^tmp[-_.]|[-_.](tmp|temp|partial|incomplete)$", re.IGNORECASE)
LAST = re.compile(r"[-_.]last$")
"""A second name, or a copy, that NeMo and Lightning give to the newest checkpoint."""

STEPS = tuple(
    re.compile(rf"(?<![a-z])(?:{word})[=_-]?(\d+)(?![\d.]*\d)", re.IGNORECASE)
    for word in ("step", "iter(?:ation)?", "checkpoint|ckpt")
)
"""Where a name holds the training step, the surest first: ``step=100``, ``iter_0000100``, ``checkpoint-100``."""

FILES = (".nemo", ".gguf")


class State(Enum):
    """``complete``: marked so by its writer, and it opens. ``unfinished``: marked so. ``unmarked``: no mark."""

    complete = "complete"
    unfinished = "unfinished"
    unmarked = "unmarked"


@dataclass(frozen=True)
class CheckpointState:
    """A checkpoint as it was seen.

    ``step`` is None where the name holds none. ``modified`` is when the newest of its files changed, in seconds since
    1970. ``stamp`` differs when names, sizes or times of its files do. ``opens``: every file that its index names is
    there, in its size. ``reason`` says why it is unfinished.
    """

    path: Path
    step: int | None
    modified: float
    stamp: str
    state: State
    opens: bool = False
    reason: str = ""

    @property
    def key(self) -> str:
        """The name of its run folder; that of a second checkpoint of the same step is the same."""
        return f"step_{self.step}" if self.step is not None else re.sub(r"[^\w.-]", "_", self.path.name)

    @property
    def sort_key(self) -> tuple[float, float]:
        """What checkpoints are sorted by: the step; those without one by their time, before all others."""
        return (-1.0 if self.step is None else self.step, self.modified)

    @property
    def is_alias(self) -> bool:
        """Whether it is only the newest one under a second name."""
        return LAST.search(self.path.stem if self.path.suffix in FILES else self.path.name) is not None


def step_of(name: str) -> int | None:
    """Return the training step that the name of a checkpoint holds; None if it holds none."""
    for pattern in STEPS:
        if found := pattern.findall(name):
            return int(found[-1])
    return None


def checkpoints(folder: Path, known: Mapping[Path, CheckpointState]) -> list[CheckpointState]:
    """Return what a training run has written, or is writing, into its folder. Raises `OSError`.

    A name without a step counts once it opens as a checkpoint; other folders and files are not the training's. Those
    ``known`` are not read again.
    """
    found = (known.get(path) or inspect(path) for path in sorted(folder.iterdir()) if _may_be(path))
    return [each for each in found if each is not None]


def _may_be(path: Path) -> bool:
    if path.name.startswith(".") or (path / TRACKER).is_file():  # the second is another training run
        return False
    return path.is_dir() if path.suffix not in FILES else path.is_file()


def inspect(path: Path) -> CheckpointState | None:
    """Look at one checkpoint; None for another file, and for one that vanishes while it is read."""
    step, reason = step_of(path.name), _unfinished(path)
    opens = not reason and _opens(path)
    files = list(_files(path))
    if not files or (step is None and not opens):
        return None
    modified = max(time_ns for _, _, time_ns in files)
    stamp = f"{path.name} {len(files)} files {sum(size for _, size, _ in files)} bytes {modified}"
    state = State.unfinished if reason else State.complete if opens and _is_marked(path) else State.unmarked
    return CheckpointState(path, step, modified / 1e9, stamp, state, opens, reason)


def _opens(path: Path) -> bool:
    try:
        detect(path)
    except (CheckpointError, OSError):  # also what is removed while it is read
        return False
    return True


def _files(path: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield path, size in bytes and time of modification in nanoseconds of every file."""
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        if not file.is_dir():
            yield file, found.st_size, found.st_mtime_ns


def _unfinished(path: Path) -> str:
    """Return by which mark the writer says that it is not done; empty without one."""
    if TEMPORARY.search(path.name):
        return "its name is a temporary one"
    marker = path.with_name(f"{path.stem if path.suffix in FILES else path.name}{UNFINISHED}")
    if marker.exists():
        return f"{marker.name} is there"
    number, newest = _iteration(path.name), _newest(path.parent)
    if number is not None and newest is not None and number > newest:
        return f"{TRACKER} says {newest}"
    return ""


def _is_marked(path: Path) -> bool:
    """Tell whether the writer says that a checkpoint is complete."""
    number, newest = _iteration(path.name), _newest(path.parent)
    if number is not None and newest is not None:
        return number <= newest
    return (path / TRAINER_STATE).is_file()


def _iteration(name: str) -> int | None:
    found = re.fullmatch(r"iter_(\d+)", name)
    return int(found[1]) if found else None


def _newest(folder: Path) -> int | None:
    """Return the iteration that Megatron's tracker file names: it is written when a checkpoint is complete."""
    try:
        word = (folder / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return int(word) if word.isdecimal() else None
