"""Makes all samples in their order, and hands them out in a random one, until a verdict needs no more."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from launcher.core.key_table import KeyTable
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record, Sample, Status
from launcher.evaluate.early_stop import Stop
from launcher.evaluate.sample_source import SampleSource
from launcher.evaluate.units import Question
from launcher.settings.evaluate import Evaluate
from launcher.tasks.base import Task


class DrawnSource(SampleSource):
    """A `SampleSource` that hands out samples as ``stop`` draws them; those of a question come together.

    All samples are made first, since examples may depend on their order, and kept in memory until they are asked. What
    earlier sessions in ``folder`` found out counts.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        settings: Evaluate,
        model: str,
        done: Container[str],
        keys: KeyTable,
        stop: Stop,
        folder: Path,
    ) -> None:
        super().__init__(tasks, settings, model, (), keys)
        self._done, self._stop, self._folder = done, stop, RunFolder(folder)
        self._left: deque[tuple[int, str, Sample]] = deque()
        self._drawn = False
        self._wake: Callable[[], None] = lambda: None

    async def take(self) -> Sample | None:
        if not self._drawn:
            await self._made()
        while self._left:
            _, population, sample = self._left[0]
            if self._stop.needs(population):
                self._left.popleft()
                return sample
            self._left = deque(each for each in self._left if each[1] != population)
        return None

    @property
    def held(self) -> bool:
        return bool(self._left) and self._stop.holds(self._left[0][0])

    def on_change(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def note(self, record: Record) -> None:
        self._stop.note(record)

    def facts(self) -> dict[str, Json]:
        return {"early_stop": self._stop.facts()} if self._drawn else {}

    def _some(self) -> list[Sample]:
        """Make all samples, and put those in order that are not done."""
        with self._making:
            items: dict[str, list[Question]] = {name: [] for name in self._tasks}
            waiting: dict[str, list[Sample]] = defaultdict(list)
            for sample in self._iterator:
                question = f"{sample.task}/{sample.id}"
                if not sample.repeat:
                    items[sample.task].append(Question(question, sample.cluster, sample.category))
                if sample.key not in self._done:
                    waiting[question].append(sample)
            if not self._all_made:
                return []  # an earlier call raised what a task raised; a part of the samples is no draw
            self._begin(items)
            ordered = (
                (population, question)
                for population, blocks in self._stop.draws.drawn.items()
                for block in blocks
                for question in block
            )
            self._left.extend(
                (place, population, sample)
                for place, (population, question) in enumerate(ordered)
                for sample in waiting[question]
            )
            self._drawn = True
            return []

    def _begin(self, items: Mapping[str, list[Question]]) -> None:
        self._stop.draws.draw(items)
        for line in self._folder.placed_records():
            if line.is_last and line.record.status is not Status.failed:
                self._stop.draws.answers.note(line.record)
        self._stop.begin(lambda: self._wake())
