"""Which of Hydra's launchers goes with which place, said in one line before anything is submitted."""

from __future__ import annotations

import pytest

from launcher import launchers
from launcher.errors import UserError

LOCAL, SLURM = ({"_target_": target, "nodes": 1, "tasks_per_node": 1} for target in launchers.STOCK)


def test_others_than_hydra_submitit_launcher_are_left_alone() -> None:
    for target in (launchers.SHARED, "hydra._internal.core_plugins.basic_launcher.BasicLauncher"):
        launchers.check({"_target_": target}, submitted=True)
        launchers.check_sweep({"_target_": target}, plans=True)
    launchers.check(SLURM, submitted=False)
    launchers.check_sweep(LOCAL, plans=False)


@pytest.mark.parametrize(
    ("settings", "plans", "words"),
    [
        (LOCAL, True, "mode=plan: hydra/launcher=submitit_local would submit"),
        (LOCAL | {"tasks_per_node": 2}, False, r"hydra\.launcher\.tasks_per_node=2: .* accepted is 1"),
        (SLURM | {"nodes": 2}, False, r"hydra\.launcher\.nodes=2: .* cluster=slurm"),
        (SLURM, False, "no sbatch and srun"),
    ],
)
def test_what_a_launcher_would_not_do_as_asked_is_refused(
    settings: dict[str, object], plans: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=words):
        launchers.check_sweep(settings, plans)


def test_two_ways_to_submit_are_one_too_many() -> None:
    with pytest.raises(UserError, match="cluster=slurm submits by itself"):
        launchers.check(SLURM, submitted=True)
