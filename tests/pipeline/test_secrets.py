"""Nothing that a run, a sweep or a submission leaves behind or prints holds a secret, wherever it was planted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.api.app import create_app
from launcher.asgi.server import bind, server_log, serving
from launcher.cli.app import launch
from launcher.core import redaction
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=6")
PLANTED = "Zx81mnQ4pLs7Rt2Vw9"
EXTERNAL = ("backend=external", "engine=none", "model=none", "tasks=[addition]", "evaluate.limit=6")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; this process's arguments are given back."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    yield tmp_path / "here"
    redaction.forget()


def leaks(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder whose name or content has one of the secrets."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path.relative_to(folder).as_posix()
        for path in files
        if any(secret.encode() in path.read_bytes() or secret in path.as_posix() for secret in secrets)
    ]


@pytest.mark.parametrize(
    "words",
    [
        [*EXTERNAL, "backend.url=http://127.0.0.1:9/v1", f"backend.api_key_env={PLANTED}"],
        [*EXTERNAL, "backend.url=http://127.0.0.1:9/v1", "backend.api_key_env=sk-12345abcdef"],
        [*EXTERNAL, "backend.url=http://127.0.0.1:9/v1", f"backend.api_key={PLANTED}"],
        [*EXTERNAL, f"backend.url=http://user:{PLANTED}@127.0.0.1:9/v1"],
        [*ECHO, "adapters=[payload]", f"+adapters.payload.add_headers.Authorization='Bearer {PLANTED}'"],
        ["-m", *ECHO, "adapters=[payload]", f"+adapters.payload.add_headers.X-Any={PLANTED},b"],
        [*ECHO, f"+hydra.job.env_set.HF_TOKEN={PLANTED}"],
        ["-m", *ECHO, "cluster=slurm", f"cluster.setup=['export HF_TOKEN={PLANTED}']"],
    ],
    ids=lambda words: words[-1].partition("=")[0],
)
def test_a_secret_on_the_command_line_is_one_line_and_no_folder(
    words: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(words) == 1
    said = capfd.readouterr()
    assert not re.search(f"{PLANTED}|12345abcdef", said.out + said.err)
    assert len(said.err.splitlines()) == 1
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], []),
        (["-m", "evaluate.seed=1,2"], []),
        (["-m", "experiment=plain,planted", "hydra/launcher=shared"], ["multirun"]),
        (["-m", "experiment=plain,planted", "hydra/launcher=basic"], ["multirun"]),
    ],
    ids=["run", "sweep", "point", "point of another launcher"],
)
def test_a_secret_in_an_option_file_is_written_nowhere(
    words: list[str], left: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = place.parent / "options" / "experiment"
    options.mkdir(parents=True)
    planted = {"adapters": {"payload": {"add_headers": {"X-Team": PLANTED}}}}
    (options / "plain.yaml").write_text("# @package _global_\nevaluate: {seed: 1}\n")
    (options / "planted.yaml").write_text(f"# @package _global_\n{json.dumps(planted)}\n")
    chosen = [] if left else ["experiment=planted"]
    code = launch([*words, f"--config-dir={options.parent}", *ECHO, "adapters=[payload]", *chosen])
    said = capfd.readouterr()
    assert code == 1
    assert "+adapters.payload.headers_env.X-Team=MY_VARIABLE" in said.err
    assert PLANTED not in said.out + said.err
    assert [path.name for path in place.iterdir()] == left
    assert not leaks(place, PLANTED)
    if left:
        assert len(list(place.rglob("results.json"))) == 2, "the other point has run"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("adapters: {payload: {add: {note: !!binary Wng4MW1uUTRwTHM3UnQyVnc5}}}", "adapters.payload.add.note: "),
        ("adapters: {payload: {add: {password: 918273645546}}}", "adapters.payload.add.password: "),
        (f"model: {{name: {{password: {PLANTED}}}}}", "a mapping stands at model.name"),
        (f"model: {{name: [{PLANTED}]}}", "a list stands at model.name"),
        (f"model: {{bounds: {{metadata_mb: {PLANTED}}}}}", "'...' of type 'str'"),
    ],
)
def test_no_kind_of_value_of_an_option_file_is_repeated(
    content: str, said: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = place.parent / "options" / "experiment"
    options.mkdir(parents=True)
    (options / "planted.yaml").write_text(f"# @package _global_\n{content}\n")
    code = launch([f"--config-dir={options.parent}", *ECHO, "adapters=[payload]", "experiment=planted"])
    seen = capfd.readouterr()
    assert code == 1
    assert said in seen.err
    assert not re.search(f"{PLANTED}|918273645546|Traceback", seen.out + seen.err)
    assert len(seen.err.splitlines()) == 1
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("${oc.env:${model.name}}", "MY_TOKEN"),
        ("${oc.env:MY_${model.name}}", "TOKEN"),
        ("${oc.${model.name}:MY_TOKEN}", "env"),
        ("${oc.env:NOT_THERE,${oc.env:${model.name}}}", "MY_TOKEN"),
        ("${oc.decode:'\\${oc.env:${model.name}}'}", "MY_TOKEN"),
    ],
)
@pytest.mark.parametrize("key", ["+adapters.payload.add.user", "hydra.run.dir"])
def test_a_computed_interpolation_shows_no_secret(
    text: str, name: str, key: str, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", PLANTED)
    plan = ["mode=plan"] if key.startswith("+") else []
    quoted = text.replace("'", "\\'")
    code = launch([*plan, *ECHO[:1], *ECHO[2:], f"model.name={name}", "adapters=[payload]", f"{key}='{quoted}'"])
    seen = capfd.readouterr()
    assert code == 1
    assert PLANTED not in seen.out + seen.err
    assert "Traceback" not in seen.err
    assert not [path for path in place.rglob("*") if PLANTED in path.as_posix()]


class Leaking:
    """A server that tells everything that it was sent: in headers, in bodies, and as the reason of an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked, parts, start = [], [], dict[str, Any]()

        async def received() -> Message:
            asked.append(await receive())
            return asked[-1]

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, received, held)
        said = b"".join(message.get("body", b"") for message in asked if "body" in message).decode()
        body, status = json.loads(b"".join(parts) or b"{}"), start["status"]
        self._count += "user" in said
        if self._count % 3 == 2 and "user" in said:
            status, body = 400, {"error": {"message": f"wrong key: {headers.get('authorization')} {said} {headers}"}}
        data = json.dumps({**body, "told": [headers, said]}).encode()
        shown = [(b"x-told", json.dumps(headers).encode()), (b"content-length", str(len(data)).encode())]
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({"type": "http.response.start", "status": status, "headers": [*kept, *shown]})
        await send({"type": "http.response.body", "body": data})


@contextmanager
def leaking(folder: Path) -> Iterator[str]:
    """Serve the echo engine through `Leaking`; yield the URL."""
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), folder)
    with (
        bind("127.0.0.1", 0) as bound,
        server_log(folder / "theirs.log") as log,
        deployment.engine.load(deployment, allocate()) as runner,
        serving(Leaking(create_app(runner, ready_timeout_s=60, log=log)), bound, log, 1.0),
    ):
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_secrets_by_name_are_used_and_written_nowhere_and_may_be_changed(place: Path) -> None:
    first = {"MY_KEY": "kPLANT0A1", "MY_HEADER": 'Bearer "hPLANT0<1>"', "MY_BODY": "bPLANT&0A1"}
    asked = (
        *(*EXTERNAL, "backend.api_key_env=MY_KEY", "adapters=[payload,caching,request_log]"),
        *("+adapters.payload.headers_env.X-Team=MY_HEADER", "+adapters.payload.add_env.user=MY_BODY"),
        *("adapters.caching.folder=cache", "adapters.caching.upstream_id=it", "evaluate.min_coverage=0"),
        *("validate.skip=[greedy repeats]", "evaluate.concurrency=1"),
    )
    with leaking(place.parent) as url:
        done = run(place, *asked, f"backend.url={url}", "hydra.run.dir=run", **first)
        assert done.returncode == 0, done.stderr
        told = (place / "run/requests.jsonl").read_text()
        assert "[redacted: MY_KEY]" in told, "the server told the key, so that it could leak"
        assert "[redacted: MY_HEADER]" in told
        assert "[redacted: MY_BODY]" in (place / "run/samples.jsonl").read_text()
        assert not leaks(place, "PLANT")
        assert "PLANT" not in done.stdout + done.stderr
        rotated = {name: value.replace("0", "7") for name, value in first.items()}
        resumed = run(place, "resume=run", **rotated)
        assert resumed.returncode == 0, resumed.stderr
        again = run(place, *asked, f"backend.url={url}", "hydra.run.dir=again", **rotated)
        assert again.returncode == 0, again.stderr
        counts = json.loads((place / "again/caching.json").read_text())
        assert counts["from_folder"] > 0, "a changed key asks for the same"
        assert not leaks(place, "PLANT")
        missing = run(place, *asked, f"backend.url={url}", "hydra.run.dir=missing")
        assert missing.returncode == 1
        assert "MY_BODY: this environment variable is not set" in missing.stderr


@pytest.mark.slow
def test_a_server_that_a_command_starts_gets_secrets_by_name(place: Path) -> None:
    script = "echo it has $MY_OWN >&2; exit 3"
    done = run(
        place,
        *(*EXTERNAL[1:], "backend=command", f"backend.command=sh -c '{script}' {{port}}", "hydra.run.dir=run"),
        "+backend.environment_env.MY_OWN=THEIRS",
        THEIRS="PLANT0A1b2",
    )
    assert done.returncode == 1
    assert "it has [redacted: THEIRS]" in done.stderr
    assert leaks(place, "PLANT0A1b2") == [], "the launcher writes what the server says, without the secrets it knows"
    assert (place / "run/server.log").stat().st_mode & 0o777 == 0o600


def test_a_submitted_job_holds_names_only(place: Path) -> None:
    """The commands of SLURM are stand-ins: nothing but what is written for a job is looked at."""
    pytest.importorskip("submitit")
    programs = place.parent / "bin"
    programs.mkdir()
    for name, line in (("sbatch", "echo Submitted batch job 7"), ("srun", "exit 1"), ("squeue", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    secrets = {"MY_KEY": "kPLANT0A1", "MY_HEADER": "hPLANT0A1"}
    done = run(
        place,
        *(*ECHO, "cluster=slurm", "cluster.wait=false", "hydra.run.dir=step=1,a", "backend.api_key_env=MY_KEY"),
        *("adapters=[payload]", "+adapters.payload.headers_env.X-Team=MY_HEADER", "cluster.environment=[MY_KEY]"),
        PATH=f"{programs}:{os.environ['PATH']}",
        **secrets,
    )
    assert done.returncode == 0, done.stderr
    written = place / "step=1,a/slurm"
    assert list(written.glob("*.pkl"))
    assert list(written.glob("*.sh"))
    assert not leaks(place, "PLANT")
    assert "PLANT" not in done.stdout + done.stderr
