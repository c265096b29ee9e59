"""What a name of lm-eval stands for: its tasks, and the groups that sum them up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.types import Json
from launcher.tasks.lm_eval.index import Index, yaml_loader

GROUP_FIELDS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
"""The keys of a group's YAML file that are no settings of its members (lm_eval.config.group.GroupConfig)."""
NO_KEY = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class GroupSpec:
    """A group that lm-eval aggregates: the keys of its ``members``, which are tasks or groups, and their weight.

    ``weight`` is ``size`` or ``equal``; lm-eval's equal weight is that of all tasks in a group, not of inner groups.
    """

    members: Sequence[str]
    weight: str


@dataclass
class Expansion:
    """The ``tasks`` of a name by their keys, each with what its groups override, and the ``groups`` by theirs."""

    tasks: dict[str, tuple[str, dict[str, Json]]] = field(default_factory=dict)
    groups: dict[str, GroupSpec] = field(default_factory=dict)


def key_of(name: str) -> str:
    """Return the key of a task or group of lm-eval in a run: ``lm_eval_``, and an underscore for what a key has not."""
    return f"lm_eval_{NO_KEY.sub('_', name)}"


def described(name: str, overrides: Mapping[str, Json]) -> str:
    """Write what a run asks under a key: a task, and what its groups override."""
    return f"{name} with {json.dumps(overrides, sort_keys=True)}" if overrides else name


def expand(name: str, index: Index) -> Expansion:
    """Return what a name stands for. Raises `TaskError` for a group that cannot be asked, and `KeyError`."""
    found = Expansion()
    _add(name, {}, index, found, ())
    return found


def _add(name: str, overrides: dict[str, Json], index: Index, into: Expansion, above: tuple[str, ...]) -> list[str]:
    """Add a name with all below it; return the keys of its members, or of itself."""
    if name in above:
        raise TaskError(f"the group lm_eval/{name} contains itself")
    if name in index.groups:
        return [_add_group(name, read_group(index.groups[name]), overrides, index, into, (*above, name))]
    if name in index.tasks:
        key = key_of(name)
        _put(into.tasks, key, (name, overrides))
        return [key]
    return [key for task in sorted(index.tags[name]) for key in _add(task, overrides, index, into, above)]


def _add_group(
    name: str,
    config: Mapping[str, Any],
    overrides: dict[str, Json],
    index: Index,
    into: Expansion,
    above: tuple[str, ...],
) -> str:
    inherited = {
        key: value for key, value in config.items() if key not in GROUP_FIELDS | {"include", "tag"}
    } | overrides
    before, into.tasks = into.tasks, {}
    members: list[str] = []
    for child in _children(config):
        members += _add_child(name, child, inherited, index, into, above)
    leaves = list(into.tasks)
    found = into.tasks
    into.tasks = before
    for key, task in found.items():
        _put(into.tasks, key, task)
    weight = _weight(config)
    if not members:
        raise TaskError(f"the group lm_eval/{name} has no tasks; its YAML needs task: [<name>, ...]")
    if weight is not None:
        inner = [member for member in members if member in into.groups or member in into.tasks]
        into.groups[key_of(name)] = GroupSpec(
            leaves if weight == "equal" or len(inner) < len(members) else members, weight
        )
    return key_of(name)


def _put(tasks: dict[str, tuple[str, dict[str, Json]]], key: str, task: tuple[str, dict[str, Json]]) -> None:
    """Add a task; refuse another one with the same key, which it would replace. Raises `TaskError`."""
    before = tasks.setdefault(key, task)
    if before != task:
        raise TaskError(f"the key {key} would be both {described(*before)} and {described(*task)}; ask two runs")


def _add_child(
    group: str, child: Any, overrides: dict[str, Json], index: Index, into: Expansion, above: tuple[str, ...]
) -> list[str]:
    """Add a member as `lm_eval.tasks._factory.TaskFactory` builds it."""
    if isinstance(child, str):
        return _add(_named(group, child, index), overrides, index, into, above)
    if not isinstance(child, Mapping) or not isinstance(child.get("group", child.get("task")), str):
        shown = str(child) if len(str(child)) < 100 else f"{str(child)[:100]} ..."
        raise TaskError(
            f"the group lm_eval/{group} has a member {shown}, expected a name; lm-eval cannot load it either"
        )
    if "group" not in child:
        own = {key: value for key, value in child.items() if key != "task"}
        return _add(_known(group, child, index), {**overrides, **own}, index, into, above)
    own = {key: value for key, value in child.items() if key != "group"}
    if child["group"] in index.groups:
        return _add(child["group"], {**overrides, **own}, index, into, above)
    return [_add_group(f"{group}::{child['group']}", child, overrides, index, into, above)]


def _named(group: str, name: str, index: Index) -> str:
    if _is_known(name, index):
        return name
    like = " or ".join(get_close_matches(name, index.names(), 3))
    hint = f" (did you mean {like}?)" if like else ""
    raise TaskError(f"the group lm_eval/{group} has the member '{name}', which is no task, group or tag{hint}")


def _is_known(name: str, index: Index) -> bool:
    return name in index.tasks or name in index.groups or name in index.tags


def _known(group: str, child: Mapping[str, Any], index: Index) -> str:
    name: str = child["task"]
    if _is_known(name, index):
        return name
    why = "with an include, which lm-eval cannot load either" if "include" in child else "which is not supported"
    raise TaskError(
        f"the group lm_eval/{group} defines its member '{name}' within itself, {why}; "
        "give it a YAML file of its own in lm_eval.include_path"
    )


def _children(config: Mapping[str, Any]) -> Iterator[Any]:
    found = config.get("task")
    if found is not None and not isinstance(found, str | list):
        raise TaskError(f"the group lm_eval/{config.get('group')} has task: {found!r}; expected a list of names")
    yield from [found] if isinstance(found, str) else found or ()


def _weight(config: Mapping[str, Any]) -> str | None:
    """Return how a group weighs its tasks, None if lm-eval does not aggregate it."""
    found = config.get("aggregate_metric_list")
    metrics = [found] if isinstance(found, Mapping) else found or []
    if not isinstance(metrics, list) or not all(isinstance(metric, Mapping) for metric in metrics):
        raise TaskError(
            f"the group lm_eval/{config.get('group')} has aggregate_metric_list: {found!r}; "
            "expected a list like [{metric: acc, weight_by_size: true}]"
        )
    weights = {"size" if metric.get("weight_by_size", True) else "equal" for metric in metrics}
    if len(weights) > 1:
        raise TaskError(
            f"the group lm_eval/{config.get('group')} weighs its metrics in two ways, which is not supported"
        )
    return next(iter(weights), None)


def read_group(path: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a group's YAML file with those that it includes. Raises `TaskError`."""
    found = _mapping(path)
    if path in above:
        raise TaskError(f"{path} includes itself")
    includes = found.pop("include", None) or []
    for name in [includes] if isinstance(includes, str) else includes:
        found = {**read_group(os.path.normpath(Path(path).parent / str(name)), (*above, path)), **found}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _mapping(path: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml_loader())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise TaskError(f"{path} holds no mapping; expected the keys of a group of lm-eval")
    return found
