"""The task of the tests of faults."""

from __future__ import annotations

import pytest

from launcher.tasks.generation import Generation
from tests.backends.ray.ray_faults import sums


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return sums(tmp_path_factory.mktemp("task") / "sums.jsonl")
