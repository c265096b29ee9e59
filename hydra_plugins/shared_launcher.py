"""``hydra/launcher=shared``: the points of a sweep that need the same server run one after the other on it."""

# Without `from __future__ import annotations`: Hydra runs this module before it is in sys.modules, where dataclasses
# look for the names in annotations that are text.
import errno
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins._caching_loader import caching_loader, relaxed_gc

UNUSABLE_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}


@dataclass
class SharedConf:
    """The keys of ``hydra.launcher``: ``resume`` skips the points whose folder already holds a good result.

    The others are those of hydra-submitit-launcher, and mean the same for ``cluster=slurm``. Null, or an empty
    dictionary: not given.
    """

    _target_: str = "hydra_plugins.shared_launcher.SharedLauncher"
    resume: bool = False
    name: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    comment: str | None = None
    exclude: str | None = None
    gres: str | None = None
    nodes: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    cpus_per_gpu: int | None = None
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    mem_gb: float | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    timeout_min: int | None = None
    signal_delay_s: int | None = None
    max_num_timeout: int | None = None
    array_parallelism: int | None = None
    setup: list[str] | None = None
    srun_args: list[str] | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    stderr_to_stdout: bool | None = None
    submitit_folder: str | None = None


ConfigStore.instance().store(group="hydra/launcher", name="shared", node=SharedConf, provider="launcher")


class SharedLauncher(Launcher):
    """Runs the points of a batch sorted by the server that they need; numbers and results keep their order.

    With ``cluster=slurm`` the points that need the same server go into one job, and the jobs run side by side.
    """

    config: DictConfig
    task_function: TaskFunction
    hydra_context: HydraContext

    def __init__(self, resume: bool, **queue: Any) -> None:
        """Take the keys of `SharedConf`; those for SLURM are read where a point is composed."""
        self.resume = resume
        self.running_key = ""
        self.under_way: list[Any] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.task_function, self.hydra_context = config, task_function, hydra_context
        self.loader = caching_loader(hydra_context)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose every point before the first one runs; return one `JobReturn` each, in the order given.

        The points that need the server which the batch before left up come first.
        """
        setup_globals()
        _check_points(job_overrides)
        if str(getattr(self.config.mode, "value", self.config.mode)) == "watch":
            return self._watch(job_overrides)
        self._begin(initial_job_idx)
        with relaxed_gc():
            points = [self._compose(overrides, initial_job_idx + n) for n, overrides in enumerate(job_overrides)]
        keys = [point.key for point in points]
        returns: dict[int, JobReturn] = {}
        submitted: dict[int, Any] = {}
        order = sorted(range(len(keys)), key=lambda n: (keys[n] != self.running_key, keys.index(keys[n]), n))
        for turn, n in enumerate(order, start=1):
            with _turn(Path(str(self.config.hydra.sweep.dir)), turn, len(order)):
                returns[n] = self._run(points[n], n, submitted)
            self.running_key = keys[n]
        if submitted:
            self._submit(submitted, points, returns)
        return [returns[n] for n in range(len(points))]

    def _watch(self, job_overrides: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        """Evaluate each checkpoint of a training run with every point; return nothing before that ends."""
        from launcher.cli import watch_sweep
        from launcher.cli.sweep_callback import SweepCallback

        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        with relaxed_gc():
            points = [self._compose(overrides, n) for n, overrides in enumerate(job_overrides)]
            texts = [OmegaConf.to_yaml(OmegaConf.masked_copy(point.config, "hydra")) for point in points]
            compositions = [point.composition for point in points]
            several = watch_sweep.collect(list(zip(compositions, texts, strict=True)), folder)
        self._begin(0)
        with env_override(points[0].config.hydra.job.env_set):
            SweepCallback.codes.append(self.task_function(several))
        return [_watch_return(point.config) for point in points]

    def _begin(self, number: int) -> None:
        """Write the sweep's own configuration, which not every sweeper does; warn if it cannot be continued."""
        from launcher.core.run_folder import RunFolder

        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        if not RunFolder(folder).multirun.exists():
            OmegaConf.save(self.config, RunFolder(folder).multirun)
        if number == 0 and OmegaConf.select(self.config.hydra.sweeper, "sampler.seed", default=0) is None:
            _print("without hydra.sweeper.sampler.seed=<number> this sweep cannot be continued if it is interrupted")

    def _compose(self, overrides: Sequence[str], number: int) -> "_Point":
        from launcher.cli.compose import Composition
        from launcher.cli.jobs import deployment_key

        config, title = self.loader.take(self.config, overrides), " ".join(filter_overrides(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        folder = _folder(config).absolute()
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        done = self.resume and _is_done_point(config, folder)
        if self.resume and not done:
            config.resume = str(folder)
        composition = Composition(_task(config), config.hydra, folder)
        with env_override(config.hydra.job.env_set):
            return _Point(config, composition, deployment_key(composition), f"point {number}: {title}", done)

    def _run(self, point: "_Point", number: int, submitted: dict[int, Any]) -> JobReturn:
        """Run a point, put it into ``submitted`` if a job will do it, or skip it if it is done."""
        if point.done:
            _print(f"{point.title} · done before")
            return _job_return(point.config, point.composition.folder)
        _print(point.title)
        if (failed := _return_without_folder(point)) is not None:
            return failed
        if _is_submitted(point.config):
            with relaxed_gc():
                return self._run_job(point, lambda composition: _collect(composition, submitted, number))
        return self._run_job(point, self.task_function)

    def _run_job(self, point: "_Point", task: TaskFunction) -> JobReturn:
        """Let Hydra write the point's folder and call ``task`` with what is composed already."""
        return run_job(
            lambda config: task(point.composition),
            point.config,
            "hydra.sweep.dir",
            "hydra.sweep.subdir",
            self.hydra_context,
        )

    def _submit(self, collected: dict[int, Any], points: "list[_Point]", returns: dict[int, JobReturn]) -> None:
        """Submit one job for the collected points of each key, and put their values where Hydra looks for them."""
        from launcher.cli.sweep_callback import SweepCallback
        from launcher.slurm.sweep_jobs import submit_groups

        groups = [list(group) for _, group in groupby(collected, key=lambda number: points[number].key)]
        codes = submit_groups([[collected[number] for number in group] for group in groups], self.under_way)
        for number, composed in collected.items():
            SweepCallback.codes.append(codes[composed.folder])
            returns[number].return_value = SweepCallback.objective_value(points[number].config, composed.folder)


def _check_points(points: Sequence[Sequence[str]]) -> None:
    """Raise `UserError` for a sweep without points: a ``glob`` or a ``range`` may list nothing."""
    from launcher.core.errors import UserError

    if not points:
        lists = [word for word in sys.argv[1:] if re.search(r"=.*\b(glob|range|choice)\(", word)]
        raise UserError(f"{' '.join(lists) or '-m'}: lists no value, and the sweep has no points; expected key=a,b,c")


@dataclass
class _Point:
    """One point of a batch: Hydra's configuration of it, its composition, the key of its server, and its title."""

    config: DictConfig
    composition: Any
    key: str
    title: str
    done: bool


@contextmanager
def _turn(folder: Path, turn: int, total: int) -> Iterator[None]:
    """Show, and keep in the folder of the sweep, which of its points a run is."""
    from launcher.core import stage

    with stage.titled(f"point {turn} of {total}" if total > 1 else ""), stage.swept(folder, turn, total):
        yield


def _is_submitted(config: DictConfig) -> bool:
    from launcher.cli.compose import is_submitted

    return is_submitted(config)


def _collect(composition: Any, into: dict[int, Any], number: int) -> int:
    """Put a composed point aside, to be submitted with others; return the exit code of one that is refused."""
    from launcher.cli.jobs import perform

    def put_aside(composed: Any) -> int:
        into[number] = composed
        return 0

    return perform(composition, put_aside)


def _task(config: DictConfig) -> DictConfig:
    task = config.copy()
    with open_dict(task):
        del task["hydra"]
    return task


def _folder(config: DictConfig) -> Path:
    HydraConfig.instance().set_config(config)
    return Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)


def _is_done_point(config: DictConfig, folder: Path) -> bool:
    """Tell whether a point of a resumed sweep is done. Raises `UserError` where the sweeper asks for another point."""
    _check_same(config, folder)
    return _is_done(folder)


def _check_same(config: DictConfig, folder: Path) -> None:
    """Raise `UserError` where the sweeper asks for another point than it did before."""
    from launcher.cli.arguments import override_texts, stored_overrides
    from launcher.core.errors import UserError
    from launcher.core.run_folder import RunFolder

    file, asked = RunFolder(folder).overrides, override_texts(config.hydra.overrides.task)
    before = stored_overrides(file) if file.exists() else asked
    if before != asked:
        was, now = (" ".join(one for one in a if one not in b) for a, b in ((before, asked), (asked, before)))
        raise UserError(
            f"resume={folder.parent}: point {folder.name} was {was}, and the sweeper now asks for {now}; "
            "a sweep is continued only if its sweeper chooses the same points again (hydra.sweeper.sampler.seed=...)"
        )


def _is_done(folder: Path) -> bool:
    from launcher.core.errors import UserError
    from launcher.report import results

    try:
        return bool(results.read(folder)["status"] == "ok")
    except UserError:
        return False


def _return_without_folder(point: "_Point") -> JobReturn | None:
    """Report a point whose folder has a name that the file system refuses, so that the others go on.

    Raises `OSError` for what the disk itself refuses.
    """
    from launcher.cli.sweep_callback import SweepCallback, fail

    folder = point.composition.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in UNUSABLE_NAME:
            raise
        line = f"{point.title[:100]}: its folder {folder.name[:100]!r} cannot be made: {error.strerror}"
        SweepCallback.codes.append(fail(f"{line}; set hydra.sweep.subdir to another name", 1))
        return _job_return(point.config, folder)
    return None


def _job_return(config: DictConfig, folder: Path) -> JobReturn:
    from launcher.cli.sweep_callback import SweepCallback

    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task)
    ret = JobReturn(overrides=overrides, cfg=_task(config), status=JobStatus.COMPLETED)
    ret.return_value = SweepCallback.objective_value(config, folder)
    return ret


def _watch_return(config: DictConfig) -> JobReturn:
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task)
    ret = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    ret.return_value = None
    return ret


def _print(line: str) -> None:
    from launcher.core.console import to_stderr

    to_stderr(line)
