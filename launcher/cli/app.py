"""The only module that knows Hydra's entry point: compose, run, exit code."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from launcher import __version__
from launcher.cli import commands, hydra_launchers
from launcher.cli.arguments import as_written, completed
from launcher.cli.config_errors import complaint, unknown_keys
from launcher.cli.hydra_launchers import SHARED
from launcher.cli.sweep_callback import (
    SweepCallback,
    check_secrets,
    ended,
    interrupted,
    lost,
    lost_points,
    say,
    settings,
    told_values,
)
from launcher.core import credentials, redaction
from launcher.core.errors import UserError
from launcher.core.files import refused
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation, allocate
from launcher.distributed.group.leader import leading
from launcher.distributed.group.member import follow
from launcher.pipeline.config import ComposedRun, Mode, Run, check, plain
from launcher.pipeline.servers import ServerPool, fingerprint
from launcher.settings.cluster import Slurm
from launcher.settings.overrides import CommandLine


@dataclass(frozen=True)
class RunContext:
    """What points run with: this process's place, and the servers that it keeps.

    Sent to another process, as launchers do that run each point in one, it is what that process finds there.
    """

    allocation: Allocation
    deployments: ServerPool | None = None

    def __reduce__(self) -> tuple[Callable[[], RunContext], tuple[()]]:
        return _elsewhere, ()


def _elsewhere() -> RunContext:
    return RunContext(allocate())


def conf_folder() -> Path:
    """Return the folder of option files: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent.parent
    return next(folder for folder in (here / "conf", here.parent / "conf") if folder.is_dir())


def launch(arguments: list[str]) -> int:
    """Compose and run what ``arguments`` ask for; return the exit code, the worst one of a sweep."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that composition errors reach us, to be said in one line
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    signal.signal(signal.SIGTERM, _Once())
    logging.raiseExceptions = False  # a log that cannot be written costs nothing else
    SweepCallback.forget()
    redaction.forget()
    if "--version" in arguments:  # before Hydra says its own
        print(f"launcher {__version__}")
        return 0
    try:
        line = CommandLine.parse(arguments)
        allocation = allocate()
        if not allocation.leads:
            return follow(allocation)
        with leading(allocation) as leader:
            return _launched(line, leader)
    except (HydraException, OmegaConfBaseException) as error:
        return say(complaint(error, conf_folder()), 1)
    except UserError as error:
        return ended(str(error), error.exit_code)
    except KeyboardInterrupt:
        return interrupted()
    except OSError as error:
        said = refused(error)
        if said is None:
            raise
        return ended(said, UserError.exit_code)
    except SystemExit as end:  # Hydra has shown what was asked for, or a callback has said what is wrong
        return 1 if end.code else 0
    except lost() as error:
        return lost_points(error)


class _Once:
    """Ends the run as Ctrl-C does, once: SIGTERM may come from several sides, and must not disturb the tear-down."""

    def __init__(self) -> None:
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._came:
            self._came = True
            signal.raise_signal(signal.SIGINT)


def _launched(line: CommandLine, allocation: Allocation) -> int:
    if line.get("mode") in ("status", "cancel"):
        return _about_job(line)
    with _scratch(line) as scratch, ServerPool() as deployments:
        here = RunContext(allocation, deployments)

        def task(cfg: DictConfig) -> int:
            return job(cfg, here)

        with told_values(), _complete_help(line), _argv(completed(line, Path(scratch)).arguments):
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(task)()
    return max(SweepCallback.codes, default=0)


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    """Let Hydra, which reads ``sys.argv``, read these arguments."""
    before = sys.argv
    sys.argv = [*before[:1], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _complete_help(line: CommandLine) -> Iterator[None]:
    """Leave the groups of schemas, which are no choice, out of Hydra's help, and add the commands."""
    if "help" not in line.flags:
        yield
        return
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            yield
    finally:  # Hydra exits when it has shown it
        print("".join(one for one in shown.getvalue().splitlines(True) if not one.startswith("schema")).rstrip())
        print(f"\n== Commands ==\n{commands.listing()}")


def _scratch(line: CommandLine) -> AbstractContextManager[str]:
    """Return the folder of a plan, which is removed; nothing else needs one, or would leave it when it is killed."""
    return tempfile.TemporaryDirectory() if line.get("mode") == "plan" else nullcontext("")


def job(cfg: DictConfig, here: RunContext) -> int:
    """Run one composed configuration in its folder, or submit it; return its exit code."""
    from launcher.pipeline import run

    point = composed(cfg)
    if isinstance(point, int):
        return point
    try:
        if point.run.mode is Mode.watch:
            from launcher.watch import loop

            return loop.watch(point, here.allocation)
        if isinstance(point.run.cluster, Slurm):
            from launcher.slurm.groups import submitted

            return submitted([[point]], under_way=[])[point.folder]
        shared = here.deployments if _shares(HydraConfig.get()) else None
        return run.run(point, here.allocation, shared)
    except UserError as error:
        return say(str(error), error.exit_code)


def composed(cfg: DictConfig) -> ComposedRun | int:
    """Return what a composed configuration asks for; the exit code where it is wrong, or only to be shown."""
    from launcher.cli import plan

    try:
        keys = settings(HydraConfig.get())
        check_secrets(cfg)
        hydra_launchers.check(keys, OmegaConf.get_type(cfg, "cluster") is Slurm)
        cfg = _queued_as(cfg, keys)
        typed = _typed(cfg)
        check(typed)
        if typed.mode is Mode.plan:
            plan.show(typed, OmegaConf.to_yaml(cfg, resolve=True))
            return 0
        hydra_config = HydraConfig.get()
        if typed.mode is Mode.watch and hydra_config.mode == RunMode.MULTIRUN:
            raise UserError("mode=watch: a watch is one run, and not swept; leave out -m")
        return ComposedRun(
            typed, plain(cfg), as_written(hydra_config.overrides.task), Path(hydra_config.runtime.output_dir)
        )
    except (HydraException, OmegaConfBaseException) as error:
        return _refused(cfg, UserError(complaint(error, conf_folder())))
    except UserError as error:
        if isinstance(error, credentials.SecretGiven):  # of an option file that only this point has
            shutil.rmtree(RunFolder(Path(HydraConfig.get().runtime.output_dir)).hydra, ignore_errors=True)
        return _refused(cfg, error)


def _refused(cfg: DictConfig, error: UserError) -> int:
    """Say why a configuration cannot be run; a point of a sweep also leaves it where the others leave their results."""
    from launcher.pipeline.provenance import provenance
    from launcher.pipeline.record import RunRecord
    from launcher.pipeline.steps import reported

    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN or cfg.mode == Mode.plan:
        return say(str(error), error.exit_code)
    config = plain(cfg, resolve=False)  # what is wrong may be an interpolation
    ledger = RunRecord(provenance(config, as_written(hydra_config.overrides.task), allocate()))
    with reported(ledger, Path(hydra_config.runtime.output_dir)) as outcome:
        raise error
    return outcome.code


def _queued_as(cfg: DictConfig, keys: Mapping[str, Json]) -> DictConfig:
    """Return the configuration with what the keys of ``hydra.launcher`` say, in the words of ``cluster``."""
    if not hydra_launchers.queue_keys(keys):
        return cfg
    given = CommandLine.of(as_written(HydraConfig.get().overrides.task))
    values = hydra_launchers.translated(keys, plain(cfg.cluster, resolve=False), given.keys)
    merged = cfg.copy()
    with open_dict(merged):  # additional_parameters takes any key
        merged.merge_with({"cluster": values})
    return merged


def _about_job(line: CommandLine) -> int:
    """Do ``mode=status`` or ``mode=cancel`` for the folder that ``run=`` names; nothing is composed."""
    mode, folder = line.get("mode"), line.get("run")
    if other := line.without(lambda key: key in ("run", "mode")).texts:
        raise UserError(f"{other[0]}: mode={mode} takes no setting but run=<run folder>")
    if not folder:
        raise UserError(f"run: a value is required; mode={mode} needs run=<run folder>")
    return commands.run(mode, ["--", folder])


def deployment_of(cfg: DictConfig) -> str:
    """Return what tells this point's deployment, and its place, from those of others, without reading its checkpoint.

    Empty for a point that cannot be built; it says why when it is run.
    """
    try:
        config = plain(cfg)
        return fingerprint(_typed(cfg), config, None) + str(config["cluster"])
    except (HydraException, OmegaConfBaseException, UserError):
        return ""


def _typed(cfg: DictConfig) -> Run:
    unknown = unknown_keys(cfg)
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such key; leave out the + to see what is accepted")
    typed = OmegaConf.to_object(cfg)
    assert isinstance(typed, Run)
    return typed


def _shares(hydra_config: HydraConf) -> bool:
    return bool(hydra_config.mode == RunMode.MULTIRUN and hydra_config.launcher._target_ == SHARED)
