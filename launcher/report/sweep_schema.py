"""The shape of ``sweep.json`` and ``watch.json``, for Python code that reads them."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from launcher.core.types import Json
from launcher.report.schema import GroupEntry, TaskEntry


class ComparisonEntry(TypedDict):
    """A `launcher.report.compare.Comparison` of two points, named by their folders."""

    task: str
    metric: str
    a: str
    b: str
    n: int
    left_out: int
    difference: float
    stderr: float | None
    test: str
    p: float
    p_holm: float
    clusters: NotRequired[int | None]
    values: NotRequired[list[float] | None]


class PointEntry(TypedDict):
    """What the points of a sweep and the checkpoints of a watch share. ``folder`` is relative to that of the file."""

    folder: str
    status: str
    reason: str | None
    tasks: dict[str, TaskEntry]
    groups: dict[str, GroupEntry]
    timings: dict[str, float | None]


class SweepPoint(PointEntry):
    """One point of a sweep; ``deployment`` is that of its ``results.json``, None if it never got so far.

    ``model`` is the name of the model that was served.
    """

    overrides: list[str]
    deployment: dict[str, Json] | None
    model: NotRequired[str | None]
    throughput: NotRequired[dict[str, Json]]


class DeploymentEntry(TypedDict):
    """A server of a sweep: the folders of the points that needed it, and how often it was started."""

    fingerprint: str
    starts: int
    points: list[str]


class SweepFile(TypedDict):
    """``sweep.json``."""

    schema_version: int
    points: list[SweepPoint]
    deployments: list[DeploymentEntry]
    comparisons: list[ComparisonEntry]


class WatchPoint(PointEntry):
    """One checkpoint: a `launcher.checkpoints.watch_record.WatchRecord`, its name, and the results of its run.

    ``model`` is the name of the model that was served. ``setting`` is the name of a `SettingEntry`, in a watch over
    several.
    """

    checkpoint: str
    step: int | None
    modified: float
    stamp: str
    tries: int
    name: str
    model: NotRequired[str | None]
    setting: NotRequired[str]


class SettingEntry(TypedDict):
    """One setting of a watch over several: the folder of its run below a checkpoint's, and what it differs in."""

    name: str
    overrides: list[str]


class WatchComparison(ComparisonEntry):
    """``b`` against an earlier checkpoint ``a``: the one before it, the best one before it, or both."""

    against: list[Literal["previous", "best"]]


class WatchFile(TypedDict):
    """``watch.json``."""

    schema_version: int
    training: str
    settings: NotRequired[list[SettingEntry]]
    points: list[WatchPoint]
    comparisons: list[WatchComparison]
