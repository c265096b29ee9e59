"""vLLM's own answers, as recorded: facts, scores and times of tokens that the launcher reads from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.core.run_folder import RunFolder
from tests.backends.presets import ROOT
from tests.backends.transcript import FILE, arguments, asked, replayed
from tests.running import launch_here


def test_the_answers_of_vllm_are_read_as_they_were(tmp_path: Path) -> None:
    recorded = json.loads(FILE.read_text())
    with asked(replayed(recorded)) as url:
        done = launch_here(ROOT, *arguments(url, tmp_path / "run"))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}; to record it again, see tests/backends/transcript.py"
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    version = recorded["server"].removeprefix("vllm ")
    assert (found["engine"]["engine"], found["engine"]["version"]) == ("vllm", version)
    assert found["engine"]["context_length"] == 256
    scores = {task: next(iter(each["metrics"].values()))["value"] for task, each in found["tasks"].items()}
    assert scores == pytest.approx({"addition": 1.0, "capitals": 0.75, "sequences": 0.875})
    records = {record.key: record for record in RunFolder(tmp_path / "run").records()}
    first = records["capitals/capitals-000/0"].prediction
    assert (first["text"], first["index"]) == ("kampala", 2)
    assert first["loglikelihoods"] == pytest.approx([-19.4187, -71.8330, -0.0237, -67.3278], abs=1e-3)
    assert records["addition/addition-000/0"].prediction == "15"
