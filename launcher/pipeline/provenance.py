"""What a result was made with: configuration, versions, git commit, machine, checkpoint fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from launcher import __version__
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.pipeline.components import extensions
from launcher.pipeline.config import Run
from launcher.settings.cluster import Local
from launcher.settings.component import name_of
from launcher.tasks.base import Task, naming

ALWAYS = ("hydra-core", "omegaconf", "aiohttp")
SERVING = ("fastapi", "uvicorn")
ENGINES: Mapping[str, tuple[str, ...]] = {
    "megatron": ("torch", "megatron-core", "nemo_toolkit", "transformers", "numpy"),
    "huggingface": ("torch", "transformers", "numpy"),
    "echo": (),
    "none": (),
}
BACKENDS: Mapping[str, tuple[str, ...]] = {"pytriton": ("nvidia-pytriton",), "ray": ("ray",)}
LM_EVAL = ("lm_eval", "harness_lm_eval_cli", "ifeval")
"""The kinds of tasks that use its code."""
PACKAGES = (*ALWAYS, *SERVING, *ENGINES["megatron"], "nvidia-pytriton", "ray", "submitit", "lm-eval", "inspect-ai")


def provenance(
    config: Mapping[str, Json], overrides: list[str], allocation: Allocation, packages: Iterable[str] = PACKAGES
) -> dict[str, Json]:
    """Return the ``run`` part of ``results.json``; the checkpoint's fingerprint is added when it is known.

    ``packages`` are the distributions whose versions are recorded, as far as they are installed.
    """
    return {
        "config": dict(config),
        "overrides": overrides,
        "versions": {"launcher": __version__, "python": platform.python_version()}
        | _versions(packages)
        | {extension.distribution: extension.version for extension in extensions()},
        "git_commit": _git_commit(),
        "checkpoint": None,
        "machine": {
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": allocation.cpus,
            "gpus": allocation.gpus,
        },
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def resume_key(run: Run, config: Mapping[str, Json], checkpoint: str | None) -> dict[str, Json]:
    """Return all settings that change answers; a run is resumed only if they are equal."""
    neutral = set(type(run.engine).neutral)
    parser, choices = config["model"]["tool_call_parser"], config["evaluate"]["choices"]
    adapters = {name: config["adapters"][name] for name, adapter in run.adapters.items() if adapter.changes_answers}
    return {
        "checkpoint": checkpoint or config["model"]["path"] or None,
        "model": {k: config["model"][k] for k in ("name", "tokenizer", "context_length")},
        "engine": {k: v for k, v in config["engine"].items() if k not in neutral},
        "backend": {k: config["backend"][k] for k in sorted(type(run.backend).identity_fields)},
        "dtype": config["optimizations"]["dtype"],
        **({"batch_invariant": True} if config["optimizations"]["batch_invariant"] else {}),
        **({"tool_call_parser": parser} if parser != "auto" else {}),
        **({"choices": choices} if choices != "auto" else {}),
        "adapters": [{name: settings} for name, settings in adapters.items()],
        "tasks": {
            name: {"settings": _settings(config["tasks"][name], task), "items": _items(name, task)}
            for name, task in run.tasks.items()
        },
        "evaluate": {k: config["evaluate"][k] for k in type(run.evaluate).answer_fields()},
    }


def _settings(settings: Mapping[str, Json], task: Task) -> dict[str, Json]:
    return {name: value for name, value in settings.items() if name not in type(task).neutral}


def _items(name: str, task: Task) -> Json:
    with naming(name):
        return task.fingerprint()


def packages_of(run: Run) -> list[str]:
    """Return the distributions that have a part in a run's answers and scores.

    An engine of another distribution, or ``auto``, may use any. A server of another program uses none of them.
    """
    served = [(run.backend, run.engine)]
    if (judge := run.used_judge) is not None:
        served.append((judge.server, judge.deployment(Path()).engine))
    found = [*ALWAYS]
    for backend, engine in served:
        if backend.runs_engine:
            found += [*SERVING, *ENGINES.get(name_of(engine), ENGINES["megatron"]), *BACKENDS.get(name_of(backend), ())]
    if any(name_of(task) in LM_EVAL for task in run.tasks.values()):
        found.append("lm-eval")
    if any(name_of(task) == "harness_inspect" for task in run.tasks.values()):
        found.append("inspect-ai")
    if not isinstance(run.cluster, Local):
        found.append("submitit")
    return found


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in dict.fromkeys(packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """Return the commit of this checkout; None in an installed package.

    Where files differ from it, ``+changes.`` and eight digits of the difference's SHA-256 follow.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "diff", "HEAD")
    return f"{commit}+changes.{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if commit and changes else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
