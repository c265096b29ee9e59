"""The result file of any command: what is read of it, and the line for what is refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.core.types import Direction
from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness.base import Harness, Place
from launcher.tasks.harness.measured import Measured, ResultError, SampleCounts, snapshot
from launcher.tasks.harness_command import HarnessCommand, ResultFile

COMMAND = HarnessCommand(
    command="x",
    result=ResultFile("{output}/*.json", {"acc": "$.r.acc", "wer": "r['wer']"}, {"acc": "$.r.err"}, "n", "$.lost"),
    lower_is_better=["wer"],
)
GOOD = {"r": {"acc": 0.5, "wer": 3, "err": 0.1}, "n": 10, "lost": 2}


def place(output: Path) -> Place:
    return Place("http://127.0.0.1:1/v1", "m", output, Evaluate())


def read(harness: Harness, output: Path) -> Measured:
    return harness.read(place(output), {})


def test_a_json_file_is_read_by_paths(tmp_path: Path) -> None:
    folder = tmp_path / "of [one] run*"  # what a pattern would not take as text
    folder.mkdir()
    (folder / "out.json").write_text(json.dumps(GOOD))
    found = read(COMMAND, folder)
    assert list(found.metrics) == ["acc", "wer"]
    acc, wer = found.metrics.values()
    assert (acc.value, acc.stderr, acc.n, acc.direction) == (0.5, 0.1, 8, Direction.higher)
    assert (wer.value, wer.n, wer.direction) == (3.0, 8, Direction.lower)
    assert math.isnan(wer.stderr)
    assert found.samples == SampleCounts(10, failed=2)
    assert set(found.reasons) == {"failed"}


def test_json_lines_are_a_list_and_an_unknown_count_stays_unknown(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"accuracy": 0.25}\n{"id": 1}\n\n{"id": 2}\n')
    found = read(HarnessCommand(command="x", result=ResultFile("{output}/*", {"a": "$[0].accuracy"})), tmp_path)
    assert found.metrics["a"].value == 0.25
    assert found.metrics["a"].n is None
    assert found.samples is None


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is no JSON"),
        ('{"r": {"acc": 0.5', "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        (json.dumps(changed(r={})), "result.metrics.acc: $.r.acc: $.r is an empty object, without 'acc'"),
        (json.dumps(changed(r={"acc": "0.5"})), "result.metrics.acc ($.r.acc of"),
        (json.dumps(changed(r={"acc": "0.5"})), "is '0.5', expected a finite number"),
        (json.dumps(changed(r={"acc": None})), "is None, expected a finite number"),
        (json.dumps(changed(r={"acc": True})), "is True, expected a finite number"),
        (json.dumps(changed(r={"acc": math.nan})), "is nan, expected a finite number"),
        (json.dumps(changed(r={"acc": math.inf})), "is inf, expected a finite number"),
        (json.dumps(changed(r={"acc": [1]})), "is [1], expected a finite number"),
        (json.dumps(changed(r={"acc": 1, "wer": 1, "err": "N/A"})), "result.stderr.acc"),
        (json.dumps(changed(n=2.5)), "is 2.5, expected a whole number of at least 0"),
        (json.dumps(changed(n=-1)), "is -1, expected a whole number of at least 0"),
        (json.dumps(changed(n=1)), "2 of 1 samples failed"),
    ],
)
def test_what_is_no_result_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(text)
    with pytest.raises(ResultError) as caught:
        read(COMMAND, tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_command_did_not_write_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    with pytest.raises(ResultError, match="there is no such file"):
        read(COMMAND, tmp_path)
    file.write_text(json.dumps(GOOD))
    before = snapshot(COMMAND.pattern(place(tmp_path)))
    with pytest.raises(ResultError, match="was written before this command ran"):
        COMMAND.read(place(tmp_path), before)
    file.write_text(json.dumps(GOOD))
    os.utime(file, ns=(0, before[file][1] + 1))
    assert COMMAND.read(place(tmp_path), before).metrics["acc"].value == 0.5
