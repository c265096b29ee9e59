"""A model over processes that torchrun or a user starts together: one server, whose processes end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from launcher.backends.ports import free
from tests.backends.pytriton.tiny import BODY, answer

pytest.importorskip("megatron.core")
ROOT = Path(__file__).parents[3]
LAUNCH = str(ROOT / "launch.py")


class Started:
    """Programs, and all that they start; nothing of it outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[subprocess.Popen[bytes]] = []
        self.seen: set[psutil.Process] = set()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"said{len(self.programs)}").open("wb") as said:
            program = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | environment, stdout=said, stderr=said, start_new_session=True
            )
        self.programs.append(program)
        return program

    def by_hand(self, *choices: str, world: int = 2) -> None:
        """Start ranks as any scheduler could."""
        here = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        for rank in range(world):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": "1"}
            self.start(sys.executable, LAUNCH, *choices, f"hydra.run.dir={self.folder / 'run'}", **here, **mine)

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("said*")))

    def ready(self) -> httpx.Client:
        """Wait until the server is valid, and stays; remember every process that belongs to it."""
        self.until(lambda: "Ctrl-C ends it" in self.said())
        for program in self.programs:
            self.seen |= {psutil.Process(program.pid), *psutil.Process(program.pid).children(recursive=True)}
        endpoint = json.loads((self.folder / "run" / "endpoint.json").read_text())
        return httpx.Client(base_url=endpoint["url"].removesuffix("/v1"), timeout=60, trust_env=False)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 180
        while not condition():
            assert all(program.poll() is None for program in self.programs), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def find(self, *words: str) -> list[psutil.Process]:
        """Return the processes that have all of ``words`` on their command line."""
        found = []
        for process in self.seen:
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if all(word in line for word in words):
                    found.append(process)
        return found

    def codes(self) -> list[int]:
        return [program.wait(90) for program in self.programs]

    def gone(self) -> bool:
        return not psutil.wait_procs(self.seen, 20)[1]

    def close(self) -> None:
        for program in self.programs:
            with suppress(psutil.Error):
                for process in psutil.Process(program.pid).children(recursive=True):
                    process.kill()
            program.kill()
            program.wait()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    programs = Started(tmp_path)
    yield programs
    programs.close()


def torchrun(nodes: int, node: int, port: int) -> tuple[str, ...]:
    where = (
        f"--nnodes={nodes}",
        f"--node-rank={node}",
        f"--nproc-per-node={2 // nodes}",
        f"--master-port={port}",
        "--log-dir=logs",
    )
    return (sys.executable, "-m", "torch.distributed.run", *where, "--master-addr=127.0.0.1", LAUNCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "choices"),
    [
        pytest.param(1, ("backend=pytriton", "parallelism.tensor=2"), id="one node", marks=pytest.mark.soak),
        pytest.param(2, ("backend=pytriton", "parallelism.pipeline=2"), id="two nodes"),
    ],
)
def test_torchrun_serves_through_triton_and_sigterm_to_any_rank_ends_all(
    started: Started, expected: dict[str, Any], nodes: int, choices: tuple[str, ...]
) -> None:
    port = free("127.0.0.1") if nodes > 1 else 0
    for node in range(nodes):
        started.start(*torchrun(nodes, node, port), *choices, "mode=serve", f"hydra.run.dir={started.folder / 'run'}")
    with started.ready() as http:
        found = answer(http)
    assert found["text"] == expected["text"]
    assert found["logprobs"]["token_logprobs"] == pytest.approx(expected["logprobs"]["token_logprobs"], abs=1e-4)
    (member,) = [p for p in started.find(LAUNCH) if p.environ().get("RANK") == "1" and "-m" not in p.cmdline()]
    member.send_signal(signal.SIGTERM)
    assert started.codes() == [0] * nodes
    assert started.gone()
    assert not (started.folder / "run" / "endpoint.json").exists()
    assert not list((started.folder / "outputs").glob(".*"))


@pytest.mark.slow
def test_the_death_of_another_rank_ends_all(started: Started) -> None:
    started.by_hand("parallelism.pipeline=2", "mode=serve")
    with started.ready() as http:
        started.programs[1].kill()
        long = BODY | {"max_tokens": 240, "ignore_eos": True}  # not over before the other rank has lost its child
        assert http.post("/v1/completions", json=long).status_code == 503
        assert http.get("/health").status_code == 503
    assert started.codes() == [1, -signal.SIGKILL]
    assert started.gone()
    lines = (started.folder / "run" / "health.jsonl").read_text().splitlines()
    assert "died" in lines[-1]
    states = {json.loads(line)["state"] for line in lines[:-1]}
    assert states <= {"live", "restarting"}
    assert "start again" not in started.said(), "there is no process to start it in"


def test_more_processes_than_the_model_has_are_refused_in_one_line(started: Started) -> None:
    started.by_hand("engine=echo", "model=none", "tasks=[addition]")
    assert started.codes() == [1, 0]
    (line,) = [line for line in started.said().splitlines() if line.startswith("launcher:")]
    assert "the model has a world size of 1, got 2 processes" in line


def test_a_tensor_parallel_group_over_two_nodes_is_refused() -> None:
    from launcher.core.errors import UserError
    from launcher.engines.megatron.layout import check_nodes
    from launcher.settings.model import Parallelism

    check_nodes(Parallelism(tensor=2, pipeline=2), ["a", "a", "b", "b"])
    check_nodes(Parallelism(tensor=1, pipeline=2), ["a", "b"])
    with pytest.raises(UserError, match=r"parallelism.tensor=2: ranks 0 to 1 are on a, b"):
        check_nodes(Parallelism(tensor=2, pipeline=2), ["a", "b", "a", "b"])
