"""``-m mode=watch``: the points of a sweep become the settings that each checkpoint is evaluated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.cli.compose import Composition
from launcher.cli.hydra_launchers import SHARED
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.pipeline.config import ComposedRun
from launcher.pipeline.servers import fingerprint
from launcher.settings.overrides import CommandLine
from launcher.watch.checkpoint_run import Setting

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

SAME_GROUPS = ("model", "engine", "backend", "parallelism", "optimizations", "cluster", "watch")
"""The groups that all settings of a watch share: they decide the server, and what is watched."""

ONE_SERVER = (
    "a watch evaluates all its settings on one server per checkpoint; sweep over what needs no other server: "
    "evaluate.*, tasks, adapters"
)


@dataclass(frozen=True)
class WatchSweep:
    """A watch over several settings, ready to begin in ``folder``."""

    folder: Path
    settings: tuple[Setting, ...]


def check(launcher: Mapping[str, Json], sweeper: Mapping[str, Json]) -> None:
    """Refuse a launcher or a sweeper that does not hand over all settings at once. Raises `UserError`."""
    if launcher["_target_"] != SHARED:
        raise UserError("mode=watch: it runs with hydra/launcher=shared; leave hydra/launcher out")
    if sweeper["_target_"] != BASIC_SWEEPER:
        raise UserError("mode=watch: every setting is evaluated on each checkpoint; leave hydra/sweeper out")
    if sweeper.get("max_batch_size") is not None:
        raise UserError(
            f"hydra.sweeper.max_batch_size={sweeper['max_batch_size']}: mode=watch evaluates every setting on each "
            "checkpoint; leave it out"
        )


@dataclass(frozen=True)
class Before:
    """What the folder of a sweep was before Hydra wrote into it: the text of ``multirun.yaml``, where there was one."""

    folder: Path
    there: bool
    multirun: bytes | None

    @classmethod
    def of(cls, folder: Path) -> Before:
        file = RunFolder(folder).multirun
        return cls(folder, folder.is_dir(), file.read_bytes() if file.is_file() else None)

    def restore(self) -> None:
        """Undo what Hydra wrote, for a watch that is refused; an earlier one can still be continued."""
        file = RunFolder(self.folder).multirun
        if self.multirun is None and RunFolder(self.folder).watch.exists():
            return  # it began, and ended with an error
        with suppress(OSError):
            if self.multirun is not None:
                file.write_bytes(self.multirun)
                return
            file.unlink(missing_ok=True)
            if not self.there:
                self.folder.rmdir()


def collect(points: Sequence[tuple[Composition, str]], folder: Path) -> WatchSweep:
    """Return the watch over these points, each with the text of Hydra's own settings.

    Raises `UserError` for a point that cannot be run, or not on the server of the first.
    """
    composed = [composition.composed for composition, _ in points]
    if len(composed) == 1:
        raise UserError("mode=watch: there is one setting and nothing to sweep over; leave out -m")
    for other in composed[1:]:
        _check_same_server(composed[0], other)
    names = [_name(run, folder) for run in composed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"hydra.sweep.subdir: two settings have the folder {twice}; choose one with ${{hydra.job.num}}")
    texts = (hydra_config for _, hydra_config in points)
    shown = _distinct([run.overrides for run in composed])
    return WatchSweep(folder, tuple(map(Setting, composed, texts, names, shown)))


def _check_same_server(first: ComposedRun, other: ComposedRun) -> None:
    """Raise `UserError` where a point needs another server, or watches something else."""
    differing = [group for group in SAME_GROUPS if first.config[group] != other.config[group]]
    if not differing and fingerprint(first.run, first.config, None) == fingerprint(other.run, other.config, None):
        return
    swept = CommandLine.of(_distinct([first.overrides, other.overrides])[1])
    guilty = swept.without(lambda key: key.partition(".")[0].partition("@")[0] not in differing).texts
    raise UserError(f"{' '.join(guilty or swept.texts)}: {ONE_SERVER}")


def _name(run: ComposedRun, folder: Path) -> str:
    """Return the folder of a setting below that of a checkpoint. Raises `UserError` for one outside."""
    if not run.folder.is_relative_to(folder) or run.folder == folder or ".." in run.folder.parts:
        raise UserError(f"hydra.sweep.subdir: {run.folder} is not inside of hydra.sweep.dir, as a watch needs it")
    return run.folder.relative_to(folder).as_posix()


def _distinct(overrides: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the overrides of each point that not all points have."""
    common = set.intersection(*map(set, overrides))
    return [tuple(text for text in some if text not in common) for some in overrides]
