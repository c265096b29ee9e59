"""vLLM itself, as ``make vllm`` installs it, started by its ready-made backend."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.backends.vllm import VLLM
from launcher.core.http import fetch, parsed
from launcher.core.types import Endpoint, Record
from launcher.evaluate.next_token import NOTE
from launcher.settings.evaluate import Evaluate
from launcher.settings.validate import Validate
from launcher.tasks.generation import Generation
from launcher.tasks.multiple_choice import MultipleChoice
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.backends.presets import CPU, ROOT, deployment
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch
from tests.running import living, program, wait_for

PROGRAM = os.environ.get("VLLM", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PROGRAM, reason="`make vllm` installs vLLM and sets VLLM to its program"),
]
SMALL = "--enforce-eager --kv-cache-memory-bytes 512M"
START_S = 900


def command(folder: Path, *arguments: str, small: str = SMALL) -> list[str]:
    return [
        *(sys.executable, "launch.py", "backend=vllm", f"backend.program={json.dumps(f'{PROGRAM} serve')}"),
        *(f"backend.cache={folder / 'cache'}", f"hydra.run.dir={folder / 'run'}"),
        *(f"backend.arguments={json.dumps(small)}", *arguments),
    ]


def results(folder: Path) -> Any:
    return json.loads((folder / "run" / "results.json").read_text())


def test_a_run_certifies_it_and_scores_as_the_own_engine(tmp_path: Path) -> None:
    own = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    scores = {task: next(iter(each["metrics"].values()))["value"] for task, each in found["tasks"].items()}
    assert scores == pytest.approx({"addition": 0.9333, "capitals": 0.6875, "sequences": 0.8283}, abs=1e-4)
    assert re.fullmatch(r"0\.\d+\.\d+.*", found["engine"].pop("version"))
    assert found["engine"].pop("weights").startswith(str(tmp_path / "cache"))
    expected = {"engine": "vllm", "dtype": "fp32", "context_length": 256, "converted_from": "megatron_bridge"}
    assert found["engine"] == expected
    checks = json.loads((tmp_path / "run" / "certificate.json").read_text())["checks"]
    assert {check["name"] for check in checks if check["ok"]} >= {"echo aligned", "stop trimmed", "greedy repeats"}
    assert "'generation_config': 'vllm'" in (tmp_path / "run" / "server.log").read_text()
    assert not list((tmp_path / "config").rglob("*usage*"))  # vLLM writes what it reports


@pytest.mark.parametrize(
    ("arguments", "small", "cause"),
    [
        ((), f"{SMALL} --no-such-flag", r"unrecognized arguments: --no-such-flag"),
        (
            ("model.context_length=100000", "backend.environment={VLLM_ALLOW_LONG_MAX_MODEL_LEN: no}"),
            SMALL,
            r"max_model_len \(100000\) is greater than",
        ),
        ((), "--enforce-eager --kv-cache-memory-bytes 9000G", r"ValueError: .* less than requested memory"),
    ],
)
def test_a_failed_start_quotes_the_cause(arguments: tuple[str, ...], small: str, cause: str, tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, *arguments, small=small), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("launcher: ")]
    assert re.search(cause, line)
    assert "Traceback" not in done.stderr


def test_nothing_is_left_of_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with program(command(tmp_path, "mode=serve"), ROOT) as launcher:
        log = tmp_path / "run" / "server.log"
        wait_for(lambda: log.exists() and "Application startup complete" in log.read_text(), launcher, START_S)
        started = psutil.Process(launcher.pid).children(recursive=True)
        assert any("EngineCore" in " ".join(each.cmdline()) for each in started)
        launcher.kill()
        launcher.communicate()
        until(lambda: not living(started), "all have ended")


def test_choices_of_one_token_are_scored_by_the_next_token_as_by_an_echo(tmp_path: Path) -> None:
    rows = [{"question": f"{n}+{n % 7}=", "choices": list("23456789"), "answer": 0} for n in range(1, 30)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    preset = VLLM(program=f"{PROGRAM} serve", arguments=SMALL, cache=str(tmp_path / "cache"))
    task = MultipleChoice(path=str(tmp_path / "items.jsonl"), prefix="")
    only = Validate(skip=[name for name in certificate.NAMES if name != "next token"])
    found: dict[bool, Any] = {}
    with preset.serve(deployment(tmp_path), CPU) as endpoint:
        checks = asyncio.run(certificate.validate(endpoint, only, frozenset({Capability.prompt_logprobs})))
        for named in (True, False):
            folder = tmp_path / str(named)
            folder.mkdir()
            given: list[Any] = [endpoint, {"t": task}, [], Evaluate(concurrency=8), folder, None, Watch()]
            found[named] = asyncio.run(evaluate(*given, next_tokens=named)).tasks["t"]
    assert [check.ok for check in checks if check.id == "next_token"] == [True], checks
    assert (found[True].notes, found[False].notes) == ({NOTE: len(rows)}, {})
    assert found[True].metrics == found[False].metrics
    likelihoods = [
        [value for record in sorted(records_of(tmp_path / str(named)), key=lambda each: each["id"])
         for value in record["prediction"]["loglikelihoods"]]
        for named in (True, False)
    ]  # fmt: skip
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-4)


def records_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def health(endpoint: Endpoint) -> Any:
    return parsed(fetch("GET", f"{endpoint.root}/health", timeout_s=60).body)


def engines(number: str) -> list[psutil.Process]:
    """Return the engine cores that belong to the server with this process number."""
    return [each for each in psutil.Process(int(number)).children(recursive=True) if "EngineCore" in each.name()]


def test_replicas_whose_processes_die_or_hang_are_replaced(tmp_path: Path) -> None:
    """One server is killed; of the other the engine is stopped, behind an API that goes on to say it is healthy."""

    class Strikes(Watch):
        def advanced(self, record: Record) -> None:
            super().advanced(record)
            if len(self.records) == 5:
                psutil.Process(first).children()[0].kill()
            if len(self.records) == 60 and not stopped:
                stopped.extend(each.pid for each in engines(str(second)))
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)

    stopped: list[int] = []
    preset = VLLM(
        program=f"{PROGRAM} serve", arguments=SMALL, replicas=2, cache=str(tmp_path / "cache"), stall_timeout_s=20.0
    )
    task = Generation(path="package:launcher/assets/tasks/addition.jsonl", max_tokens=8, stop=["\n"])
    with preset.serve(deployment(tmp_path), CPU) as endpoint:
        first, second = (each["pid"] for each in health(endpoint)["replicas"])
        settings = Evaluate(concurrency=8, timeout_s=1200.0)
        given: list[Any] = [endpoint, {"addition": task}, [], settings, tmp_path, None, Strikes()]
        found = asyncio.run(evaluate(*given))
        assert found.tasks["addition"].coverage["scored"] == 120
        assert found.tasks["addition"].metrics["exact_match"].value == pytest.approx(0.9333, abs=1e-4)
        until(lambda: len(health(endpoint)["lost"]) == 2, "both were lost")
        reasons = sorted(loss["reason"] for loss in health(endpoint)["lost"])
        assert any("SIGKILL" in reason for reason in reasons), reasons
        assert any("no byte of an answer" in reason for reason in reasons), reasons
