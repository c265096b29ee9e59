"""Which step a checkpoint is of, and whether it is written to its end, for each layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.checkpoints.iterations import TRACKER
from launcher.checkpoints.states import State, checkpoints, inspect, step_of
from tests.checkpoints.training_run import hugging_face, iteration, nemo


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("iter_0000100", 100),
        ("iteration-7", 7),
        ("step=100", 100),
        ("epoch=2-step=1500.ckpt", 1500),
        ("global_step250", 250),
        ("checkpoint-100", 100),
        ("ckpt_12", 12),
        ("llama3--val_loss=1.25-step=99-consumed_samples=400.0-last", 99),
        ("my-checkpoint-2--step=99", 99),
        ("my_run_step_5.nemo", 5),
        ("release", None),
        ("final", None),
        ("checkpoint-1.5B", None),
        ("missteps3", None),
        ("epoch=3", None),
    ],
)
def test_the_step_is_that_of_the_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def state(path: Path) -> State:
    seen = inspect(path)
    assert seen is not None
    return seen.state


def test_megatron_s_tracker_says_what_is_complete(tmp_path: Path) -> None:
    first = iteration(tmp_path, 100)
    assert state(first) is State.unmarked
    (tmp_path / TRACKER).write_text("")
    assert state(first) is State.unmarked
    second = iteration(tmp_path, 200, tracker=100)
    assert (state(first), state(second)) == (State.complete, State.unfinished)
    seen = inspect(second)
    assert seen is not None
    assert seen.reason == f"{TRACKER} says 100"
    (first / "__0_0.distcp").write_bytes(b"short")
    assert state(first) is State.unmarked


def test_a_checkpoint_without_its_index_is_not_complete(tmp_path: Path) -> None:
    folder = iteration(tmp_path, 100, tracker=100)
    (folder / ".metadata").unlink()
    seen = inspect(folder)
    assert seen is not None
    assert (seen.state, seen.opens) == (State.unmarked, False)


def test_nemo_s_mark_says_what_is_unfinished(tmp_path: Path) -> None:
    folder = nemo(tmp_path, "gpt--val_loss=1.00-step=99-consumed_samples=400.0")
    assert state(folder) is State.unfinished
    (tmp_path / f"{folder.name}-unfinished").unlink()
    assert state(folder) is State.unmarked
    assert [seen.step for seen in checkpoints(tmp_path, {})] == [99]


def test_hugging_face_s_trainer_writes_its_state_last(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "checkpoint-10", shards=1)
    (folder / "trainer_state.json").write_text("{}")
    assert state(folder) is State.unmarked  # a shard is missing
    other = hugging_face(tmp_path / "checkpoint-20")
    assert state(other) is State.unmarked
    (other / "trainer_state.json").write_text("{}")
    assert state(other) is State.complete


def test_a_temporary_name_is_not_a_checkpoint_yet(tmp_path: Path) -> None:
    for name in ("tmp-checkpoint-10", "step_10.partial", "step_10_tmp"):
        assert state(hugging_face(tmp_path / name)) is State.unfinished


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_text("x")
    (tmp_path / "log_step_5.txt").write_text("x")
    (tmp_path / ".step_7").mkdir()
    (tmp_path / "step_8").mkdir()  # nothing in it yet
    iteration(tmp_path / "other", 1, tracker=1)
    hugging_face(tmp_path / "final")
    assert [(seen.path.name, seen.step, seen.key) for seen in checkpoints(tmp_path, {})] == [("final", None, "final")]
