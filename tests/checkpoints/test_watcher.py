"""What is complete, what settles, what is gone, as a training run's folder changes between two looks."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from launcher.checkpoints.watcher import CheckpointWatcher, scouting
from launcher.settings.watch import Watch
from tests.checkpoints.training_run import hugging_face, iteration, nemo


def names(found: tuple) -> list[str]:
    return [seen.path.name for seen in found]


def settled(scout: CheckpointWatcher) -> list[str]:
    """Look twice, so far apart that what did not change has settled."""
    scout.look()
    time.sleep(scout.settle_s)
    scout.look()
    return names(scout.view.complete)


def test_an_unmarked_checkpoint_settles_and_a_marked_one_need_not(tmp_path: Path) -> None:
    iteration(tmp_path, 100, tracker=100)
    loose = hugging_face(tmp_path / "checkpoint-200")
    scout = CheckpointWatcher(tmp_path, settle_s=0.05)
    scout.look()
    assert names(scout.view.complete) == ["iter_0000100"]
    assert names(scout.view.settling) == ["checkpoint-200"]
    (loose / "tokenizer.json").write_text("{}")
    assert settled(scout) == ["iter_0000100", "checkpoint-200"]


def test_one_that_does_not_open_is_waited_for_longer(tmp_path: Path) -> None:
    hugging_face(tmp_path / "checkpoint-10", shards=1)
    now = [0.0]
    scout = CheckpointWatcher(tmp_path, settle_s=1, clock=lambda: now[0])
    for now[0], found in ((0.0, []), (5.9, []), (6.1, ["checkpoint-10"])):
        scout.look()
        assert names(scout.view.complete) == found


def test_one_step_is_one_checkpoint(tmp_path: Path) -> None:
    for name in ("gpt--step=5-last", "gpt--step=5"):
        nemo(tmp_path, name)
        (tmp_path / f"{name}-unfinished").unlink()
    scout = CheckpointWatcher(tmp_path, settle_s=0.01)
    assert settled(scout) == ["gpt--step=5"]
    shutil.rmtree(tmp_path / "gpt--step=5-last")
    scout.look()
    assert scout.view.gone == ()


def test_what_was_removed_is_gone_unless_it_was_never_finished(tmp_path: Path) -> None:
    first = iteration(tmp_path, 100, tracker=100)
    never = iteration(tmp_path, 200)
    scout = CheckpointWatcher(tmp_path, settle_s=60)
    scout.look()
    shutil.rmtree(first)
    shutil.rmtree(never)
    scout.look()
    assert names(scout.view.gone) == ["iter_0000100"]


def test_a_folder_that_cannot_be_read_now_has_lost_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    iteration(run, 100, tracker=100)
    with scouting(Watch(folder=str(run), poll_s=60), run) as scout:
        run.rename(tmp_path / "away")
        scout.look()
        assert "No such file" in scout.view.trouble
        assert names(scout.view.complete) == ["iter_0000100"]
        (tmp_path / "away").rename(run)
        scout.look()
        assert scout.view.trouble == ""
        assert scout.view.gone == ()
