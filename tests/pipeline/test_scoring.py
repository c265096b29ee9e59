"""mode=score: stored answers are scored again, in another folder, without the server that gave them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from launcher.report.results import SCHEMA
from tests.planted_judge import planted_judge
from tests.running import launch_here, program, wait_for

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none", "validate.skip=[greedy repeats]")


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch_here(folder.parent, *arguments, f"hydra.run.dir={folder}")


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of two tasks, which no test changes."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    done = launch(folder, *ECHO, "tasks=[addition,capitals]", "evaluate.limit=4", "evaluate.repeats=2")
    assert done.returncode == 0, done.stderr
    before = digest(folder)
    yield folder
    assert digest(folder) == before, "a scoring has changed the folder of the answers"


def test_answers_are_scored_with_another_metric_and_the_report_says_that_they_are_older(tmp_path, earlier):
    folder = tmp_path / "again"
    done = launch(folder, "mode=score", f"run={earlier}", "tasks.addition.match=[exact_match,contains]")
    assert done.returncode == 0, done.stderr
    old, new = results(earlier), results(folder)
    assert list(new["tasks"]["addition"]["metrics"]) == ["exact_match", "contains"]
    assert new["tasks"]["capitals"]["metrics"] == old["tasks"]["capitals"]["metrics"]
    assert new["tasks"]["addition"]["coverage"]["scored"] == 8
    source = new["run"]["answers_from"]
    assert (source["folder"], source["asked_at"]) == (str(earlier), old["run"]["started_at"])
    assert source["values"]["addition"] == {"exact_match": 0.0}
    assert new["endpoint"] == old["endpoint"]
    for said in (done.stdout, (folder / "report.html").read_text()):
        assert f"asked at {old['run']['started_at']}" in " ".join(said.split())
        assert "addition contains: not measured before" in " ".join(said.split())
    assert not (folder / "server.log").exists()
    stored, scored = lines(earlier), lines(folder)
    for name in ("task", "id", "repeat", "request", "response", "latency_s", "usage"):
        assert [line[name] for line in scored] == [line[name] for line in stored]


def test_the_command_is_the_mode_and_a_task_may_be_left_out(tmp_path, earlier):
    folder = tmp_path / "again"
    done = launch(folder, "score", str(earlier), "tasks=[capitals]")
    assert done.returncode == 0, done.stderr
    assert list(results(folder)["tasks"]) == ["capitals"]
    assert "score: 8 answers of" in done.stderr


def test_a_changed_prompt_is_an_error(tmp_path, earlier):
    done = launch(tmp_path / "again", "mode=score", f"run={earlier}", "tasks.addition.prompt='Sum: {{prompt}}'")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "tasks.addition: 8 prompts are not those that" in last
    assert "addition-000" in last


def test_samples_that_would_be_asked_in_another_way_are_not_scored_again_and_counted(tmp_path, earlier):
    folder = tmp_path / "again"
    done = launch(folder, "mode=score", f"run={earlier}", "tasks.addition.max_tokens=9", "evaluate.limit=3")
    assert done.returncode == 3
    assert "score: 6 samples are not scored again: max_tokens: 8 -> 9" in done.stderr
    assert "score: 4 answers are left out" in done.stderr
    coverage = results(folder)["tasks"]["addition"]["coverage"]
    assert (coverage["scored"], coverage["not_asked"], coverage["total"]) == (0, 6, 6)
    assert results(folder)["tasks"]["capitals"]["coverage"]["scored"] == 6


def test_more_samples_than_were_asked_are_counted(tmp_path, earlier):
    folder = tmp_path / "again"
    done = launch(folder, "mode=score", f"run={earlier}", "evaluate.limit=5")
    assert done.returncode == 3
    assert "score: 4 samples are not scored again: there is no answer" in done.stderr
    assert results(folder)["tasks"]["addition"]["coverage"]["not_asked"] == 2


def stored_run(folder: Path, *changes: dict[str, Any]) -> Path:
    """Change the first lines of a run's samples."""
    every = lines(folder)
    for line, change in zip(every, changes, strict=False):
        line.update(change)
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in every))
    return folder


def test_values_of_fewer_samples_say_so(tmp_path):
    run = tmp_path / "run"
    launch(run, *ECHO, "tasks=[addition]", "evaluate.limit=4")
    first = lines(run)[0]
    choice = first["response"]["choices"][0]
    choice |= {"message": choice["message"] | {"content": first["target"]}} if "message" in choice else {}
    choice |= {"text": first["target"]} if "text" in choice else {}
    stored_run(run, first)
    done = launch(tmp_path / "fewer", "mode=score", f"run={run}", "evaluate.limit=1")
    said = " ".join(done.stdout.split())
    assert "addition exact_match: 0.000 before (of 4 samples), 1.000 now (of 1 sample)" in said, done.stderr + said
    assert results(tmp_path / "fewer")["run"]["answers_from"]["scored"] == {"addition": 4}
    done = launch(tmp_path / "all", "mode=score", f"run={run}")
    assert "addition exact_match: 0.000 before, 0.250 now" in " ".join(done.stdout.split())


def test_a_sample_without_an_answer_keeps_its_status_and_a_cut_one_may_be_accepted(tmp_path):
    run = tmp_path / "run"
    launch(run, *ECHO, "tasks=[addition]", "evaluate.limit=3", "tasks.addition.max_tokens=3")
    assert [line["status"] for line in lines(run)] == ["truncated"] * 3
    refused = {"status": "refused", "reason": "HTTP 400: no", "response": {"error": {"message": "no"}}}
    failed = {"status": "failed", "reason": "no connection", "response": None}
    stored_run(run, refused, failed)
    done = launch(tmp_path / "same", "mode=score", f"run={run}")
    assert [(line["status"], line["scores"]) for line in lines(tmp_path / "same")] == [
        ("refused", {}), ("failed", {}), ("truncated", {}),
    ]  # fmt: skip
    done = launch(tmp_path / "again", "mode=score", f"run={run}", "tasks.addition.accept_truncated=true")
    assert done.returncode == 3
    assert [(line["status"], line["reason"]) for line in lines(tmp_path / "again")] == [
        ("refused", "HTTP 400: no"), ("failed", "no connection"), ("scored", None),
    ]  # fmt: skip


def test_a_judge_scores_the_answers_of_a_task_that_was_asked_the_same(tmp_path, earlier):
    folder, chosen = tmp_path / "again", ("tasks=[judged_addition]", "judge=url")
    with planted_judge(lambda prompt: "Verdict: [[CORRECT]]") as judge:
        done = launch(folder, "mode=score", f"run={earlier}", *chosen, f"judge.url={judge.url}")
        assert done.returncode == 0, done.stderr
        assert len(judge.asked) == 8
    assert "judged_addition is scored on the answers of addition" in done.stderr
    assert results(folder)["tasks"]["judged_addition"]["metrics"]["judge_score"]["value"] == 1.0
    twice = tmp_path / "twice"
    labels = "tasks.judged_addition.labels={CORRECT: 3, INCORRECT: 0}"
    done = launch(twice, "mode=score", f"run={folder}", "judge=none", labels)
    assert done.returncode == 0, done.stderr
    assert results(twice)["tasks"]["judged_addition"]["metrics"]["judge_score"]["value"] == 3.0
    assert results(twice)["run"]["answers_from"]["asked_at"] == results(earlier)["run"]["started_at"]
    other = launch(
        tmp_path / "other", "mode=score", f"run={folder}", "judge=none", "tasks.judged_addition.judge_seed=7"
    )
    assert other.returncode == 3
    assert "its answer is not stored" in lines(tmp_path / "other")[0]["reason"]


def test_an_interrupted_scoring_is_resumed_without_asking_the_judge_again(tmp_path, earlier):
    folder, held = tmp_path / "again", []

    def replies(prompt: str) -> str:
        held.append(prompt)
        return "Verdict: [[CORRECT]]"

    with planted_judge(replies, delay_s=0.4) as judge:
        arguments = ["mode=score", f"run={earlier}", "tasks=[judged_addition]", "judge=url", f"judge.url={judge.url}"]
        command = [
            sys.executable,
            str(ROOT / "launch.py"),
            *arguments,
            f"hydra.run.dir={folder}",
            "judge.concurrency=1",
        ]
        with program(command, tmp_path, dict(os.environ)) as process:
            samples = folder / "samples.jsonl"
            wait_for(lambda: samples.exists() and samples.stat().st_size, process, 60)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        kept = len(lines(folder))
        assert 0 < kept < 8
        judge.asked.clear()
        done = launch_here(tmp_path, f"resume={folder}")
        assert done.returncode == 0, done.stderr
        assert len(judge.asked) == 8 - kept
    assert results(folder)["tasks"]["judged_addition"]["coverage"]["scored"] == 8


def test_groups_are_summed_up_again(tmp_path):
    run = tmp_path / "run"
    launch(run, *ECHO, "tasks=[numbers]", "evaluate.limit=2")
    done = launch(
        tmp_path / "again",
        "mode=score",
        f"run={run}",
        "tasks.addition.match=contains",
        "tasks.sequences.match=contains",
    )
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "again")["groups"]["numbers"]["metrics"]["contains"]["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mode=score",), "mode=score needs run=<run folder>"),
        (("mode=score", "run=nowhere"), "not a run folder"),
        (("score",), "FOLDER"),
        (("score", "{earlier}", "hydra.run.dir={earlier}"), "the folder whose answers are scored"),
        (("score", "{earlier}", "tasks=[sequences]"), "no task there was asked the same"),
        (("score", "{earlier}", "tasks.addition.mach=contains"), "did you mean match"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tmp_path, earlier, arguments, words):
    done = launch_here(tmp_path, *(argument.replace("{earlier}", str(earlier)) for argument in arguments))
    assert done.returncode == 1
    assert words in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_damaged_line_is_named(tmp_path, earlier):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(earlier, copy)
    with (copy / "samples.jsonl").open("a") as file:
        file.write("{}\n")
    done = launch(tmp_path / "again", "mode=score", f"run={copy}")
    assert done.returncode == 1
    assert "samples.jsonl:17: not a sample's record" in done.stderr
