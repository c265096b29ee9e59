from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from launcher.core.errors import UserError
from launcher.core.packages import require
from launcher.engines.huggingface.engine import HuggingFace
from launcher.settings.model import Model
from tests.running import launch_here


@pytest.mark.parametrize("mode", ["run", "plan"])
@pytest.mark.parametrize("engine", ["megatron", "auto"])
def test_an_engine_without_its_packages_is_one_line_with_the_command(
    engine: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel without extras has the default model, and a command line that shows how to get its engine."""
    monkeypatch.setattr("launcher.core.packages.find_spec", _without("transformers"))
    done = launch_here(tmp_path, f"engine={engine}", f"mode={mode}", "hydra.run.dir=run")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("launcher: engine=megatron needs the package transformers: pip install 'nemo-megatron-")
    assert "Traceback" not in done.stderr
    with pytest.raises(UserError, match="engine=huggingface needs the package transformers"):
        HuggingFace().check_packages(Model())


def test_several_packages_are_named_and_none_that_is_there() -> None:
    require("x", "megatron", ["json", "email"])
    with pytest.raises(UserError, match="needs the packages no_such, no_other: pip install"):
        require("x", "megatron", ["json", "no_such", "no_other"])


def _without(package: str) -> Any:
    return lambda name: None if name == package else importlib.util.find_spec(name)
