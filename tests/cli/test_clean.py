"""``launcher clean`` shows what runs have left, and deletes only that, and only what no process uses."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from launcher.cli.main import dispatch
from launcher.core.lease import Lease


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def stored(path: str, *, age_s: float = 86400.0, session: dict[str, object] | None = None) -> Path:
    """Make a run's folder as Hydra and the lease leave it."""
    folder = Path(path)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text("mode: run\n")
    (folder / "samples.jsonl").write_text("x" * 3_000_000)
    if session is not None:
        (folder / "session.json").write_text(json.dumps(session))
    return aged(folder, age_s)


def aged(folder: Path, age_s: float = 86400.0) -> Path:
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - age_s,) * 2, follow_symlinks=False)
    return folder


def session(pid: int, host: str = socket.gethostname()) -> dict[str, object]:
    return {"host": host, "pid": pid, "job_id": None, "began_at": datetime.now(UTC).isoformat()}


def test_nothing_is_deleted_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = stored("outputs/d/1", age_s=5 * 86400), stored("multirun/d/2", age_s=3600)
    assert dispatch(["clean"]) == 0
    shown = capsys.readouterr().out
    assert "2.9 MiB      5.0 days  run    outputs/d/1" in shown
    assert "Nothing was deleted. With --yes, 2 of these" in shown
    assert old.is_dir()
    assert new.is_dir()


@pytest.mark.parametrize(("what", "file"), [("race", "race.json"), ("check", "servers.json")])
def test_a_folder_with_the_runs_of_a_race_is_one_thing(
    what: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in "ab":
        stored(f"outputs/d/1/{label}", age_s=5 * 86400)
    Path("outputs/d/1", file).write_text("{}")
    aged(Path("outputs/d/1"), 5 * 86400)
    Path("outputs/notes").mkdir()
    Path("outputs/notes", file).write_text("{}")  # beside no run
    assert dispatch(["clean", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert f"5.7 MiB      5.0 days  {what:<5}  outputs/d/1\n" in shown
    assert not Path("outputs/d").exists()
    assert Path("outputs/notes", file).exists()


def test_what_is_younger_and_what_is_no_run_stays(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = stored("outputs/d/1", age_s=5 * 86400), stored("outputs/e/2", age_s=3600)
    Path("outputs/notes").mkdir()
    Path("outputs/notes/precious.txt").write_text("x")
    Path("outputs/link").symlink_to(stored("elsewhere/3"))
    assert dispatch(["clean", "--older-than", "2", "--yes"]) == 0
    assert not old.parent.exists(), "the folder of a day is empty"
    assert new.is_dir()
    assert Path("outputs/notes/precious.txt").exists()
    assert Path("elsewhere/3/samples.jsonl").exists()
    assert "Deleted 1." in capsys.readouterr().out


def test_a_sweep_goes_as_a_whole_or_stays_as_a_whole() -> None:
    sweep = Path("multirun/s")
    stored("multirun/s/0"), stored("multirun/s/1", session=session(os.getpid()))
    (sweep / "multirun.yaml").write_text("")
    aged(sweep)
    assert dispatch(["clean", "--yes"]) == 0
    assert (sweep / "0/samples.jsonl").exists()
    (sweep / "1/session.json").unlink()
    assert dispatch(["clean", "--yes"]) == 0
    assert not sweep.exists()


@pytest.mark.parametrize("holder", ["this process", "another host", "a job", "just written"])
def test_what_is_in_use_stays(holder: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored("outputs/1")
    if holder == "this process":
        Lease(folder)
    elif holder == "another host":
        (folder / "session.json").write_text(json.dumps(session(1, "node17")))
    elif holder == "a job":
        (folder / "slurm").mkdir()
        (folder / "slurm/job.json").write_text('{"job_id": "7"}')
    aged(folder, 1.0 if holder == "just written" else 3600.0)
    assert dispatch(["clean", "--yes"]) == 0
    assert folder.is_dir()
    assert "KEPT: " in capsys.readouterr().out


def test_a_number_that_a_later_process_has_does_not_keep_a_folder() -> None:
    """The process of the session has ended, and its number was given to another one since."""
    began = datetime.fromtimestamp(psutil.Process(os.getpid()).create_time() - 3600, UTC).isoformat()
    folder = stored("outputs/1", session=session(os.getpid()) | {"began_at": began})
    assert dispatch(["clean", "--yes"]) == 0
    assert not folder.exists()


def test_caches_are_listed_and_deleted_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    caches = [Path("cache/launcher/lm_eval-1.json"), Path("home/.cache/launcher/answers/answers.1.sqlite")]
    for file in caches:
        file.parent.mkdir(parents=True)
        file.write_text("x")
    assert dispatch(["clean", "--yes"]) == 0
    assert "There is nothing to delete here" not in capsys.readouterr().out
    assert all(file.exists() for file in caches)
    assert dispatch(["clean", "--caches", "--yes"]) == 0
    assert not any(file.exists() for file in caches)


def test_a_folder_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["clean", "outpust"]) == 1
    assert (
        capsys.readouterr().err
        == "launcher: clean outpust: no such folder; expected one that holds runs, such as outputs\n"
    )
