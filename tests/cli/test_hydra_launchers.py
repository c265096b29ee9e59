"""Which of Hydra's launchers goes with which place, said in one line before anything is submitted."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from hydra_plugins._caching_loader import caching_loader
from hydra_plugins.shared_launcher import SharedConf, _check_same
from launcher.cli import hydra_launchers
from launcher.cli.arguments import resume_run
from launcher.core.errors import UserError
from launcher.settings.cluster import Slurm
from launcher.settings.overrides import CommandLine

LOCAL, SLURM = ({"_target_": target, "nodes": 1, "tasks_per_node": 1} for target in hydra_launchers.SUBMITIT_LAUNCHERS)


def test_others_than_hydra_submitit_launcher_are_left_alone() -> None:
    for target in (hydra_launchers.SHARED, "hydra._internal.core_plugins.basic_launcher.BasicLauncher"):
        hydra_launchers.check({"_target_": target}, submitted=True)
        hydra_launchers.check_sweep({"_target_": target}, plans=True)
    hydra_launchers.check(SLURM, submitted=False)
    hydra_launchers.check_sweep(LOCAL, plans=False)


@pytest.mark.parametrize(
    ("settings", "plans", "words"),
    [
        (LOCAL, True, "mode=plan: hydra/launcher=submitit_local would submit"),
        (LOCAL | {"tasks_per_node": 2}, False, r"hydra\.launcher\.tasks_per_node=2: .* must be 1"),
        (SLURM | {"nodes": 2}, False, r"hydra\.launcher\.nodes=2: .* cluster=slurm"),
        (SLURM, False, "no sbatch and srun"),
    ],
)
def test_what_a_launcher_would_not_do_as_asked_is_refused(
    settings: dict[str, object], plans: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=words):
        hydra_launchers.check_sweep(settings, plans)


def test_two_ways_to_submit_are_one_too_many() -> None:
    with pytest.raises(UserError, match="cluster=slurm submits by itself"):
        hydra_launchers.check(SLURM, submitted=True)


OWN_KEYS = {"_target_": hydra_launchers.SHARED, "resume": False, "additional_parameters": {}}
CLUSTER = asdict(Slurm())


def test_keys_of_the_plugin_are_those_of_the_cluster() -> None:
    """Every key that the plugin has means something, or is refused with what does."""
    config = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    assert {f.name for f in fields(config.SlurmQueueConf)} - {"_target_"} <= hydra_launchers.KEYS
    ours = {f.name for f in fields(SharedConf)} - {"_target_", "resume"}
    assert ours == hydra_launchers.KEYS
    assert hydra_launchers.SAME_KEYS | set(hydra_launchers.RENAMED_KEYS.values()) <= CLUSTER.keys()


def test_keys_of_the_launcher_are_said_in_the_words_of_the_cluster() -> None:
    keys = {"partition": "gpu", "mem_gb": 8.0, "setup": ["module load x"], "max_num_timeout": 5, "comment": "hi"}
    options = {"reservation": "r", "overcommit": True}
    found = hydra_launchers.as_cluster_keys(OWN_KEYS | keys | {"additional_parameters": options}, CLUSTER, given=())
    assert found.pop("additional_parameters") == {"comment": "hi", **options}
    assert found == {"partition": "gpu", "mem_gb": 8.0, "setup": ["module load x"], "requeues": 5}
    assert hydra_launchers.queue_keys(SLURM | keys) == {}, "those of another launcher are its own"


@pytest.mark.parametrize(
    ("keys", "cluster", "given", "words"),
    [
        ({"partition": "a"}, {"partition": "b"}, (), r"launcher\.partition=a: cluster\.partition=b is given too"),
        ({"timeout_min": 5}, {}, ("cluster.timeout_min",), r"cluster\.timeout_min=60 is given too"),
        ({"comment": "a"}, {"additional_parameters": {"comment": "b"}}, (), "additional_parameters.comment=b"),
        ({"max_num_timeout": 0}, {"requeues": 1}, (), r"max_num_timeout=0: cluster\.requeues=1"),
    ],
)
def test_a_key_that_is_given_both_ways_must_be_the_same(
    keys: dict[str, Any], cluster: dict[str, Any], given: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        hydra_launchers.as_cluster_keys(OWN_KEYS | keys, CLUSTER | cluster, given)


@pytest.mark.parametrize(
    ("keys", "submitted", "words"),
    [
        ({"partition": "gpu"}, False, r"launcher\.partition=gpu: cluster=local .* add cluster=slurm"),
        ({"tasks_per_node": 2}, True, "the tasks follow from parallelism"),
        ({"gres": "gpu:a100:2"}, True, "cluster.gpus_per_node"),
        ({"submitit_folder": "x"}, True, r"use hydra\.run\.dir"),
        ({"partitoin": "x"}, True, "partitoin: no such key; expected one of account"),
    ],
)
def test_a_key_without_meaning_here_names_what_has_one(keys: dict[str, Any], submitted: bool, words: str) -> None:
    with pytest.raises(UserError, match=words):
        hydra_launchers.check(OWN_KEYS | keys, submitted)
    hydra_launchers.check(OWN_KEYS | hydra_launchers.NO_OP_VALUES | {"gres": "nvme:1"}, submitted=True)


def test_a_resumed_run_keeps_the_keys_it_was_submitted_with(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- cluster=slurm\n")
    hydra = {
        "launcher": {"_target_": hydra_launchers.SHARED},
        "overrides": {"hydra": [*KEPT, "hydra.mode=RUN"], "task": []},
    }
    (tmp_path / ".hydra/hydra.yaml").write_text(json.dumps({"hydra": hydra}))
    arguments = resume_run(CommandLine.of(["hydra.launcher.qos=c"]), tmp_path).arguments
    assert arguments[:3] == ["cluster=slurm", KEPT[0], "hydra.launcher.qos=c"]
    local = resume_run(CommandLine.of(["cluster=local"]), tmp_path)
    assert not [key for key in local.keys if key.startswith("hydra.launcher")]


class Composer:
    """Composes a new configuration each time that it is asked."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        return OmegaConf.from_dotlist(sweep_overrides)


def test_what_a_sweeper_has_checked_is_not_composed_again() -> None:
    context: Any = SimpleNamespace(config_loader=Composer(), callbacks=None)
    loader, config = caching_loader(context), OmegaConf.create()
    checked = context.config_loader.load_sweep_config(config, ["a=1"])
    assert loader.take(config, ("a=1",)) is checked
    again = loader.take(config, ("a=1",))
    assert again == checked
    assert again is not checked


def test_a_sweeper_that_asks_for_other_points_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "3/.hydra").mkdir(parents=True)
    (tmp_path / "3/.hydra/overrides.yaml").write_text("- model.name=a\n- evaluate.temperature=0.5\n")
    for temperature, refused in ((0.5, False), (0.75, True)):
        task = ["model.name=a", f"evaluate.temperature={temperature}"]
        config = OmegaConf.create({"hydra": {"overrides": {"task": task}}})
        said = r"point 3 was evaluate\.temperature=0\.5, and the sweeper now asks for evaluate\.temperature=0\.75"
        with pytest.raises(UserError, match=said) if refused else nullcontext():
            _check_same(config, tmp_path / "3")
        _check_same(config, tmp_path / "4")  # it was not begun


KEPT = ("+hydra.launcher.additional_parameters.x=a", "hydra.launcher.qos=b")


@pytest.mark.parametrize("settings", [LOCAL, SLURM])
def test_one_run_is_not_silently_local(settings: dict[str, Any]) -> None:
    """Hydra ignores the launcher of a run that is not swept."""
    with pytest.raises(UserError, match=r"it submits the points of sweeps; add -m, or cluster=slurm for one run"):
        hydra_launchers.check_run(settings)
    hydra_launchers.check_run({"_target_": hydra_launchers.SHARED})
