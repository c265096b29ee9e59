"""A model over several processes behind Triton answers as one process does, and all of them end together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from launcher.allocation import allocate
from launcher.backends.base import Backend, Deployment
from launcher.backends.inline import Inline
from launcher.backends.pytriton import PyTriton
from launcher.core import resolve
from launcher.model import Model, Optimizations, Parallelism

pytest.importorskip("megatron.core")
TINY = "package:launcher/assets/tiny"


@contextmanager
def served(backend: Backend, parallelism: Parallelism, folder: Path) -> Iterator[httpx.Client]:
    from launcher.engines.megatron import Megatron

    if not resolve(TINY).exists():
        pytest.skip("the tiny model is not in this checkout")
    deployment = Deployment(Model("tiny", TINY), Megatron(), parallelism, Optimizations(), folder)
    with (
        backend.serve(deployment, allocate()) as endpoint,
        httpx.Client(base_url=endpoint.root, timeout=120, trust_env=False) as http,
    ):
        yield http


def answer(http: httpx.Client) -> dict[str, object]:
    body = {"model": "tiny", "prompt": "12+34=", "max_tokens": 8, "temperature": 0, "logprobs": 1}
    (choice,) = http.post("/v1/completions", json=body).raise_for_status().json()["choices"]
    return choice


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process answers, without Triton."""
    with served(Inline(), Parallelism(), tmp_path_factory.mktemp("inline")) as http:
        return answer(http)


@pytest.mark.parametrize("parallelism", [Parallelism(tensor=2), Parallelism(pipeline=2)], ids=["tensor2", "pipeline2"])
def test_several_processes_answer_as_one(parallelism: Parallelism, expected: dict[str, object], tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served(PyTriton(), parallelism, tmp_path) as http:
        found = answer(http)
        started = set(psutil.Process().children(recursive=True)) - before
    assert found["text"] == expected["text"]
    assert found["logprobs"]["token_logprobs"] == pytest.approx(expected["logprobs"]["token_logprobs"], abs=1e-4)
    _, alive = psutil.wait_procs(started, 15)
    assert not alive


def test_the_death_of_a_follower_is_said(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served(PyTriton(), Parallelism(tensor=2), tmp_path) as http:
        started = set(psutil.Process().children(recursive=True)) - before
        (follower,) = [p for p in started if "follower" in " ".join(p.cmdline())]
        follower.kill()
        body = {"model": "tiny", "prompt": "12+34=", "max_tokens": 8}
        assert http.post("/v1/completions", json=body).status_code == 503
        assert http.get("/health").status_code == 503
    _, alive = psutil.wait_procs(started, 15)
    assert not alive
