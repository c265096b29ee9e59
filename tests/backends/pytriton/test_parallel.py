"""A model over several processes behind Triton answers as one process does, and all of them end together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from launcher.backends.pytriton import PyTriton
from launcher.core.admission import Admission
from launcher.core.event_loop import run_async
from launcher.core.processes import wait_for
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.megatron import Megatron
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.api.lm_eval_client import ask
from tests.backends.pytriton.tiny import BODY, COLLECTIVE_TIMEOUT_S, answer, impatient, served

pytest.importorskip("megatron.core")
ASKED = "12+34="


def check_lm_eval(http: httpx.Client, said: str) -> None:
    """Ask with lm-eval's own client; a plain forward pass over all ranks says what is right."""
    likely, texts = ask(str(http.base_url.join("/v1")), "tiny", ["46", "47"])
    assert texts[0].startswith(said.partition("\n")[0])
    for (total, _), end in zip(likely, ("46", "47"), strict=True):
        first, whole = (http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in (ASKED, ASKED + end))
        reference = http.post("/reference_logprobs", json={"tokens": whole}).json()["token_logprobs"]
        assert total == pytest.approx(sum(reference[len(first) :]), abs=1e-3)


def check_answer(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["text"] == expected["text"]
    assert found["logprobs"]["token_logprobs"] == pytest.approx(expected["logprobs"]["token_logprobs"], abs=1e-4)


def test_ranks_in_tensor_and_pipeline_answer_as_one(expected: dict[str, Any], tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served(PyTriton(), Parallelism(tensor=2, pipeline=2), tmp_path) as http:
        found = answer(http)
        check_lm_eval(http, str(found["text"]))
        started = set(psutil.Process().children(recursive=True)) - before
    check_answer(found, expected)
    _, alive = psutil.wait_procs(started, 15)
    assert not alive


def test_two_ranks_answer_as_one_idle_longer_than_any_collective_waits_and_start_again_as_one(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served(PyTriton(), Parallelism(tensor=2), tmp_path, impatient()) as http:
        started = set(psutil.Process().children(recursive=True)) - before
        check_answer(answer(http), expected)
        check_lm_eval(http, str(expected["text"]))
        time.sleep(3 * COLLECTIVE_TIMEOUT_S + 1)
        check_answer(answer(http), expected)
        (worker,) = [p for p in started if "launcher.engines.megatron.worker" in " ".join(p.cmdline())]
        worker.kill()
        assert http.post("/v1/completions", json=BODY).status_code == 503
        refusal = http.get("/health")
        assert refusal.status_code == 503
        assert refusal.json()["error"]["code"] == "engine_restarting"
        assert wait_for(lambda: http.get("/health").status_code == 200, 240)
        check_answer(answer(http), expected)
        started |= set(psutil.Process().children(recursive=True)) - before
    _, alive = psutil.wait_procs(started, 15)
    assert not alive


@pytest.mark.parametrize("dtype", [Dtype.bf16, pytest.param(Dtype.fp16, marks=pytest.mark.soak)])
def test_through_triton_the_model_gets_its_certificate_in_types_that_round(dtype: Dtype, tmp_path: Path) -> None:
    """Two ranks, so that the pass in the wider type is one of several processes, too."""
    model, layout = Model("tiny", "package:launcher/assets/tiny"), Parallelism(tensor=2)
    deployment = Deployment(model, Megatron(), layout, Optimizations(dtype=dtype), tmp_path, Admission())
    with PyTriton().serve(deployment, allocate()) as endpoint:
        checks = run_async(certificate.validate(endpoint, Validate(), frozenset(Capability)))
    assert [check for check in checks if check.ok is False] == []
    (rounding,) = (check for check in checks if check.name == "rounding")
    assert (rounding.numbers["dtype"], rounding.numbers["source"]) == (dtype.value, "measured")
