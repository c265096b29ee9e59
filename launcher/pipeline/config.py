"""The typed configuration of a run: one field per config group, and the rules between groups."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from launcher.adapters.base import Adapter
from launcher.adapters.line_writer import check_files
from launcher.adapters.parameters import check_form
from launcher.backends.base import Backend
from launcher.backends.external import External
from launcher.core.errors import ObjectiveError, UserError
from launcher.core.ranges import Takes
from launcher.core.redaction import reveal
from launcher.engines.base import Deployment, Engine
from launcher.evaluate.populations import NotDrawn, populations
from launcher.export import formats
from launcher.pipeline import components, peft  # noqa: F401  (the first registers the components)
from launcher.pipeline.judge import Judge
from launcher.proxy.settings import Proxy
from launcher.settings.cluster import Cluster, Local, Slurm
from launcher.settings.component import name_of
from launcher.settings.convert import Convert
from launcher.settings.evaluate import Evaluate
from launcher.settings.lm_eval import LmEvalSettings
from launcher.settings.load import Load
from launcher.settings.model import Model, Optimizations, Parallelism
from launcher.settings.monitor import Monitor
from launcher.settings.until import widths
from launcher.settings.validate import Validate
from launcher.settings.watch import Watch
from launcher.tasks import group
from launcher.tasks.base import Task, check_tasks
from launcher.tasks.group import Group
from launcher.tasks.harness.base import Harness

OFFLINE = "HF_HUB_OFFLINE"
"""The environment variable with which no data set is fetched, read when its package is imported."""


class Mode(Enum):
    """How far to go: ``run`` does all steps, ``serve`` and ``validate`` send no samples, and ``plan`` starts nothing.

    ``proxy`` serves and validates, and then passes requests on through the adapters, until Ctrl-C or SIGTERM.
    ``convert`` writes the checkpoint in another layout into ``convert.path``.
    ``watch`` runs for each checkpoint of a training run, as it comes. ``score`` scores the stored answers of the run
    folder that ``run`` names again. ``status`` and ``cancel`` are about the job that
    was submitted for the folder that ``run`` names.
    """

    run = "run"
    serve = "serve"
    validate = "validate"
    plan = "plan"
    proxy = "proxy"
    watch = "watch"
    score = "score"
    status = "status"
    cancel = "cancel"
    convert = "convert"


@dataclass
class Run:
    """The settings of one run, one field per config group.

    ``resume`` is the folder of an interrupted run to continue. ``run`` is the folder of an earlier run, for
    ``mode=score``, for its ``mode=plan``, ``mode=status`` and ``mode=cancel``. ``judge`` is an endpoint that tasks ask
    while they score. ``objective`` is the value that a sweeper gets of a point: ``<task>.<metric>``, or a list of them.
    Null: the mean over the tasks of each task's first metric, where a group counts as one task. ``export`` names the
    formats in which results are written as well: csv, inspect, junit, lm-eval, markdown, mlflow, parquet, wandb.
    ``groups`` sums up tasks by the names of groups: ``+groups.<name>.members=[a,b]``.
    """

    mode: Mode = Mode.run
    resume: str | None = None
    run: str | None = None
    objective: Annotated[Any, Takes("text, or a list of texts, or null")] = None
    export: list[str] = field(default_factory=list)
    cluster: Cluster = MISSING
    judge: Judge | None = None
    model: Model = MISSING
    engine: Engine = MISSING
    backend: Backend = MISSING
    parallelism: Parallelism = field(default_factory=Parallelism)
    optimizations: Optimizations = field(default_factory=Optimizations)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    lm_eval: LmEvalSettings = field(default_factory=LmEvalSettings)
    validate: Validate = field(default_factory=Validate)
    load: Load = field(default_factory=Load)
    evaluate: Evaluate = field(default_factory=Evaluate)
    watch: Watch = field(default_factory=Watch)
    monitor: Monitor = field(default_factory=Monitor)
    proxy: Proxy = field(default_factory=Proxy)
    convert: Convert = field(default_factory=Convert)

    @property
    def used_judge(self) -> Judge | None:
        """The judge, if a task asks it."""
        return self.judge if any(task.asks_judge for task in self.tasks.values()) else None

    @property
    def has_proxy(self) -> bool:
        """Whether there is a proxy in front of the endpoint."""
        return self.mode is Mode.proxy or (self.mode in (Mode.run, Mode.serve) and self.proxy.port is not None)

    def adapter_variables(self) -> dict[str, str]:
        """Return the environment variables with secrets that adapters need, each by the key that names it."""
        asked = () if self.mode is Mode.score else self.adapters.values()
        found = {key: name for adapter in asked for key, name in adapter.variables().items()}
        judges = self.judge.adapters.values() if self.judge is not None else ()
        return found | {f"judge.{key}": name for each in judges for key, name in each.variables().items()}

    def reveal(self) -> None:
        """Look whether the secrets that adapters and the proxy need are there. Raises `UserError`."""
        if self.has_proxy and self.proxy.api_key_env is not None:
            reveal(self.proxy.api_key_env, "proxy.api_key_env")
        for key, variable in self.adapter_variables().items():
            reveal(variable, key)

    def variables(self) -> list[str]:
        """Return the environment variables that hold secrets of this run."""
        backends = [self.backend, *([self.judge.server] if self.judge is not None else [])]
        keys = [key for backend in backends if (key := getattr(backend, "api_key_env", None))]
        server = [name for backend in backends for name in getattr(backend, "environment_env", {}).values()]
        keys += [self.proxy.api_key_env] if self.proxy.api_key_env else []
        tasks = [name for task in self.tasks.values() for name in task.variables().values()]
        return list(dict.fromkeys([*keys, *server, *self.adapter_variables().values(), *tasks]))

    def deployment(self, folder: Path) -> Deployment:
        """Return what is to be served, with ``folder`` for its log."""
        return Deployment(self.model, self.engine, self.parallelism, self.optimizations, folder)


@dataclass(frozen=True)
class ComposedRun:
    """One composed run: ``config`` and ``overrides`` are what Hydra made ``run`` from, as plain data.

    It names secrets' variables and never holds their values. ``race`` is the folder of the race that it is a part of.
    """

    run: Run
    config: Mapping[str, Any]
    overrides: list[str]
    folder: Path
    race: Path | None = None

    @property
    def continued_by(self) -> str:
        """What a user types to continue it."""
        return f"resume={self.folder}" if self.race is None else f"launcher race --resume {shlex.quote(str(self.race))}"

    @property
    def slurm(self) -> Slurm:
        """The settings with which it is submitted."""
        assert isinstance(self.run.cluster, Slurm)
        return self.run.cluster


ConfigStore.instance().store(group="schema", name="run", node=Run)


@cache
def fetches_nothing() -> bool:
    """Keep this process, which only plans, from fetching data of a hub; tell whether a run would fetch them."""
    if os.environ.get(OFFLINE):
        return False
    os.environ[OFFLINE] = "1"
    return True


def check(run: Run) -> None:
    """Refuse, with one line, combinations of groups that cannot work."""
    backend, engine = name_of(run.backend), name_of(run.engine)
    if not run.backend.runs_engine and engine != "none":
        raise UserError(f"engine={engine}: backend={backend} has an engine of its own; set engine=none")
    if run.backend.runs_engine and engine == "none":
        raise UserError(
            f"engine=none: backend={backend} needs an engine to serve; "
            "expected one of engine=megatron, engine=huggingface, engine=auto, engine=echo"
        )
    if run.run is not None and run.mode not in (Mode.score, Mode.plan):
        modes = "only mode=score, mode=plan, mode=status and mode=cancel take a folder"
        raise UserError(f"run={run.run}: {modes}; resume= continues a run")
    formats.check(run.export, "export")
    check_tasks(run.tasks, run.evaluate, may_lack_data=run.mode is Mode.plan and fetches_nothing())
    _check_judge(run)
    _check_adapters(run)
    _check_budget(run)
    group.check(run.groups, run.tasks)
    _check_until(run)
    _check_objective(run)
    _check_watch(run)
    _check_convert(run)
    if run.mode is not Mode.convert and not run.convert.path:
        peft.check(run.model, run.engine, run.backend)
    if run.mode in (Mode.run, Mode.watch, Mode.score) and not run.tasks:
        raise UserError(
            f"tasks=[]: mode={run.mode.value} needs at least one task; "
            "use mode=validate or mode=serve to send no samples"
        )
    if engine in ("megatron", "auto") and not run.model.path:
        raise UserError(
            f"model.path: engine={engine} needs a checkpoint; give model.path=<folder>, model=tiny or model=smollm2"
        )
    if isinstance(run.cluster, Local):  # a job may get more variables
        run.reveal()
    if run.validate.skip:
        _check_skipped(run.validate.skip)


def plain(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain data, enums as their names."""
    plain = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _check_adapters(run: Run) -> None:
    """Refuse adapters that write to the same file, or would make an evaluation or several workers of a proxy wrong."""
    check_files(run.adapters.values(), "")
    check_files(run.judge.adapters.values() if run.judge is not None else (), "judge.")
    if run.mode in (Mode.run, Mode.watch, Mode.plan) and any(not isinstance(t, Harness) for t in run.tasks.values()):
        check_form(run.adapters, "")
        check_form(run.judge.adapters if run.judge is not None else {}, "judge.")
    workers = run.proxy.workers
    if workers == 1 or not (run.has_proxy or any(isinstance(task, Harness) for task in run.tasks.values())):
        return
    for name, adapter in run.adapters.items():
        if adapter.sees_all:
            raise UserError(
                f"proxy.workers={workers}: each worker has adapters of its own, and {name} has to see every request; "
                f"set proxy.workers=1, or leave {name} out"
            )


def _check_budget(run: Run) -> None:
    judge = run.used_judge
    run.evaluate.budget.check(
        own_is_paid=isinstance(run.backend, External) and run.mode is not Mode.score,
        judge_is_paid=judge is not None and isinstance(judge.server, External),
    )


def _check_until(run: Run) -> None:
    """Refuse ``evaluate.until`` for what cannot stop early."""
    if run.evaluate.until is None:
        return
    asked = {name: task for name, task in run.tasks.items() if not isinstance(task, Harness)}
    try:
        found = populations(asked, run.groups)
    except NotDrawn as error:
        raise UserError(f"evaluate.until: {error}; leave evaluate.until out, or choose other tasks") from None
    widths(run.evaluate.until, [each.name for each in found])


def _check_objective(run: Run) -> None:
    asked = [] if run.objective is None else run.objective if isinstance(run.objective, list) else [run.objective]
    for name in asked:
        known = [*run.tasks, *run.groups]
        owners = [task for task in known if str(name).startswith(f"{task}.") and str(name) != f"{task}."]
        if not owners:
            raise UserError(
                f"objective={name}: expected <task>.<metric> with a task of this run, one of {', '.join(known)}"
            )
        metrics = [f"{task}.{metric}" for task in owners for metric in group.declared(task, run.groups, run.tasks)]
        if not metrics and owners[0] in run.tasks:
            raise UserError(f"objective={name}: name the metric before the run, by tasks.{owners[0]}.metric=")
        if name not in metrics:
            raise ObjectiveError(f"objective={name}: no such metric; expected one of {', '.join(metrics)}")


def _check_judge(run: Run) -> None:
    asking = [name for name, task in run.tasks.items() if task.asks_judge]
    if asking and run.judge is None and run.mode in (Mode.run, Mode.watch):
        raise UserError(
            f"tasks.{asking[0]}: it asks a judge, and the run has none; add judge=url judge.url=http://host:port/v1, "
            "judge=deployment or judge=command"
        )
    if run.judge is not None:
        run.judge.check(run.engine, run.backend, run.parallelism)


def _check_watch(run: Run) -> None:
    if run.watch.folder and run.mode not in (Mode.watch, Mode.plan):
        raise UserError(f"watch.folder={run.watch.folder}: only mode=watch looks at a folder")
    if run.mode is Mode.watch and not run.watch.folder:
        raise UserError("watch.folder: mode=watch needs the folder in which a training run writes its checkpoints")
    if run.mode is Mode.watch and not run.backend.checkpoints:
        raise UserError(
            f"backend={name_of(run.backend)}: mode=watch serves every checkpoint itself; expected one of "
            "inline, pytriton, ray, a ready-made server such as vllm, or command with {checkpoint} in backend.command"
        )


def _check_convert(run: Run) -> None:
    if run.convert.path and run.mode not in (Mode.convert, Mode.plan):
        raise UserError(f"convert.path={run.convert.path}: only mode=convert writes a checkpoint")
    if run.mode is Mode.convert and not isinstance(run.cluster, Local):
        raise UserError("cluster: mode=convert works in this process; expected cluster=local")


def _check_skipped(names: list[str]) -> None:
    from launcher.validate.certificate import IDS, NAMES

    for name in names:
        if name not in NAMES and name not in IDS:
            close = [each for each in NAMES if name in each] or difflib.get_close_matches(name, [*NAMES, *IDS], n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"validate.skip: there is no check '{name}'{guess}; expected one of {', '.join(NAMES)}")
