"""The policy of a gate: what a run must reach, read from YAML."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from launcher.core.errors import UserError
from launcher.core.types import Json, expanded

KEYS = ("baseline", "coverage", "decide_by", "tasks")
COVERAGE = 1.0
CATEGORIES = "categories"
"""The key of a task that holds rules for its categories."""


class Bound(str, Enum):
    """What a rule asks of a metric."""

    at_least = "at_least"
    at_most = "at_most"
    no_worse_by = "no_worse_by"
    """The run may be worse than the baseline by at most this much."""


class DecideBy(str, Enum):
    """What a rule is held against."""

    interval = "interval"
    """The 95 % interval: what it does not decide is inconclusive."""
    value = "value"
    """The value alone."""


@dataclass(frozen=True)
class Rule:
    """One bound on a metric of a task, or of one of its categories; names may be patterns such as ``mmlu_*``."""

    task: str
    metric: str
    bound: Bound
    limit: float
    category: str | None = None

    def __str__(self) -> str:
        where = self.task if self.category is None else f"{self.task} {self.category}"
        return f"{where} {self.metric} {self.bound.value} {self.limit:g}"


@dataclass(frozen=True)
class Policy:
    """The rules of a gate. ``coverage`` is the least share of samples that must be scored, from 0 to 1."""

    rules: tuple[Rule, ...]
    baseline: Path | None = None
    coverage: float = COVERAGE
    decide_by: DecideBy = DecideBy.interval


class _Strict(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice: of two rules, one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for node_of_key, _ in node.value:
            key, line = self.construct_object(node_of_key, deep=True), node_of_key.start_mark.line + 1
            if key in seen and key != "<<":
                raise yaml.YAMLError(f"the key {key} stands twice in one place, again in line {line}")
            seen.append(key)
        return super().construct_mapping(node, deep)


def read(path: Path, baseline: Path | None = None) -> Policy:
    """Read a policy file; ``baseline`` replaces the one that it names, whose path is relative to the file.

    Raises `UserError` that names the file, the key, its value, and what works instead.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    top = _object(found, f"{path}", KEYS)
    named = top.get("baseline")
    if named is not None and not (isinstance(named, str) and named):
        raise UserError(f"{path}: baseline: {named!r}, expected the folder of a run")
    rules = tuple(_rules(_object(top.get("tasks"), f"{path}: tasks"), path))
    chosen = baseline or (path.parent / expanded(named) if named else None)
    if chosen is None and any(rule.bound is Bound.no_worse_by for rule in rules):
        raise UserError(f"{path}: no_worse_by needs a baseline; set baseline: <run folder>, or --baseline")
    return Policy(
        rules,
        chosen,
        _number(top.get("coverage", COVERAGE), f"{path}: coverage", 0.0, 1.0),
        _one_of(DecideBy, top.get("decide_by", DecideBy.interval.value), f"{path}: decide_by"),
    )


def _rules(tasks: Mapping[str, Json], path: Path) -> Iterable[Rule]:
    for task, metrics in tasks.items():
        where = f"{path}: tasks.{task}"
        found = _object(metrics, where)
        yield from _of_metrics({name: each for name, each in found.items() if name != CATEGORIES}, where, task)
        if CATEGORIES in found:
            where = f"{where}.{CATEGORIES}"
            for category, inner in _object(found[CATEGORIES], where).items():
                yield from _of_metrics(_object(inner, f"{where}.{category}"), f"{where}.{category}", task, category)


def _of_metrics(metrics: Mapping[str, Json], place: str, task: str, category: str | None = None) -> Iterable[Rule]:
    for metric, bounds in metrics.items():
        where = f"{place}.{metric}"
        given = _object(bounds, where, [bound.value for bound in Bound])
        for name, limit in given.items():
            least = 0.0 if name == Bound.no_worse_by.value else -math.inf
            yield Rule(task, metric, Bound(name), _number(limit, f"{where}.{name}", least, math.inf), category)
        lowest, highest = given.get(Bound.at_least.value, -math.inf), given.get(Bound.at_most.value, math.inf)
        if lowest > highest:
            raise UserError(f"{where}: at_least {lowest:g} is above at_most {highest:g}; no value is in between")


def _object(value: Json, where: str, keys: Sequence[str] = ()) -> dict[str, Json]:
    """Return an object with one key or more, of ``keys`` where any are given."""
    if isinstance(value, dict) and (others := [key for key in value if not isinstance(key, str)]):
        raise UserError(f"{where}: the key {others[0]!r} is no text; write '{others[0]}' in quotes")
    if not isinstance(value, dict) or not value:
        given = "empty" if value is None else repr(value)
        raise UserError(f"{where}: {given}, expected keys with values{': ' * bool(keys)}{', '.join(keys)}")
    for key in value:
        if keys and key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"{where}: {key}: no such key{guess}; expected {', '.join(keys)}")
    return value


def _number(value: Json, where: str, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:
        span = f" from {least:g} to {most:g}" if math.isfinite(most) else f" of {least:g} or more" if not least else ""
        raise UserError(f"{where}: {value!r}, expected a number{span}")
    return float(value)


def _one_of(kind: type[DecideBy], value: Json, where: str) -> DecideBy:
    if value not in [item.value for item in kind]:
        raise UserError(f"{where}: {value!r}, expected {' or '.join(item.value for item in kind)}")
    return kind(value)
