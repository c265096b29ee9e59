"""Stored answers to tasks of lm-eval are scored again as any others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.core.types import Endpoint
from tests.running import launch_here

TASKS = "tasks=[lm_eval/local_choices,lm_eval/local_texts,lm_eval/local_ends,lm_eval/local_rolling]"


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def lm_eval_samples(folder: Path) -> dict[str, bytes]:
    """Return lm-eval's own files of samples, by their names without the date."""
    files = sorted((folder / "lm_eval").rglob("samples_*.jsonl"))
    return {path.name.rsplit("_", 1)[0]: path.read_bytes() for path in files}


@pytest.mark.slow
def test_the_scores_are_the_same_and_without_the_tokenizer_one_line_says_so(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path
) -> None:
    run, again, gone = tmp_path / "run", tmp_path / "again", tmp_path / "gone"
    chosen = ("backend=external", f"backend.url={server.url}", TASKS, f"lm_eval.include_path={lm_eval_tasks}")
    done = launch_here(tmp_path, *chosen, "evaluate.limit=2", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    done = launch_here(tmp_path, "score", str(run), f"hydra.run.dir={again}")
    assert done.returncode == 0, done.stderr
    assert results(again)["tasks"] == results(run)["tasks"]
    assert (again / "samples.jsonl").read_bytes() == (run / "samples.jsonl").read_bytes()
    assert b'"merged_tokens"' in (run / "samples.jsonl").read_bytes()
    assert lm_eval_samples(again) == lm_eval_samples(run)
    assert list((again / "lm_eval").rglob("results_*.json"))
    stored = results(run)
    stored["endpoint"]["url"] = "http://127.0.0.1:1/v1"
    (run / "results.json").write_text(json.dumps(stored))
    done = launch_here(tmp_path, "score", str(run), f"hydra.run.dir={gone}")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "says no context length" in line
    assert "set lm_eval.max_length" in line
    done = launch_here(tmp_path, "score", str(run), f"hydra.run.dir={gone}", "lm_eval.max_length=256")
    assert done.returncode == 1
    assert "gives no tokenizer" in done.stderr.strip().splitlines()[-1]
