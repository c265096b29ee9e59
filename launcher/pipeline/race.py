"""A race: two runs whose endpoints are up together, and whose evaluations share one verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from launcher.core.errors import CoverageTooLow, UserError
from launcher.core.event_loop import run_async
from launcher.core.garbage import collected_rarely
from launcher.core.types import INTERRUPTED
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
        if composed.run.evaluate.repeats != contestants[0].run.evaluate.repeats:
            raise UserError("race: evaluate.repeats differs; give both models the same")


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
