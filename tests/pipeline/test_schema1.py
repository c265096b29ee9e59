"""A run folder of before ``results.json`` had schema 2, as that program left it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from launcher.core.errors import UserError
from launcher.report import results, sweep_table

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("schema1")


def test_it_is_resumed_without_asking_again_and_its_results_are_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RECORDED, folder)
    line = [sys.executable, str(ROOT / "launch.py"), f"resume={folder}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "samples.jsonl").read_bytes() == (RECORDED / "samples.jsonl").read_bytes()
    found, before = results.read(folder), json.loads((RECORDED / "results.json").read_text())
    jsonschema.validate(found, json.loads(results.SCHEMA.read_text()))
    for task in before["tasks"]:
        metric = dict(found["tasks"][task]["metrics"]["exact_match"])
        kinds = {metric.pop(name) for name in ("direction", "interval", "aggregation")}
        assert kinds == {"higher", "wilson", "mean"}
        assert metric.pop("range") == [0.0, 1.0]
        assert metric == before["tasks"][task]["metrics"]["exact_match"]
        assert found["tasks"][task]["coverage"] == before["tasks"][task]["coverage"]


def test_its_results_are_refused_in_one_line_that_says_what_to_do() -> None:
    with pytest.raises(UserError) as refused:
        results.read(RECORDED)
    assert str(refused.value) == (
        f"{RECORDED}/results.json: schema_version is 1, expected 2; "
        f"resume={RECORDED} writes it again from the samples that are there"
    )


def test_a_sweep_says_of_such_a_point_why_it_has_no_scores(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "0")
    [point] = sweep_table.collect(tmp_path)["points"]
    assert point["status"] == "missing"
    assert "schema_version is 1, expected 2; resume=" in (point["reason"] or "")
