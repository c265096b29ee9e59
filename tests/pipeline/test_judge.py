"""A run with a judge: an existing server or its own deployment, from the command line to the report."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.planted_judge import planted_judge, said
from tests.running import launch_here, program, wait_for

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none", "tasks=[judged_addition]", "validate.skip=[greedy repeats]", "evaluate.limit=4")


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch_here(folder.parent, *ECHO, f"hydra.run.dir={folder}", *arguments)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_judge_that_runs_already_scores_the_answers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with planted_judge(lambda prompt: "So.\nVerdict: [[CORRECT]]") as judge:
        done = launch(folder, "judge=url", f"judge.url={judge.url}")
        assert done.returncode == 0, done.stderr
        assert [body["model"] for body in judge.asked] == ["m"] * 4
        found = results(folder)
        assert found["tasks"]["judged_addition"]["metrics"]["judge_score"]["value"] == 1.0
        assert {name: found["run"]["judge"][name] for name in ("url", "model")} == {"url": judge.url, "model": "m"}
        assert json.loads((folder / "judge" / "certificate.json").read_text())["valid"]
        assert "Judged by <b>m</b>" in (folder / "report.html").read_text()
        [asked, *_] = lines(folder)[0]["scoring"]
        assert asked["endpoint"] == "judge"
        assert asked["request"]["body"]["model"] == "m"
        again = launch(folder, "judge=url", f"judge.url={judge.url}", f"resume={folder}")
        assert (again.returncode, len(judge.asked)) == (0, 4)
    other = launch(folder, f"resume={folder}", "tasks.judged_addition.judge_seed=5")
    assert other.returncode == 1
    assert "judge_seed" in other.stderr
    other = launch(folder, f"resume={folder}", "judge.model=other")
    assert other.returncode == 1
    assert "judge.model" in other.stderr


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        ("I cannot say.", "unparsed", "judge: its last line is no verdict"),
        (said("Verdict: [[CORRECT]]", "length"), "unparsed", "judge: cut at max_tokens"),
        (web.json_response({"error": {"message": "no"}}, status=400), "refused", "judge: HTTP 400: no"),
        (said(None), "refused", "judge: the content is null"),
        (web.json_response({"choices": []}), "failed", "judge: the answer has 0 choices"),
    ],
)
def test_what_a_judge_does_not_say_is_no_score(tmp_path: Path, reply: Any, status: str, words: str) -> None:
    def fresh(prompt: str) -> str | web.Response:
        return reply if isinstance(reply, str) else web.Response(**_copied(reply))

    with planted_judge(fresh) as judge:
        done = launch(tmp_path / "run", "judge=url", f"judge.url={judge.url}", "evaluate.limit=1")
    assert done.returncode == 3
    [line] = lines(tmp_path / "run")
    assert (line["status"], line["scores"]) == (status, {})
    assert line["reason"].startswith(words)


def _copied(response: web.Response) -> dict[str, Any]:
    return {"status": response.status, "body": response.body, "content_type": response.content_type}


def test_a_judge_of_its_own_is_served_beside_the_run_and_taken_down(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chosen = ("judge=deployment", "engine@judge.engine=echo", "tasks=[echo_judged]")
    done = launch(folder, *chosen)
    assert done.returncode == 0, done.stderr
    found = results(folder)
    assert found["tasks"]["echo_judged"]["metrics"]["judge_score"]["n"] == 4
    assert found["run"]["judge"]["engine"] == "echo"
    assert (folder / "judge" / "server.log").read_text().count("/v1/chat/completions") >= 4
    port = int(found["run"]["judge"]["url"].rsplit(":", 1)[1].removesuffix("/v1"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


def test_the_points_of_a_sweep_share_a_judge(tmp_path: Path) -> None:
    chosen = ("judge=deployment", "engine@judge.engine=echo", "tasks=[echo_judged]", "evaluate.limit=2")
    done = launch_here(
        tmp_path, "-m", *ECHO, *chosen, f"hydra.sweep.dir={tmp_path / 'sweep'}", "engine.batch=8,9", "evaluate.seed=1,2"
    )
    assert done.returncode == 0, done.stderr
    urls = [results(tmp_path / "sweep" / str(point))["run"]["judge"]["url"] for point in range(4)]
    assert len(set(urls)) == 1
    assert all((tmp_path / "sweep" / str(point) / "judge" / "certificate.json").exists() for point in range(4))


def test_a_judge_that_restarts_pauses_the_judging_and_loses_no_sample(tmp_path: Path) -> None:
    """The first judge goes away with requests in flight; another takes its place."""
    folder, begun = tmp_path / "run", threading.Event()

    async def holds(prompt: str) -> str:
        begun.set()
        await asyncio.sleep(60)
        return ""

    with planted_judge(holds) as first:
        port = int(first.url.rsplit(":", 1)[1].removesuffix("/v1"))
        arguments = [*ECHO, "judge=url", f"judge.url={first.url}", f"hydra.run.dir={folder}", "judge.max_pause_s=60"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        assert begun.wait(60)
    time.sleep(1)  # the judge is away for a while
    with planted_judge(lambda prompt: "Verdict: [[CORRECT]]", port) as second:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert len(second.asked) == 4
    assert "paused" in errors
    assert "the judge" in errors
    found = results(folder)
    assert found["tasks"]["judged_addition"]["coverage"]["scored"] == 4
    assert found["pauses"][0]["reason"].startswith("the judge: ")


def test_ctrl_c_while_a_judge_is_asked_leaves_no_server_and_the_run_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chosen = ("judge=deployment", "engine@judge.engine=echo", "judge.engine.latency_s=1", "tasks=[echo_judged]")
    arguments = [*ECHO, *chosen, f"hydra.run.dir={folder}", "evaluate.concurrency=1"]
    with program([sys.executable, str(ROOT / "launch.py"), *arguments], tmp_path, dict(os.environ)) as process:
        samples = folder / "samples.jsonl"
        wait_for(lambda: samples.exists() and samples.stat().st_size, process, 60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    kept = len(lines(folder))
    assert 0 < kept < 4
    done = launch_here(tmp_path, f"resume={folder}", "judge.engine.latency_s=0")
    assert done.returncode == 0, done.stderr
    assert len(lines(folder)) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["tasks.judged_addition", "judge=url judge.url="]),
        (("judge=url",), ["judge.url: a value is required"]),
        (("judge=url", "judge.url=somewhere"), ["judge.url=somewhere", "/v1"]),
        (("judge=url", "judge.url=http://127.0.0.1:1/v1"), ["judge.url=http://127.0.0.1:1/v1", "no server answers"]),
        (("judge=url", "judge.url=http://a/v1", "judge.api_key_env=NOT_SET"), ["judge.api_key_env=NOT_SET"]),
        (("judge=url", "judge.url=http://a/v1", "judge/adapters=[retri]"), ["judge/adapters=retri", "mean retry"]),
        (("judge=deployment",), ["judge.model.path: engine=huggingface needs a checkpoint"]),
        (("judge=deployment", "engine@judge.engine=none"), ["judge.engine", "needs an engine"]),
        (("judge=command", "judge.backend.command=serve"), ["backend.command", "{port}"]),
    ],
)
def test_a_judge_that_cannot_work_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    done = launch(tmp_path / "run", *arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_judge_of_its_own_is_refused_in_a_run_of_several_processes(tmp_path: Path) -> None:
    chosen = ("cluster=slurm", "judge=deployment", "engine@judge.engine=echo", "engine=megatron", "model=tiny")
    done = launch(tmp_path / "run", *chosen, "parallelism=pipeline2", "cluster.nodes=2", "mode=plan")
    assert done.returncode == 1
    assert "this one has 2; serve it separately, and use judge=url" in done.stderr


def test_a_judge_is_not_served_for_tasks_that_ask_none(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "tasks=[addition]", "judge=url", "judge.url=http://127.0.0.1:1/v1")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "judge").exists()


def test_a_plan_shows_the_judge(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "mode=plan", "judge=url", "judge.url=http://127.0.0.1:1/v1")
    assert done.returncode == 0
    assert "judge:\n  backend: external\n  server: http://127.0.0.1:1/v1\n" in done.stdout
