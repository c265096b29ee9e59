"""A first word without ``=`` is a command; any other command line is Hydra's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import commands
from launcher.cli.main import dispatch
from tests.running import launch_here

ROOT = Path(__file__).parents[2]
Lines = Callable[[], list[str]]


@pytest.fixture
def errors(capfd: pytest.CaptureFixture[str]) -> Lines:
    """Return the lines on standard error since the last call."""
    return lambda: capfd.readouterr().err.splitlines()


def submitted(folder: Path) -> Path:
    """A run folder whose job SLURM has forgotten or never knew."""
    (folder / "slurm").mkdir(parents=True)
    (folder / "slurm/job.json").write_text(json.dumps({"job_id": "7", "log_folder": str(folder / "slurm")}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["statsu"],
            [
                "statsu: no such command (did you mean status?)",
                "expected one of eval, serve, check, ",
                "key=value",
            ],
        ),
        (
            ["servee"],
            [
                "servee: no such command (did you mean serve?);",
                "expected one of eval, serve, check, ",
            ],
        ),
        (["status"], ["status: the following arguments are required: RUN"]),
        (["eval"], ["eval: the following arguments are required: TARGET; usage:"]),
        (["score"], ["score: the following arguments are required: RUN; usage:"]),
        (["convert", "a"], ["convert: the following arguments are required: FOLDER; usage:"]),
        (["check", "127.0.0.1:8000"], ["127.0.0.1:8000: no such file or folder", "begins with http://127.0.0.1:8000"]),
        (["eval", "gpu-7:8000/v1"], ["a server's URL begins with http://gpu-7:8000/v1"]),
        (["clean", "--older-than", "-1"], ["clean: --older-than=-1: expected a number of days, 0 or more"]),
        (["clean", "--older-than", "x"], ["clean: --older-than=x: expected a number"]),
        (["convert", "a", "convert.format=hf"], ["convert: FOLDER is missing beside the setting convert.format=hf"]),
        (
            ["logs", "a", "--level", "warn"],
            ["logs: --level=warn: expected one of debug, info,", "(did you mean warning?)"],
        ),
        (["help", "evalute"], ["(did you mean evaluate?)"]),
        (["help", "comprae"], ["(did you mean compare?)"]),
        (["clean", "--older-than", "nan"], ["clean: --older-than=nan: expected a number of days, 0 or more"]),
        (["status", "a", "b"], ["status: unrecognized arguments: b"]),
        (["cancel", ""], ["cancel: RUN is empty"]),
        (["status", "step=1,a"], ["step=1,a: no job was submitted", "step=1,a/slurm/job.json", "nor such a folder"]),
        (["mode=status", "run=step=1,a"], ["step=1,a: no job was submitted"]),
        (["mode=cancel"], ["run: a value is required", "run=<run folder>"]),
        (["mode=cancel", "run=a", "engine=echo"], ["engine=echo: mode=cancel takes no setting but run="]),
        (["hf_abcdefghijklmnopqrstuvwxyz0123456789"], ["...: no such command"]),
        (["~nothing"], ["nothing"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], errors: Lines) -> None:
    assert dispatch(arguments) == 1
    (line,) = errors()
    assert [word for word in words if word not in line] == []


def test_both_spellings_ask_for_the_same_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stand-ins for SLURM's two commands tell what they were asked."""
    folder, tools = submitted(tmp_path / "run, step=1"), tmp_path / "bin"
    tools.mkdir()
    for name, answer in {"squeue": "echo 'RUNNING|None'", "scancel": f"echo $* >> {tmp_path}/cancelled"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    shown = []
    for arguments in (["status", str(folder)], ["mode=status", f"run='{folder}'"]):
        assert dispatch(arguments) == 0
        shown.append(capfd.readouterr().out)
    assert shown[0] == shown[1]
    assert "state    RUNNING" in shown[0]
    for arguments in (["cancel", str(folder)], ["mode=cancel", f"run='{folder}'"]):
        assert dispatch(arguments) == 0
    assert (tmp_path / "cancelled").read_text() == "7\n7\n"


def test_every_command_is_described(capfd: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["help"]) == 0
    listed = capfd.readouterr().out
    for name in commands.COMMANDS:
        assert f"launcher {name}" in listed
        assert dispatch(["help", name]) == 0
        assert "for example:\n  launcher " in capfd.readouterr().out
    assert dispatch(["--help"]) == 0
    assert commands.listing() in capfd.readouterr().out


def test_a_command_imports_neither_hydra_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from launcher.cli.main import dispatch\n"
        f"print(dispatch(['status', {str(submitted(tmp_path))!r}]))\n"
        "print(sorted({'hydra', 'omegaconf', 'torch', 'aiohttp', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.splitlines()[-2:] in (["0", "[]"], ["1", "[]"]), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("launcher ev", {"eval"}),
        ("launcher compare --o", {"--out"}),
        ("launcher adapters cach", {"caching"}),
        ("launcher help judg", {"judge"}),
        ("launcher eval tiny evaluate.li", {"evaluate.limit="}),
        ("launcher eval tiny model=tiny backend=ex", {"backend=external"}),
        ("launcher backend=ex", {"backend=external"}),
    ],
)
def test_a_shell_is_told_what_may_follow(
    line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    done = launch_here(tmp_path, "-sc", "query=bash")
    assert (done.returncode, done.stderr) == (0, "")
    assert expected <= set(done.stdout.split())
