"""Imports every component: the built-in ones, and those of other distributions by their entry points."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable

from launcher.adapters import (  # noqa: F401
    caching,
    circuit_breaker,
    consolidate_system,
    drop_params,
    finish_reason,
    http_dump,
    modify_tools,
    omni,
    payload,
    progress,
    raise_client_errors,
    rate_limit,
    reasoning,
    reasoning_replay,
    request_log,
    response_log,
    response_stats,
    retry,
    stream_coalesce,
    stream_expand,
    system_message,
    token_log,
    turn_limit,
    validate_response,
)
from launcher.backends import (  # noqa: F401
    command,
    external,
    inline,
    llama_cpp,
    nim,
    pytriton,
    ray,
    sglang,
    transformers_serve,
    trtllm,
    vllm,
)
from launcher.core.errors import UserError
from launcher.engines import auto, echo, huggingface, megatron, none  # noqa: F401
from launcher.settings.component import COMPONENTS, ComponentExists
from launcher.tasks import (  # noqa: F401
    continuation,
    generation,
    harness_command,
    harness_inspect,
    harness_lm_eval_cli,
    ifeval,
    letter_choice,
    multiple_choice,
    pairwise,
    perplexity,
)
from launcher.tasks.code import task as code_task  # noqa: F401
from launcher.tasks.judge import single as judge_task  # noqa: F401
from launcher.tasks.lm_eval import task as lm_eval_task  # noqa: F401

GROUPS = ("adapters", "backend", "engine", "tasks")
"""The config groups that other distributions extend; ``launcher.<group>`` is the group of the entry points."""


@dataclass(frozen=True)
class Extension:
    """What another distribution adds to a group: a module that registers components, and a package of option files.

    ``error`` says why it cannot be loaded; empty for one that is. ``options`` is empty without option files, which
    belong into ``conf`` of ``package``.
    """

    distribution: str
    version: str
    group: str
    module: str
    options: str = ""
    error: str = ""
    package: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def option_files(self) -> Iterator[str]:
        """Yield the option files as ``<group>/<option>``."""
        for folder in files(self.options).iterdir() if self.options else ():
            if folder.is_dir():
                names = (each.name for each in folder.iterdir())
                yield from (f"{folder.name}/{name.removesuffix('.yaml')}" for name in names if name.endswith(".yaml"))


@cache
def extensions() -> tuple[Extension, ...]:
    """Import the modules of all entry points, once; what cannot be imported has an ``error``.

    Raises `UserError` for a component of a name that is taken: what an option means must not depend on an order.
    """
    installed = entry_points()
    loaded = [_load(entry, group) for group in GROUPS for entry in installed.select(group=f"launcher.{group}")]
    others = sorted(group for group in installed.groups if group.startswith("launcher."))
    return (*loaded, *_misnamed(entry for group in others for entry in installed.select(group=group)))


def _misnamed(entries: Iterable[EntryPoint]) -> Iterator[Extension]:
    """Yield an extension with an ``error`` for each entry point whose group is a misspelling of one of `GROUPS`."""
    known = [f"launcher.{group}" for group in GROUPS]
    for entry in entries:
        for group in () if entry.group in known else difflib.get_close_matches(entry.group, known, 1, 0.8):
            name, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.name, "")
            error = f"its entry point is of the group {entry.group}; expected {group}"
            yield Extension(name, version, group.removeprefix("launcher."), entry.module, error=error)


def _load(entry: EntryPoint, group: str) -> Extension:
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.name, "")
    known = dict(COMPONENTS)
    try:
        module = import_module(entry.module)
        package = entry.module if hasattr(module, "__path__") else entry.module.rpartition(".")[0]
        return Extension(name, version, group, entry.module, _options(package), package=package)
    except ComponentExists as error:
        _restore(known)
        raise UserError(f"{name} {version}: {error}; uninstall {name}, or rename its component") from None
    except (Exception, SystemExit) as error:  # a fault of another distribution must not end a run that does not use it
        _restore(known)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Extension(name, version, group, entry.module, error=f"module {entry.module}: {reason}")


def _restore(known: dict[str, type]) -> None:
    """Forget the components of a module that failed on the way."""
    for path in COMPONENTS.keys() - known.keys():
        del COMPONENTS[path]


def _options(package: str) -> str:
    """Return the package ``conf`` within a package; empty if there is none. Hydra needs its ``__init__.py``."""
    if not package:
        return ""  # a module that is in no package
    folder: Traversable = files(package) / "conf"
    if not folder.is_dir():
        return ""
    if not (folder / "__init__.py").is_file():
        raise FileNotFoundError(f"{package}/conf has no __init__.py, without which Hydra does not read its options")
    return f"{package}.conf"
