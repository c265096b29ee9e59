"""The shipped model, served, and one question to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from launcher.allocation import allocate
from launcher.backends.base import Backend, Deployment
from launcher.model import Model, Optimizations, Parallelism

BODY = {"model": "tiny", "prompt": "12+34=", "max_tokens": 8, "temperature": 0, "logprobs": 1}


@contextmanager
def served(backend: Backend, parallelism: Parallelism, folder: Path) -> Iterator[httpx.Client]:
    from launcher.engines.megatron import Megatron

    model = Model("tiny", "package:launcher/assets/tiny")
    deployment = Deployment(model, Megatron(), parallelism, Optimizations(), folder)
    with (
        backend.serve(deployment, allocate()) as endpoint,
        httpx.Client(base_url=endpoint.root, timeout=120, trust_env=False) as http,
    ):
        yield http


def answer(http: httpx.Client) -> dict[str, object]:
    (choice,) = http.post("/v1/completions", json=BODY).raise_for_status().json()["choices"]
    return choice
