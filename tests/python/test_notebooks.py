"""The notebooks of ``examples/`` run from top to bottom, and are stored without their outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

import launcher
from launcher.core.run_folder import RunFolder
from tests.running import SLOW, living

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    if "tiny" in path.read_text():
        pytest.importorskip("megatron.core")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells), "store it without outputs"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    client = NotebookClient(
        notebook, timeout=240, startup_timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = "".join(str(output) for cell in cells for output in cell.outputs)
    assert "text/html" in shown, "objects show themselves as HTML"
    assert "of no model" not in shown


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2


@pytest.mark.slow
def test_an_interrupted_cell_ends_its_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    samples = RunFolder(tmp_path / "run").samples
    words = (
        "engine=echo",
        "model=none",
        "tasks=[addition]",
        "evaluate.limit=60",
        *SLOW,
        f"hydra.run.dir={tmp_path}/run",
    )
    manager, client = start_new_kernel(startup_timeout=120, kernel_name="python3", cwd=str(tmp_path))
    try:
        cell = client.execute(f"import launcher; launcher.run(*{words!r})")
        _wait(lambda: samples.exists() and samples.read_bytes().count(b"\n") >= 2)
        processes = psutil.Process(manager.provisioner.pid).children(recursive=True)
        assert living(processes)
        manager.interrupt_kernel()
        shown = _shown(client, cell)
        assert f"interrupted; continue with resume={tmp_path}/run" in shown
        assert "KeyboardInterrupt" in shown
        _wait(lambda: not living(processes))
        assert "alive" in _shown(client, client.execute("print('alive')"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kept = samples.read_bytes()
    assert launcher.load(tmp_path / "run").status == "interrupted"
    done = launcher.run(f"resume={tmp_path}/run", "engine.latency_s=0", "evaluate.limit=60", quiet=True)
    assert (done.ok, len(done.records), samples.read_bytes()[: len(kept)] == kept) == (True, 60, True)


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def _shown(client: Any, cell: str) -> str:
    """Return all that a cell printed, with its error, once it has ended."""
    found, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)
        except Empty:
            continue
        if message["parent_header"].get("msg_id") == cell:
            content = message["content"]
            if content.get("execution_state") == "idle":
                return found
            found += f"{content.get('text', '')}{content.get('ename', '')}"
    raise AssertionError(f"the cell did not end: {found}")
