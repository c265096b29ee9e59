"""The shape of ``comparison.json``, for those who read it in Python."""

from __future__ import annotations

from typing import TypedDict

from launcher.core.types import Json

VERSION = 1


class RunEntry(TypedDict):
    """A compared run; ``label`` is the letter by which the rows name it.

    ``source`` is the path of its checkpoint or the URL of its server, empty where neither is known.
    """

    label: str
    folder: str
    model: str
    source: str
    status: str
    throughput: dict[str, Json]


class RowEntry(TypedDict):
    """A `launcher.verdict.comparison.Row`: run ``b`` against run ``a`` in one metric of a task or group.

    ``half_width`` is half of the 95 % ``interval`` of ``difference``. Of runs that stopped early, ``interval`` bounds
    what all questions would show, and has no half. Values are of the questions that are compared. ``verdict`` is
    ``better``, ``worse``, ``may be chance`` or ``equal``; ``sentence`` says it in words.
    """

    task: str
    metric: str
    a: str
    b: str
    value_a: float | None
    value_b: float | None
    difference: float
    half_width: float | None
    interval: list[float] | None
    n: int
    left_out: int
    test: str
    p: float
    p_holm: float
    needed: int | None
    verdict: str
    sentence: str


class CategoryRowEntry(RowEntry):
    """A `RowEntry` of the questions of one category, in the first metric of its task.

    ``p_holm`` is corrected over the categories of the task alone: such rows say where to look, and decide nothing.
    """

    category: str


class FlipEntry(TypedDict):
    """A question whose score differs: what was asked, what is right, and what each run answered.

    ``gain`` is by how much b's score is better, in the first metric of the task that differs.
    """

    task: str
    id: str
    metric: str
    gain: float
    question: str
    target: str
    answer_a: str
    answer_b: str


class FlipsEntry(TypedDict):
    """The questions that run ``b`` answers otherwise than run ``a``: ``total`` of them, and the largest changes."""

    a: str
    b: str
    total: int
    shown: list[FlipEntry]


class ComparisonFile(TypedDict):
    """``comparison.json``. ``warnings`` say what a reader should know first; ``subject`` in what the models differ."""

    schema_version: int
    runs: list[RunEntry]
    warnings: list[str]
    subject: dict[str, list[str]]
    rows: list[RowEntry]
    categories: list[CategoryRowEntry]
    flips: list[FlipsEntry]
