"""A race: two runs whose endpoints are up together, and whose evaluations share one verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from launcher.core.errors import CoverageTooLow, UserError
from launcher.core.event_loop import run_async
from launcher.core.garbage import collected_rarely
from launcher.core.types import INTERRUPTED, Json
from launcher.distributed.allocation import Allocation
from launcher.evaluate.early_stop import Draws
from launcher.evaluate.populations import NotDrawn
from launcher.evaluate.race import Race, unfit
from launcher.evaluate.race_progress import RaceProgress
from launcher.evaluate.sample_source import AT_ONCE
from launcher.pipeline import outcomes
from launcher.pipeline import run as pipeline
from launcher.pipeline.config import ComposedRun, Run
from launcher.pipeline.evaluation import Asked, ask, collect, conclude
from launcher.pipeline.server_times import server_times
from launcher.settings.until import widths


@dataclass
class _Heat:
    """Both runs as far as they are: ``stopped`` says why each has left samples, or with what its asking ended."""

    race: Race
    progress: RaceProgress
    stopped: list[str | BaseException | None] = field(default_factory=list)


def check(contestants: Sequence[ComposedRun], allocation: Allocation) -> None:
    """Raise `UserError` for runs that cannot race."""
    if allocation.world_size > 1:
        raise UserError(f"race: it needs one process, this is one of {allocation.world_size}")
    for composed in contestants:
        deployment = composed.run.deployment(composed.folder)
        composed.run.engine.plan(deployment, allocation)
        composed.run.backend.plan(deployment, allocation)
        found = _unfit(composed.run)
        if outcomes.harnesses(composed.run.tasks):
            found = f"a harness asks {', '.join(outcomes.harnesses(composed.run.tasks))}"
        if found:
            raise UserError(
                f"race: {found}; run both models on all questions, and launcher compare tests the difference"
            )
    _check_same_questions(contestants[0], contestants[1])


def _check_same_questions(a: ComposedRun, b: ComposedRun) -> None:
    """Raise `UserError` unless both are asked the same questions, and are held against the same metric.

    What else their settings differ in is what the race compares.
    """
    for key in ("repeats", "order_seed", "limit", "until"):
        if getattr(a.run.evaluate, key) != getattr(b.run.evaluate, key):
            raise UserError(f"race: evaluate.{key} differs; give both models the same")
    if other := sorted(a.run.tasks.keys() ^ b.run.tasks.keys()):
        raise UserError(f"race: tasks: only one of the models is asked {', '.join(other)}; give both the same tasks")
    if a.run.groups != b.run.groups or _draws(a.run).populations != _draws(b.run).populations:
        raise UserError("race: the groups or metrics of the tasks differ; give both models the same")
    for name in a.run.tasks:
        if a.config["tasks"][name] != b.config["tasks"][name] and (other_question := _first_other(a.run, b.run, name)):
            raise UserError(f"race: tasks.{name}: {other_question}; give both models the same questions")


def _first_other(a: Run, b: Run, task: str) -> str:
    """Say which question of a task is the first that only one of two runs has; empty where they have the same."""
    for number, (left, right) in enumerate(zip_longest(_questions(a, task), _questions(b, task)), 1):
        if left != right:
            ids = " and ".join("none" if each is None else str(each[0]) for each in (left, right))
            return f"question {number} is another one, or has another target, for A and B (ids {ids})"
    return ""


def _questions(run: Run, task: str) -> Iterator[tuple[Json, ...]]:
    samples = islice(run.tasks[task].samples(task, ""), run.evaluate.limit)
    return ((each.id, each.target, each.cluster, each.category) for each in samples)


def _unfit(run: Run) -> str:
    """Say why a run's tasks cannot race; empty if they can."""
    try:
        return unfit(_draws(run))
    except NotDrawn as error:
        return str(error)


def race(a: ComposedRun, b: ComposedRun, allocation: Allocation) -> tuple[int, int]:
    """Race two composed runs, each in its own folder; return their exit codes. Both write a report of their own."""
    heat = _heat(a.run, b.run)
    codes = {"b": 0}

    def with_a(asked_a: Asked) -> None:
        def with_b(asked_b: Asked) -> None:
            try:
                _evaluate(heat, asked_a, asked_b)
            finally:
                collect(asked_b)
            _conclude(heat, 1, asked_b)

        try:
            codes["b"] = pipeline.run(b, allocation, evaluating=with_b)
        finally:
            collect(asked_a)
        if codes["b"] == INTERRUPTED:
            raise KeyboardInterrupt
        _conclude(heat, 0, asked_a)

    code = pipeline.run(a, allocation, evaluating=with_a)
    return code, codes["b"]


def _heat(a: Run, b: Run) -> _Heat:
    names = [population.name for population in _draws(a).populations]
    asked = [each.evaluate.concurrency for each in (a, b)]
    most = max(count if isinstance(count, int) else AT_ONCE for count in asked)
    race = Race(_draws(a), _draws(b), widths(a.evaluate.until, names), most)
    return _Heat(race, RaceProgress(race.described))


def _draws(run: Run) -> Draws:
    return Draws(outcomes.asked(run.tasks), run.groups, run.evaluate.repeats, run.evaluate.order_seed)


def _evaluate(heat: _Heat, *both: Asked) -> None:
    """Ask both endpoints at the same time."""
    racing = zip(both, heat.race.sides, "AB", strict=True)
    asking = [ask(each, side, heat.progress.of(label)) for each, side, label in racing]
    with ExitStack() as measured, collected_rarely():
        for each in both:
            measured.enter_context(server_times(each.endpoint, each.record))
        heat.stopped += run_async(_together(heat.race, asking))


async def _together(
    race: Race, asking: Sequence[Coroutine[object, object, str | None]]
) -> list[str | BaseException | None]:
    """Return how the asking of each has ended; where one ends without the verdict, the other stops in order."""

    async def one(coroutine: Coroutine[object, object, str | None]) -> str | None:
        reason = "the asking of the other model failed"
        try:
            stopped = await coroutine
            reason = f"the asking of the other model ended: {stopped}" if stopped else ""
            return stopped
        finally:
            if reason:
                race.end(reason)

    return await asyncio.gather(*map(one, asking), return_exceptions=True)


def _conclude(heat: _Heat, place: int, asked: Asked) -> None:
    """Raise what is wrong with one of the runs, as an evaluation does."""
    if not heat.stopped:
        raise CoverageTooLow("the race did not begin, as the other model did not get ready; its report says why")
    ended = heat.stopped[place]
    if isinstance(ended, BaseException):
        raise ended
    conclude(asked, ended or heat.race.lost or None)
