"""What is complete, what settles, what is gone, as a training run's folder changes between two looks."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from launcher.checkpoints.watcher import CheckpointWatcher, watching
from launcher.settings.watch import Watch
from tests.checkpoints.training_run import hugging_face, iteration, nemo


def names(found: tuple) -> list[str]:
    return [seen.path.name for seen in found]


def settled(watcher: CheckpointWatcher) -> list[str]:
    """Poll twice, so far apart that what did not change has settled."""
    watcher.poll()
    time.sleep(watcher.settle_s)
    watcher.poll()
    return names(watcher.snapshot.complete)


def test_an_unmarked_checkpoint_settles_and_a_marked_one_need_not(tmp_path: Path) -> None:
    iteration(tmp_path, 100, tracker=100)
    loose = hugging_face(tmp_path / "checkpoint-200")
    watcher = CheckpointWatcher(tmp_path, settle_s=0.05)
    watcher.poll()
    assert names(watcher.snapshot.complete) == ["iter_0000100"]
    assert names(watcher.snapshot.unstable) == ["checkpoint-200"]
    (loose / "tokenizer.json").write_text("{}")
    assert settled(watcher) == ["iter_0000100", "checkpoint-200"]


def test_one_that_does_not_open_is_waited_for_longer(tmp_path: Path) -> None:
    hugging_face(tmp_path / "checkpoint-10", shards=1)
    now = [0.0]
    watcher = CheckpointWatcher(tmp_path, settle_s=1, clock=lambda: now[0])
    for now[0], found in ((0.0, []), (5.9, []), (6.1, ["checkpoint-10"])):
        watcher.poll()
        assert names(watcher.snapshot.complete) == found


def test_one_step_is_one_checkpoint(tmp_path: Path) -> None:
    for name in ("gpt--step=5-last", "gpt--step=5"):
        nemo(tmp_path, name)
        (tmp_path / f"{name}-unfinished").unlink()
    watcher = CheckpointWatcher(tmp_path, settle_s=0.01)
    assert settled(watcher) == ["gpt--step=5"]
    shutil.rmtree(tmp_path / "gpt--step=5-last")
    watcher.poll()
    assert watcher.snapshot.gone == ()


def test_what_was_removed_is_gone_unless_it_was_never_finished(tmp_path: Path) -> None:
    first = iteration(tmp_path, 100, tracker=100)
    never = iteration(tmp_path, 200)
    watcher = CheckpointWatcher(tmp_path, settle_s=60)
    watcher.poll()
    shutil.rmtree(first)
    shutil.rmtree(never)
    watcher.poll()
    assert names(watcher.snapshot.gone) == ["iter_0000100"]


def test_a_folder_that_cannot_be_read_now_has_lost_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    iteration(run, 100, tracker=100)
    with watching(Watch(folder=str(run), poll_s=60), run) as watcher:
        run.rename(tmp_path / "away")
        watcher.poll()
        assert "No such file" in watcher.snapshot.error
        assert names(watcher.snapshot.complete) == ["iter_0000100"]
        (tmp_path / "away").rename(run)
        watcher.poll()
        assert watcher.snapshot.error == ""
        assert watcher.snapshot.gone == ()
