"""A Triton to look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("pytriton")

from backends.pytriton.tiny import answer, served
from backends.pytriton.troubled import Running, start

from launcher.backends.inline import Inline
from launcher.backends.pytriton import PyTriton
from launcher.model import Parallelism


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests that leave it as it is: at most four sequences run, and none waits."""
    folder = tmp_path_factory.mktemp("served with spaces") / "run folder"
    with start(folder, PyTriton(), tokens_per_second=200, max_sequences=4, max_queue=0) as running:
        yield running


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process answers, without Triton."""
    with served(Inline(), Parallelism(), tmp_path_factory.mktemp("inline")) as http:
        return answer(http)
