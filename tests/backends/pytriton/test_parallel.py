"""A model over several processes behind Triton answers as one process does, and all of them end together."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest
from api.lm_eval_client import ask
from backends.pytriton.tiny import BODY, answer, served

from launcher.backends.pytriton import PyTriton
from launcher.model import Parallelism

pytest.importorskip("megatron.core")
pytest.importorskip("lm_eval")
ASKED = "12+34="


def check_lm_eval(http: httpx.Client, said: str) -> None:
    """Ask with lm-eval's own client; a plain forward pass over all ranks says what is right."""
    likely, texts = ask(str(http.base_url.join("/v1")), "tiny", ["46", "47"])
    assert texts[0].startswith(said.partition("\n")[0])
    for (total, _), end in zip(likely, ("46", "47"), strict=True):
        first, whole = (http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in (ASKED, ASKED + end))
        reference = http.post("/reference_logprobs", json={"tokens": whole}).json()["token_logprobs"]
        assert total == pytest.approx(sum(reference[len(first) :]), abs=1e-3)


@pytest.mark.parametrize(
    "parallelism", [Parallelism(tensor=2), Parallelism(tensor=2, pipeline=2)], ids=["tensor2", "tensor2_pipeline2"]
)
def test_several_processes_answer_as_one(parallelism: Parallelism, expected: dict[str, object], tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served(PyTriton(), parallelism, tmp_path) as http:
        found = answer(http)
        check_lm_eval(http, str(found["text"]))
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
        assert http.post("/v1/completions", json=BODY).status_code == 503
        assert http.get("/health").status_code == 503
    _, alive = psutil.wait_procs(started, 15)
    assert not alive
