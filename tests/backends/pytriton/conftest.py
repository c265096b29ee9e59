"""A shared Triton, and a folder for temporary files that must be empty afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pytriton")

from launcher.backends.inline import Inline
from launcher.backends.pytriton import PyTriton
from launcher.settings.model import Parallelism
from tests.backends.pytriton.tiny import answer, served
from tests.backends.pytriton.troubled import Running, start

OF_WANDB = ("wandb-artifacts", "wandb-media")
"""Folders that wandb makes when another package imports it, and removes when the process ends."""


@pytest.fixture(scope="package", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give all tests here, and all that they start, a folder for temporary files, and look what is left in it."""
    tmp_path_factory.getbasetemp()  # pytest's own stays where it is
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="lt", dir="/tmp") as folder:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        left = sorted(path.relative_to(folder).as_posix() for path in Path(folder).glob("launcher-*/*"))
        names = [path.name for path in Path(folder).iterdir() if not path.name.endswith(OF_WANDB)]
        left += sorted(name for name in names if not name.startswith("launcher-pytriton-"))
        assert set(left) <= {f"launcher-pytriton-{os.getuid()}/lock"}


@pytest.fixture(scope="package")
def server(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests that leave it as it is: at most four sequences run, and none waits."""
    folder = tmp_path_factory.mktemp("served with spaces") / "run folder"
    with start(folder, PyTriton(), tokens_per_second=200, max_sequences=4, max_queue=0) as running:
        yield running


@pytest.fixture(scope="package")
def expected(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process answers, without Triton."""
    with served(Inline(), Parallelism(), tmp_path_factory.mktemp("inline")) as http:
        return answer(http)
