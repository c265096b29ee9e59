"""The options ``tasks=[lm_eval/<name>]``: every task, group and tag of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.types import Sweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json, expanded
from launcher.settings.lm_eval import LmEvalSettings
from launcher.settings.overrides import CommandLine
from launcher.tasks.lm_eval import index
from launcher.tasks.lm_eval.groups import described, expand
from launcher.tasks.lm_eval.task import LmEval

GROUP = "tasks/lm_eval"
PREFIX = f"{GROUP}/"
INCLUDE_PATH = "lm_eval.include_path"
_include_path: ContextVar[str] = ContextVar("include_path", default="")


@contextmanager
def including(line: CommandLine) -> Iterator[None]:
    """Let the options have those of the folder ``lm_eval.include_path`` of the command line. Raises `UserError`."""
    token = _include_path.set(_included(line))
    try:
        yield
    finally:
        _include_path.reset(token)


def _included(line: CommandLine) -> str:
    """Return the folder, with the variables in it; the options must be known before anything is composed."""
    given = line.get(INCLUDE_PATH)
    if given is None or given == "":
        return ""
    if isinstance(given, Sweep):
        raise UserError(f"{INCLUDE_PATH}: several values; it cannot be swept over, since it says which options exist")
    try:
        folder = str(OmegaConf.create({"folder": getattr(given, "text", given)}).folder)
    except OmegaConfBaseException:
        raise UserError(f"{INCLUDE_PATH}={given}: expected a folder; of interpolations only ${{oc.env:...}}") from None
    if not expanded(folder).is_dir():
        raise UserError(f"{INCLUDE_PATH}={folder}: not a folder; expected one with YAML files of lm-eval tasks")
    return folder


def check_include_path(config: DictConfig, line: CommandLine) -> None:
    """Raise `UserError` for a folder that only an option file names: its tasks were no options when it was read."""
    found = str(OmegaConf.select(config, INCLUDE_PATH) or "")
    if found != _included(line):
        raise UserError(
            f"{INCLUDE_PATH}={found}: it is set in an option file, which is too late, since it says which options "
            f"exist; give it on the command line"
        )


def names() -> index.Index:
    """Return the index of all names. Raises `TaskError` if lm-eval is not installed."""
    return index.read(_include_path.get())


def is_option(path: str) -> bool:
    """Tell whether a path such as ``tasks/lm_eval/arc_easy`` is an option.

    Raises `TaskError` without lm-eval, and for a name that it does not have.
    """
    if not path.startswith(PREFIX):
        return False
    known, name = names(), path.removeprefix(PREFIX)
    if name in known.tasks or name in known.groups or name in known.tags:
        return True
    raise TaskError(_unknown(name, known))


def option(path: str) -> DictConfig:
    """Return the configuration of an option, whose package is ``_global_``: its tasks, and the groups over them.

    The tasks have the type of `LmEval` without a defaults list, whose packages Hydra would misread where the name of a
    task contains ``_global_``.
    """
    asked = path.removeprefix(PREFIX)
    found = expand(asked, names())
    made = OmegaConf.create({"tasks": {}, "groups": {}})
    for key, (name, overrides) in found.tasks.items():
        made.tasks[key] = _task(asked, name, overrides)
    for key, spec in found.groups.items():
        made.groups[key] = {"members": list(spec.members), "weight": spec.weight}
    return made


def _task(asked: str, name: str, overrides: dict[str, Json]) -> Any:
    """Return the typed configuration of a task, whose keys are those of ``lm_eval.*`` until they are overridden."""
    node = OmegaConf.structured(LmEval)
    for field in fields(LmEvalSettings):
        node[field.name] = f"${{lm_eval.{field.name}}}"
    node.task, node.overrides = name, overrides
    node.named_by = {asked: described(name, overrides)}
    return node


def _unknown(name: str, known: index.Index) -> str:
    """Return one line about a name that lm-eval does not have."""
    like = get_close_matches(name, known.names(), 3)
    hint = f" (did you mean {' or '.join(like)}?)" if like else ""
    local = (
        ""
        if _include_path.get()
        else f"; a task of your own needs {INCLUDE_PATH}=<folder of YAML files> on the command line"
    )
    return f"tasks=lm_eval/{name}: lm-eval {index.version()} has no such task, group or tag{hint}{local}"
