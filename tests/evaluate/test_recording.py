"""What is kept is on the disk before it is shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import Record, Status
from launcher.evaluate.journal import Journal
from launcher.evaluate.meter import Meter
from launcher.evaluate.recording import TOGETHER, Recorder
from launcher.settings.budget import Budget
from tests.evaluate.evaluation_server import Echoes, Watch, serving
from tests.evaluate.test_evaluator import run
from tests.sample_records import made


@dataclass
class Reading(Watch):
    """Looks for each sample in the file as it is shown."""

    folder: Path = Path()
    missing: list[str] = field(default_factory=list)

    def advanced(self, record: Record) -> None:
        super().advanced(record)
        if record not in RunFolder(self.folder).records():
            self.missing.append(record.key)

    def corrected(self, record: Record) -> None:
        self.advanced(record)


async def test_every_sample_that_is_shown_is_in_the_file(tmp_path):
    watch = Reading(folder=tmp_path)
    async with serving() as server:
        await run(server, tmp_path, tasks={"t": Echoes(60)}, progress=watch, concurrency=16)
    assert (len(watch.records), watch.missing) == (60, [])


async def test_the_records_of_one_turn_are_written_together_and_shown_in_their_order(tmp_path):
    watch, given = Reading(folder=tmp_path), [made(f"t/{n}/0") for n in range(3)]
    with Journal(tmp_path, {}) as journal:
        recorder = Recorder(journal, Meter(Budget(), {}), watch)
        writer = asyncio.create_task(recorder.writing())
        for record in given:
            recorder.keep(record, None)
        assert watch.records == []
        while not watch.records:
            await asyncio.sleep(0)
        assert (watch.records, watch.missing) == (given, [])
        recorder.keep(made("t/3/0", Status.failed), None)
        writer.cancel()
        recorder.close([], {})
    assert [record.id for record in RunFolder(tmp_path).records()] == ["0", "1", "2", "3"]


async def test_no_more_records_wait_than_a_few(tmp_path):
    watch = Reading(folder=tmp_path)
    with Journal(tmp_path, {}) as journal:
        recorder = Recorder(journal, Meter(Budget(), {}), watch)
        for n in range(TOGETHER):
            recorder.keep(made(f"t/{n}/0"), None)
        assert len(watch.records) == TOGETHER
