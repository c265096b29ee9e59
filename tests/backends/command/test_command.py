"""Servers that a command starts: a small one, and the launcher itself."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.backends.command import Command, process
from launcher.core.errors import ServerError, UserError
from launcher.core.reaped import REAPER
from launcher.core.types import Endpoint, Record
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.none import Nothing
from launcher.monitor.health import Timing, watch
from launcher.settings.evaluate import Evaluate
from launcher.settings.model import Model, Optimizations, Parallelism
from tests.evaluate.asking import evaluate

ROOT = Path(__file__).parents[3]
SERVER = ROOT / "tests" / "evaluate" / "evaluation_server.py"
PYTHON = shlex.quote(sys.executable)
LISTER = f"{PYTHON} {shlex.quote(str(Path(__file__).with_name('lister.py')))} {{port}}"


@contextmanager
def served(folder: Path, command: str, model: Model | None = None, **settings: object) -> Iterator[Endpoint]:
    deployment = Deployment(model or Model("none"), Nothing(), Parallelism(), Optimizations(), folder)
    with Command(command, **settings).serve(deployment, allocate()) as endpoint:  # type: ignore[arg-type]
        yield endpoint


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.root.rpartition(":")[2])


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_while_it_is_asked_to(tmp_path: Path) -> None:
    with served(tmp_path, f"{LISTER} theirs --after 0.5", engine="lister") as endpoint:
        assert (endpoint.model, endpoint.backend, endpoint.engine) == ("theirs", "command", "lister")
        assert not endpoint.is_builtin
        assert endpoint.exit_reason() is None
        assert listens(port_of(endpoint))
    assert not listens(port_of(endpoint))
    assert "listening" in (tmp_path / "server.log").read_text()


def test_what_the_launcher_knows_reaches_it(tmp_path: Path) -> None:
    with served(tmp_path, f"{LISTER} {{model}}", Model("by this name")) as endpoint:
        assert endpoint.model == "by this name"


def test_the_environment_reaches_it(tmp_path: Path) -> None:
    script = f'exec {LISTER} "$NAMED"'
    with served(tmp_path, f"sh -c {shlex.quote(script)}", environment={"NAMED": "so"}) as endpoint:
        assert endpoint.model == "so"


def test_the_model_must_be_clear(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"backend.model: the server lists 2 models; set it to one of: a, b"),
        served(tmp_path, f"{LISTER} a b"),
    ):
        pass
    deployment = Deployment(Model(), Nothing(), Parallelism(), Optimizations(), tmp_path)
    with Command(f"{LISTER} a b", model="b").serve(deployment, allocate()) as endpoint:
        assert endpoint.model == "b"


def test_the_key_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "secret")
    with served(tmp_path, f"{LISTER} a --key secret", api_key_env="THEIR_KEY") as endpoint:
        assert endpoint.api_key == "secret"
    with (
        pytest.raises(UserError, match=r"refuses the API key \(HTTP 401\); no key was sent"),
        served(tmp_path, f"{LISTER} a --key secret"),
    ):
        pass


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "no-such-program {port}",
            r"no-such-program exited with 127: no-such-program: No such file or directory; see .*log",
        ),
        (
            "sh -c 'echo no memory for {port}; exit 4'",
            r"the server ended: sh exited with 4: no memory for \d+; see .*log",
        ),
        ("sh -c 'kill -9 $$; {port}'", r"sh was killed by SIGKILL; see"),
    ],
)
def test_one_that_does_not_start_is_one_line(tmp_path: Path, command: str, said: str) -> None:
    with pytest.raises(ServerError, match=said) as told, served(tmp_path, command):
        pass
    assert "\n" not in str(told.value)


def test_one_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    said = r"/health answered HTTP 404 within 6 s; see .*server.log"
    with (
        pytest.raises(ServerError, match=said),
        served(tmp_path, f"{LISTER} a {shlex.quote(str(tmp_path))}", ready_path="/health", start_timeout_s=6),
    ):
        pass
    assert not [each for each in psutil.process_iter() if str(tmp_path) in " ".join(cmdline(each))]


def test_the_plan_shows_the_command() -> None:
    deployment = Deployment(Model(path="a/b"), Nothing(), Parallelism(tensor=2), Optimizations(), Path())
    plan = Command("serve {checkpoint} --port {port} -tp {tensor}").plan(deployment, allocate())
    assert plan["command"] == ["serve", "a/b", "--port", "<any free port>", "-tp", "2"]


def test_the_log_of_a_starting_server_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "PROGRESS_INTERVAL_S", 0.3)
    with served(tmp_path, f"sh -c 'echo loading; exec {LISTER} a --after 1.5'"):
        pass
    assert "s: loading" in capsys.readouterr().err


def test_a_starting_server_may_log_a_lot(tmp_path: Path) -> None:
    """A server may log more than a pipe holds, in one line."""
    with served(tmp_path, f"sh -c 'head -c 1000000 /dev/zero; exec {LISTER} a'") as endpoint:
        assert endpoint.model == "a"
    assert (tmp_path / "server.log").stat().st_size > 1_000_000


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"backend.port={port}: taken"), served(tmp_path, f"{LISTER} a", port=port):
            pass
    assert not (tmp_path / "server.log").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"command": "serve"}, r"has no \{port\}; add it .*, or set backend.port"),
        ({"command": "{port}", "port": 70000}, "backend.port is 70000"),
        ({"command": "{port}", "start_timeout_s": 0}, "backend.start_timeout_s is 0"),
        ({"command": "{port}", "ready_path": "health"}, "backend.ready_path=health: must be a path"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Command(**settings)  # type: ignore[arg-type]


def test_one_that_dies_is_known_to_be_dead_with_its_last_words(tmp_path: Path) -> None:
    with served(tmp_path, f"{LISTER} a") as endpoint, watch(endpoint, tmp_path) as health:
        assert not health.dead.is_set()
        with suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{endpoint.root}/die", timeout=10)
        assert health.dead.wait(30)
        assert "exited with 3: out of everything" in health.state().reason


def test_one_that_hangs_is_waited_for_and_ends_in_order_even_then(tmp_path: Path) -> None:
    """The evaluation pauses while it is stopped, and no sample is lost; at the end it is woken, and not killed."""
    from tests.evaluate.evaluation_server import Echoes, Watch

    def pid() -> int:
        found = psutil.Process().children(recursive=True)
        (server,) = (each for each in found if str(SERVER) in cmdline(each)[1:2])
        return server.pid

    class Stops(Watch):
        def advanced(self, record: Record) -> None:
            super().advanced(record)
            if len(self.records) == 9:
                os.kill(pid(), signal.SIGSTOP)

        def paused(self, seconds: float, reason: str) -> None:
            super().paused(seconds, reason)
            os.kill(pid(), signal.SIGCONT)

    command, timing = f"{PYTHON} {shlex.quote(str(SERVER))} {{port}}", Timing(period_s=0.1, timeout_s=0.5)
    with served(tmp_path, command, stop_timeout_s=600.0) as endpoint, watch(endpoint, tmp_path, timing) as health:
        given: list[Any] = [endpoint, {"t": Echoes(60)}, [], Evaluate(concurrency=8), tmp_path, None, Stops()]
        found = asyncio.run(evaluate(*given, health=health))
        os.kill(pid(), signal.SIGSTOP)
    assert (found.tasks["t"].coverage["scored"], found.stopped) == (60, None)
    assert [pause.reason for pause in found.pauses] == ["the server does not answer (no answer within 0.5 s)"]
    assert "ended in order" in (tmp_path / "server.log").read_text()


LAUNCHER = (
    f"{PYTHON} launch.py mode=serve engine=echo engine.tokens_per_second=100 model=none backend.port={{port}} "
    "hydra.run.dir={folder}"
)


def launched(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    inner = LAUNCHER.replace("{folder}", str(folder / "inner"))
    command = [
        *(sys.executable, "launch.py", "backend=command", f"backend.command={json.dumps(inner)}"),
        *("backend.engine=theirs", f"hydra.run.dir={folder / 'run'}", *arguments),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cmdline(of: psutil.Process) -> list[str]:
    try:
        return list(of.cmdline())
    except psutil.Error:
        return []


def there(folder: Path) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if str(folder / "inner") in " ".join(cmdline(each))]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_whole_run(tmp_path: Path) -> None:
    out, err = (run := launched(tmp_path, "tasks=[capitals]")).communicate(timeout=120)
    assert run.returncode == 0, out + err
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (report["endpoint"]["backend"], report["endpoint"]["engine"]) == ("command", "theirs")
    assert report["tasks"]["capitals"]["coverage"]["scored"] == 80
    assert not there(tmp_path)


def test_a_server_that_is_not_ours_is_certified_as_any_other(tmp_path: Path) -> None:
    """``transformers serve``: what it does not do as OpenAI's API says is found before a sample is sent."""
    pytest.importorskip("transformers")
    own = os.environ | {"TMPDIR": str(tmp_path)}  # torch leaves caches there
    model = tmp_path / "model"
    make = "import sys; from tests.engines.huggingface.huggingface_models import save; save('llama', sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, model], cwd=ROOT, env=own, check=True, capture_output=True)
    serve = shlex.quote(str(Path(sys.executable).with_name("transformers")))
    serve += " serve {checkpoint} --host {host} --port {port}"
    command = [
        *(sys.executable, "launch.py", "mode=validate", "backend=command", f"backend.command={json.dumps(serve)}"),
        *("backend.ready_path=/health", f"model.path={model}", f"hydra.run.dir={tmp_path / 'run'}"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=own)
    assert done.returncode in (0, 2), done.stderr
    checks = json.loads((tmp_path / "run" / "certificate.json").read_text())["checks"]
    good = {check["name"] for check in checks if check["ok"]}
    assert good >= {"model listed", "completion", "own parameters", "greedy repeats"}
    assert not [each for each in psutil.process_iter() if str(model) in cmdline(each)]


def test_a_server_that_is_killed_during_a_run_ends_it_with_the_reason(tmp_path: Path) -> None:
    run = launched(tmp_path, "tasks=[addition]", "evaluate.concurrency=1", "adapters=[request_log]")
    until(lambda: (tmp_path / "run" / "requests.jsonl").exists())
    (reaper,) = (each for each in there(tmp_path) if REAPER in " ".join(cmdline(each)[:5]))
    reaper.children()[0].kill()
    out, err = run.communicate(timeout=120)
    assert run.returncode == 3, out + err
    assert "was killed by SIGKILL" in err
    assert "was killed by SIGKILL" in json.loads((tmp_path / "run" / "results.json").read_text())["reason"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_launcher_leaves_nothing(tmp_path: Path, number: int) -> None:
    run = launched(tmp_path, "mode=serve")
    assert run.stdout is not None
    assert run.stdout.readline().startswith("serving ")
    assert there(tmp_path)
    run.send_signal(number)
    run.communicate(timeout=60)
    until(lambda: not there(tmp_path))
