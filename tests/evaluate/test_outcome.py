from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from launcher.core.errors import ResumeError
from launcher.core.types import Pause, Status
from launcher.evaluate.journal import Journal
from launcher.evaluate.outcome import Outcome, read
from launcher.evaluate.statistics import summarize
from launcher.stats.metric import Metric
from tests.evaluate.evaluation_server import Echoes


class Accuracy(Echoes):
    metrics = (Metric("acc"),)


TASKS = {"t": Accuracy()}


def test_a_folder_in_which_nothing_began_is_empty(tmp_path):
    assert read(tmp_path, TASKS) == Outcome()


def test_the_samples_and_the_facts_make_the_outcome(record, tmp_path):
    with Journal(tmp_path, {}) as journal:
        journal.add(record("t/a/0"))
        journal.add(record("t/b/0", Status.unparsed))
        journal.close(
            map(journal.keys.add, ["t/a/0", "t/b/0"]),
            {
                "totals": {"t": 4},
                "throughput": {"requests": 2},
                "stopped": "gone",
                "pauses": [{"start": "then", "seconds": 2.5, "reason": "away"}],
            },
        )
    found = read(tmp_path, TASKS)
    assert found.tasks["t"].coverage == {
        "scored": 1, "truncated": 0, "refused": 0, "unparsed": 1, "failed": 0, "not_asked": 2, "total": 4,
    }  # fmt: skip
    assert (found.throughput, found.stopped) == ({"requests": 2}, "gone")
    assert found.pauses == (Pause("then", 2.5, "away"),)


def test_after_a_crash_the_samples_alone_make_it(record, tmp_path):
    with Journal(tmp_path, {}) as journal:
        journal.add(record("t/a/0", Status.failed))
        journal.add(record("t/a/0", value=0.0))
    found = read(tmp_path, TASKS)
    assert (found.tasks["t"].metrics["acc"].value, found.tasks["t"].coverage["total"]) == (0.0, 1)


def test_damage_is_named(tmp_path):
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(ResumeError, match=r"journal\.json"):
        read(tmp_path, TASKS)


@pytest.mark.parametrize("closed", [True, False])
def test_repeats_count_as_one_item_wherever_they_stand(record, tmp_path, closed):
    rng = random.Random(2)
    records = [record(f"t/{i}/{r}", value=rng.random()) for i in range(9) for r in range(3)]
    records[4] = record("t/1/1", Status.failed)
    expected = summarize(records, {"t": 27}, {"t": Accuracy.metrics})
    with Journal(tmp_path, {}) as journal:
        for each in rng.sample(records, k=len(records)):
            journal.add(each)
        if closed:
            journal.close(map(journal.keys.add, [each.key for each in records]), {"totals": {"t": 27}})
    found = read(tmp_path, TASKS)
    assert found.tasks["t"].metrics["acc"].stderr == pytest.approx(expected["t"].metrics["acc"].stderr, rel=1e-12)
    if closed:
        assert found.tasks == expected
    assert found.overview is not None
    assert found.overview.total == 27


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7.0, r"acc is 7\.0, outside of its range \[0, 1\]"),
        (math.nan, "acc is nan, expected a finite number"),
        ("1", "acc is '1', expected a finite number"),
    ],
)
def test_a_damaged_score_is_no_score(record, tmp_path, value, words):
    with Journal(tmp_path, {}) as journal:
        journal.add(record("t/a/0"))
        journal.add(replace(record("t/b/0"), scores={"acc": value}))
    with pytest.raises(ResumeError, match=rf"samples\.jsonl:2: {words}; delete this line"):
        read(tmp_path, TASKS)
