"""A server of the shipped model, and one request to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from launcher.backends.base import Backend
from launcher.core.admission import Admission
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.megatron.engine import Decision, Megatron
from launcher.engines.megatron.worker_config import Weights
from launcher.settings.model import Model, Optimizations, Parallelism

BODY = {"model": "tiny", "prompt": "12+34=", "max_tokens": 8, "temperature": 0, "logprobs": 1}


COLLECTIVE_TIMEOUT_S = 3


@dataclass(frozen=True)
class Impatient:
    """Weights that set the timeout of all process groups to `COLLECTIVE_TIMEOUT_S`."""

    weights: Weights

    def load_into(self, model: Any) -> None:
        import torch.distributed as dist
        from torch.distributed import distributed_c10d as c10d

        self.weights.load_into(model)
        dist.barrier()
        for group in c10d._world.pg_map:
            c10d._set_pg_timeout(timedelta(seconds=COLLECTIVE_TIMEOUT_S), group)


def impatient() -> Megatron:
    """Return an engine whose ranks do not wait long for each other."""
    engine = Megatron()
    settle = engine.decide

    def decide(*settings: Any) -> Decision:
        decision = settle(*settings)
        return replace(
            decision, worker_config=replace(decision.worker_config, weights=Impatient(decision.worker_config.weights))
        )

    engine.decide = decide  # type: ignore[method-assign, assignment]
    return engine


@contextmanager
def served(
    backend: Backend, parallelism: Parallelism, folder: Path, engine: Megatron | None = None
) -> Iterator[httpx.Client]:
    """Serve the model, to everybody."""
    model, admission = Model("tiny", "package:launcher/assets/tiny"), Admission()
    deployment = Deployment(model, engine or Megatron(), parallelism, Optimizations(), folder, admission)
    with (
        backend.serve(deployment, allocate()) as endpoint,
        httpx.Client(base_url=endpoint.root, timeout=120, trust_env=False) as http,
    ):
        assert http.get("/v1/models").status_code == 503, "only the validator is admitted"
        admission.open()
        yield http


def answer(http: httpx.Client) -> dict[str, Any]:
    (choice,) = http.post("/v1/completions", json=BODY).raise_for_status().json()["choices"]
    return choice
