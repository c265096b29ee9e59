"""A run is composed once, and to what Hydra composes it by itself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from launcher.cli.composed_once import composed_once
from launcher.core.files import conf_folder
from launcher.pipeline.config import Run
from launcher.settings.overrides import CommandLine
from tests.running import launch_here

SWEEP = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {evaluate.limit: '3,4'}}}\n"
PLAN = ("engine=echo", "model=none", "tasks=[addition]", "mode=plan")


def handed_over(monkeypatch: pytest.MonkeyPatch, *arguments: str, once: bool) -> list[dict[str, Any]]:
    """Return what Hydra hands to a program, with its own settings, for each job of a command line."""
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])
    jobs: list[dict[str, Any]] = []

    def program(config: DictConfig) -> None:
        own = OmegaConf.to_container(HydraConfig.instance().cfg, resolve=False)
        assert OmegaConf.get_type(config) is Run
        jobs.append({"config": OmegaConf.to_container(config, resolve=False), "hydra": own})

    context = composed_once(swept="multirun" in CommandLine.parse(list(arguments)).flags) if once else nullcontext()
    with context:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(program)()
    return jobs


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("tasks=[addition,capitals]", "evaluate.limit=7", "adapters=[caching]", "hydra.job.name=mine"),
        ("hydra.mode=RUN", "evaluate.limit=2"),
        ("experiment=sweep",),
        ("evaluate.limit=3,4", "-m"),
    ],
)
def test_a_program_gets_what_hydra_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    (tmp_path / "options" / "experiment").mkdir(parents=True)
    (tmp_path / "options" / "experiment" / "sweep.yaml").write_text(SWEEP)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    folders = (f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep")
    line = (f"--config-dir={tmp_path}/options", "engine=echo", "model=none", "hydra/launcher=basic", *folders, *given)
    jobs = handed_over(monkeypatch, *line, once=True)
    assert jobs == handed_over(monkeypatch, *line, once=False)
    assert len(jobs) == (2 if "-m" in given or "experiment=sweep" in given else 1)


def test_a_run_is_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed, load = [], Hydra.compose_config
    get_mode = Hydra.get_mode

    def counted(self: Hydra, *args: Any, **kwargs: Any) -> DictConfig:
        loads_itself = "load_configuration" not in vars(self.config_loader)
        composed.append(loads_itself)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    assert launch_here(tmp_path, *PLAN).returncode == 0
    assert composed == [True, False]
    assert Hydra.get_mode is get_mode


def test_values_without_m_and_an_unknown_option_are_refused_as_before(tmp_path: Path) -> None:
    assert "several values; sweep over them with -m" in launch_here(tmp_path, *PLAN, "evaluate.limit=3,4").stderr
    assert "engine=eco: no such option (did you mean echo?)" in launch_here(tmp_path, *PLAN, "engine=eco").stderr
