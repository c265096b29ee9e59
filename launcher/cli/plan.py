"""``mode=plan``: print what a run would do, and start nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from rich.console import Console
from rich.syntax import Syntax

from launcher.adapters.base import Adapter
from launcher.adapters.parameters import imposed
from launcher.backends.base import check_single_process
from launcher.backends.endpoint import planned_url
from launcher.checkpoints import EXPECTED
from launcher.checkpoints.missing import missing
from launcher.core.errors import CheckpointError, DataMissing
from launcher.core.types import Json, resolve
from launcher.distributed.allocation import Allocation, allocate
from launcher.pipeline.config import ComposedRun, Run
from launcher.pipeline.converting import plan as converting
from launcher.pipeline.judge import Judge, check_allocation
from launcher.pipeline.scoring import plan as scoring_plan
from launcher.pipeline.validation import previewed
from launcher.report.formatting import task_name
from launcher.settings.cluster import NODE_GIB, Slurm
from launcher.settings.component import name_of, plain_settings
from launcher.settings.evaluate import Evaluate
from launcher.settings.validate import Validate
from launcher.tasks.base import Task, naming
from launcher.tasks.harness.base import Harness

NO_TASKS = "none: mode=run needs at least one; mode=serve and mode=validate do not"


def show(composed: ComposedRun) -> None:
    """Print the plan, as YAML. Raises `UserError` for a run that cannot work."""
    run = composed.run
    plan = yaml.safe_dump(_planned(composed), sort_keys=False, allow_unicode=True, width=120)
    console = Console(highlight=False, soft_wrap=True)
    console.print("# plan: nothing is started; --cfg job in place of mode=plan prints every setting", style="bold")
    console.print(Syntax(plan, "yaml", background_color="default") if console.is_terminal else plan, markup=False)
    if isinstance(run.cluster, Slurm):
        _script(run, run.cluster, console)


def _planned(composed: ComposedRun) -> dict[str, Json]:
    if composed.run.convert.path:
        return converting(composed.run.model, composed.run.convert)
    if composed.run.run is not None:
        return _scoring(composed.run, composed.folder, allocate())
    if not isinstance(composed.run.cluster, Slurm) and composed.run.backend.runs_engine:
        composed.run.engine.check_packages(composed.run.model)  # a job's machine may have what a login node lacks
    changed = _changed(composed.config)
    return _plan(composed.run, allocate()) | ({"changed settings": changed} if changed else {})


def _changed(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return the settings of how the endpoint is asked that differ from their defaults."""
    defaults = {name: plain_settings(kind()) for name, kind in (("validate", Validate), ("evaluate", Evaluate))}
    found = {name: _difference(config[name], default) for name, default in defaults.items()}
    return {name: settings for name, settings in found.items() if settings}


def _difference(settings: Mapping[str, Json], defaults: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in settings.items() if value != defaults.get(key)}


def _script(run: Run, slurm: Slurm, console: Console) -> None:
    from launcher.slurm import submit

    console.print("# sbatch file", style="bold")
    console.print(submit.script(run, slurm, Path("<run folder>")), markup=False)


def _plan(run: Run, allocation: Allocation) -> dict[str, Json]:
    deployment = run.deployment(Path())
    check_single_process(run.backend, allocation)
    engine = run.engine.plan(deployment, allocation)
    if run.backend.runs_engine:
        run.engine.check_tokenizer(run.model)
    return {
        "machine": f"{', '.join(allocation.nodes)}: {allocation.cpus} CPUs, {allocation.gpus} GPUs",
        "model": {"name": run.model.name, "checkpoint": _checkpoint(run)},
        "world_size": run.parallelism.world_size,
        "engine": {"name": name_of(run.engine)} | _engine(engine),
        "backend": {"name": name_of(run.backend)} | dict(run.backend.plan(deployment, allocation)),
        **({"judge": _judge(run.used_judge, allocation)} if run.used_judge is not None else {}),
        "adapters, outermost first": list(run.adapters),
        **_imposed(run.adapters),
        **({"proxy": planned_url(run.proxy.host, run.proxy.port)} if run.proxy.port is not None else {}),
        "tasks": {name: _task(run, name) for name in run.tasks} or NO_TASKS,
        **({"groups": {name: ", ".join(group.members) for name, group in run.groups.items()}} if run.groups else {}),
        "submission": _job(run, run.cluster) if isinstance(run.cluster, Slurm) else "none: this process does it all",
    }


def _engine(plan: Mapping[str, Json]) -> dict[str, Json]:
    """Return an engine's plan, without what is 1 or said elsewhere.

    Each optimization that is active or asked for is a line.
    """
    shown = {key: value for key, value in plan.items() if key != "world_size"}
    split = {name: size for name, size in shown.pop("layout", {}).items() if size > 1}
    shown |= {"layout": split} if split else {}
    states: dict[str, dict[str, Json]] = shown.pop("optimizations", {})
    lines = {name: _state(state) for name, state in states.items() if state["active"] or state["asked"]}
    return shown | ({"optimizations": lines} if lines else {})


def _state(state: Mapping[str, Json]) -> str:
    """Return whether an optimization is active, and the reason."""
    reason = f": {state['reason']}" if state["reason"] else ""
    return f"{'active' if state['active'] else 'NOT ACTIVE'}{reason}"


def _task(run: Run, name: str) -> str:
    """Return what a task asks. Raises `TaskError` for data that are not there, and for items that cannot be asked."""
    task = run.tasks[name]
    label, kind = task_name(name), name_of(task)
    called = f"{label} ({kind})" if label != name else kind
    try:
        with naming(name):
            task.check_data()
            shots = task.shots()
        counts = _counts(run, name)
    except DataMissing:
        return f"{called}: its data are not on this machine; a run fetches them"
    return ", ".join([called, *([] if shots is None else [f"{shots}-shot"]), counts])


def _counts(run: Run, name: str) -> str:
    """Return the numbers of samples and requests, with their repeats."""
    task = run.tasks[name]
    if isinstance(task, Harness):
        return task.planned(run.model.name, run.evaluate)
    found = previewed(run, name)
    judged = " and those to the judge" if task.asks_judge else ""
    if type(task).preview is Task.preview and found.is_complete:
        return f"{_counted(found.samples, found.requests, run.evaluate.repeats)}{judged}"
    with naming(name):
        size = task.size()
    if size is None:
        return "as many samples as its tokens need"
    samples = min(size, run.evaluate.limit or size)
    about = samples * found.requests // found.samples
    return f"{_counted(samples, about, run.evaluate.repeats, 'about ')}{judged}"


def _counted(samples: int, requests: int, repeats: int, about: str = "") -> str:
    return f"{samples * repeats:,} samples, {about}{requests * repeats:,} requests"


def _scoring(run: Run, folder: Path, allocation: Allocation) -> dict[str, Json]:
    """Return what ``mode=score`` would do. Raises `UserError`."""
    return {
        "mode": "score: no server is started",
        "tasks": {name: name_of(task) for name, task in run.tasks.items()},
        **scoring_plan(run, folder),
        **({"judge": _judge(run.used_judge, allocation)} if run.used_judge is not None else {}),
    }


def _judge(judge: Judge, allocation: Allocation) -> dict[str, Json]:
    check_allocation(judge, allocation)
    return judge.plan(allocation) | {"adapters, outermost first": list(judge.adapters)} | _imposed(judge.adapters)


def _imposed(adapters: Mapping[str, Adapter]) -> dict[str, Json]:
    found = imposed(adapters.values())
    return {"in every request": found} if found else {}


def _job(run: Run, slurm: Slurm) -> Json:
    from launcher.slurm import memory, submit

    needs, each = submit.resources_of(run, slurm), memory.per_process_gib(run, slurm)
    why = f", derived: {each:.3g} GiB for each process, and {NODE_GIB:g} GiB" if each is not None else ""
    return {
        "nodes": needs.nodes,
        "tasks of a node": needs.tasks,
        "CPUs of a task": needs.cpus,
        "GPUs of a node": needs.gpus,
        "memory of a node": f"{needs.mem_gb:g} GiB{why}" if needs.mem_gb else "the cluster's default",
        "time limit": f"{slurm.timeout_min} minutes",
    }


def _checkpoint(run: Run) -> Json:
    path = run.model.path
    if not path:
        return None
    try:
        found = resolve(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"model.path={path}: {error}") from error
    if found.exists():
        return str(found)
    if run.backend.runs_engine:
        raise CheckpointError(f"model.path={path}: {missing(found, EXPECTED)}")
    return f"{path}, no file here: the server must know it"
