"""Commands that fail in every way: each ends as one line, and leaves no process behind."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.core import redaction
from launcher.core.errors import ResumeError, StorageError
from launcher.core.types import Status
from launcher.harness import run as runner
from launcher.harness import stored
from launcher.harness.access import Access
from launcher.harness.log import cause
from launcher.harness.run import Session
from launcher.harness.stored import Outcome
from launcher.settings.evaluate import Evaluate
from launcher.tasks.harness.base import Place
from launcher.tasks.harness_command import HarnessCommand, ResultFile
from tests.running import living

WRITE = 'echo "{\\"a\\": 0.5}" > {output}/out.json'
"""Writes a good result."""


def shell(script: str, timeout_s: float = 60.0, **settings: Any) -> HarnessCommand:
    result = ResultFile("{output}/out.json", {"a": "$.a"})
    return HarnessCommand(
        command=script, shell=True, result=result, timeout_s=timeout_s, stop_timeout_s=0.5, **settings
    )


def run(
    folder: Path, task: HarnessCommand, requests: int = 1, gone: Callable[[], str | None] = lambda: None, lost: int = 0
) -> Outcome:
    place = Place("http://127.0.0.1:9/v1", "a model's name", Path(), Evaluate())
    access = Access(place.base_url, "the-key-of-the-run", lambda: requests, lambda: lost, lambda: None)
    return runner.run("mine", task, place, access, Session(folder, gone, {"SECRET_OF_THE_RUN"}))


def log(folder: Path) -> str:
    return stored.folder(folder, "mine").log.read_text()


def test_a_command_gets_the_endpoint_and_no_secret_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_RUN", "of-the-endpoint")
    monkeypatch.setenv("OTHER_SECRET", "of-the-harness")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    show = shlex.quote(
        "import json, os; json.dump(dict(os.environ), open(os.environ['LAUNCHER_OUTPUT'] + '/env', 'w'))"
    )
    task = shell(
        f"{{python}} -c {show}; {WRITE}", environment={"A": "b"}, environment_env={"JUDGE_KEY": "OTHER_SECRET"}
    )
    assert run(tmp_path, task).finished
    output = stored.folder(tmp_path, "mine").output
    found = json.loads((output / "env").read_text())
    assert found["OPENAI_BASE_URL"] == found["OPENAI_API_BASE"] == found["LAUNCHER_BASE_URL"] == "http://127.0.0.1:9/v1"
    assert found["OPENAI_API_KEY"] == found["LAUNCHER_API_KEY"] == "the-key-of-the-run"
    assert (found["OPENAI_MODEL"], found["A"], found["JUDGE_KEY"]) == ("a model's name", "b", "of-the-harness")
    assert "127.0.0.1" in found["NO_PROXY"]
    assert "SECRET_OF_THE_RUN" not in found
    assert found["LAUNCHER_OUTPUT"] == str(output)


def test_values_are_single_words_with_and_without_a_shell(tmp_path: Path) -> None:
    code = shlex.quote("import json, sys; json.dump({'a': 1, 'words': sys.argv[2:]}, open(sys.argv[1], 'w'))")
    words = "{output}/out.json {model} --url={base_url} {{model}} '$HOME'"
    for task in (shell(f"{{python}} -c {code} {words}"), HarnessCommand(command=f"{{python}} -c {code} {words}")):
        task.result = ResultFile("{output}/out.json", {"a": "$.a"})
        assert run(tmp_path, task).fault is None
        found = json.loads((stored.folder(tmp_path, "mine").output / "out.json").read_text())
        assert found["words"] == ["a model's name", "--url=http://127.0.0.1:9/v1", "{model}", "$HOME"]


TRACEBACK = shlex.quote("print('begin'); raise ValueError('the model said nothing')")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "it exited with 3; see"),
        ("kill -9 $$", "it was killed by SIGKILL; see"),
        ("echo one; echo the last line; exit 1", "it exited with 1: the last line; see"),
        (f"{sys.executable} -c {TRACEBACK}", "it exited with 1: ValueError: the model said nothing; see"),
        (f"{sys.executable} -c {TRACEBACK}; echo bye; exit 2", "it exited with 2: ValueError: the model said nothing"),
        ("printf '\\033[31mred\\033[0m\\rfatal error: \\001no disk' >&2; exit 1", "fatal error: no disk"),
        ("no_such_program", "no_such_program: not found"),
        ("true", "out.json: there is no such file; see"),
        ("echo '{}' > {output}/out.json", "result.metrics.a: $.a: $ is an empty object, without 'a'"),
        (f"{WRITE}; exit 1", "it exited with 1"),
    ],
)
def test_a_command_that_fails_is_one_line_and_never_a_score(script: str, said: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, shell(script))
    assert outcome.fault is not None
    assert said in outcome.fault
    assert "\n" not in outcome.fault
    result = stored.results(tmp_path, {"mine": shell(script)})["mine"]
    assert not result.metrics
    assert (result.coverage["failed"], result.coverage["scored"], result.coverage["total"]) == (1, 0, 1)
    assert list(result.reasons["failed"]) == [outcome.fault]


def test_a_result_of_an_earlier_attempt_is_not_taken_for_that_of_this_one(tmp_path: Path) -> None:
    assert run(tmp_path, shell(f"{WRITE}; exit 1")).fault
    assert "was written before this command ran" in str(run(tmp_path, shell("true")).fault)


def test_its_time_is_limited_and_nothing_of_it_stays(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; (setsid sleep 300 & echo $! > {pids}); echo started; while true; do sleep 0.1; done"
    outcome = run(tmp_path, shell(script, timeout_s=1.0))
    assert str(outcome.fault).startswith("it ran for longer than timeout_s=1: started; see")
    assert not living([psutil.Process(pid) for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)])


def test_it_ends_with_the_server_and_with_what_ends_the_run(tmp_path: Path) -> None:
    assert str(run(tmp_path, shell("exec sleep 300"), gone=lambda: "the server is dead").fault).startswith(
        "the server is dead"
    )

    def interrupt() -> None:
        raise KeyboardInterrupt

    mark = f"{time.monotonic_ns()}"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", shell(f"exec sleep 300.{mark}"), gone=interrupt)
    assert stored.read(tmp_path / "other", "mine") is None
    assert not [each for each in psutil.process_iter(["cmdline"]) if mark in " ".join(each.info["cmdline"] or ())]


def test_the_log_has_no_secret_however_it_is_cut(tmp_path: Path) -> None:
    secret = "a-secret-of-forty-two-characters-in-a-line"
    redaction.forget()  # what an earlier test hid may be a part of this one
    redaction.hide(secret, "MY_KEY")
    try:
        half = len(secret) // 2
        script = f"printf '%s' {secret[:half]}; sleep 0.3; echo {secret[half:]}; printf {secret} >&2; exit 1"
        outcome = run(tmp_path, HarnessCommand(command=f"sh -c '{script}'", result=ResultFile("x", {"a": "a"})))
    finally:
        redaction.forget()
    assert log(tmp_path).count("[redacted: MY_KEY]") == 3
    every = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert not [text for text in every if secret in text]
    assert secret not in str(outcome.fault)


def test_a_harness_that_asked_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(tmp_path, shell(WRITE), requests=0)
    assert "WARNING: the endpoint answered no completion of the harness" in capsys.readouterr().err
    result = stored.results(tmp_path, {"mine": shell(WRITE)})["mine"]
    assert outcome.notes[0] in result.notes
    assert "3 of its requests got an error" in run(tmp_path / "lost", shell(WRITE), requests=0, lost=3).notes[0]


def test_completions_that_the_harness_may_have_scored_as_wrong_are_said(tmp_path: Path) -> None:
    assert not run(tmp_path, shell(WRITE), requests=2).notes
    outcome = run(tmp_path, shell(WRITE), requests=4, lost=1)
    assert (outcome.requests, outcome.lost) == (6, 1)
    assert outcome.notes[0].startswith("1 of 7 completions got an error")
    assert stored.read(tmp_path, "mine") == outcome


def test_a_name_in_lower_is_better_that_no_metric_has_is_said(tmp_path: Path) -> None:
    outcome = run(tmp_path, shell(WRITE, lower_is_better=["a", "b"]))
    assert outcome.notes == ("lower_is_better: b: the result has no such metric",)


def test_a_number_of_samples_that_is_unknown_stays_unknown(tmp_path: Path) -> None:
    run(tmp_path, shell(WRITE))
    result = stored.results(tmp_path, {"mine": shell(WRITE)})["mine"]
    assert result.metrics["a"].n is None
    assert result.harness["samples"] is None
    assert stored.UNKNOWN_N in result.notes
    assert result.coverage[Status.scored.value] == 1


def test_a_damaged_outcome_is_refused(tmp_path: Path) -> None:
    run(tmp_path, shell(WRITE))
    file = stored.folder(tmp_path, "mine").outcome
    for text in ("{}", "[]", "{", '{"schema_version": 2}', file.read_text().replace('"metrics"', '"metric"')):
        file.write_text(text)
        with pytest.raises(ResumeError, match="not the outcome of a harness"):
            stored.read(tmp_path, "mine")


def test_the_folder_of_any_name_is_inside_the_run(tmp_path: Path) -> None:
    for name in ("..", ".", "a b", "ä", "a\n", "x" * 20):
        assert stored.folder(tmp_path, name).path.resolve().parent == (tmp_path / "harness").resolve(), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("Traceback\nopenai.NotFoundError: Error code: 404\n\nsee the log\n", "openai.NotFoundError: Error code: 404"),
        ("│ KeyError: 'x' │\n╰────╯\nTask interrupted\n", "KeyError: 'x'"),
        ("10%|#\r100%|##\rdone\n", "done"),
        ("ERROR: no such task\nhelp: try ls\n", "ERROR: no such task"),
        (
            "a\n" * 100_000 + "lm_eval: error: unrecognized arguments: --x\n",
            "lm_eval: error: unrecognized arguments: --x",
        ),
    ],
)
def test_the_line_of_the_cause_is_quoted(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(text)
    assert cause(file) == said
    assert cause(file, 10**9) == said, "the log went on in a new file"


def test_a_full_disk_ends_the_harness_in_order(tmp_path: Path) -> None:
    log = stored.folder(tmp_path, "mine").log
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"harness\.log"):
        run(tmp_path, shell(WRITE))
