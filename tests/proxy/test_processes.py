"""The proxy as users run it: processes, the ``openai`` client, workers that die, and two runs on one host."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from launcher.adapters.caching import Caching
from launcher.adapters.raise_client_errors import RaiseClientErrors
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.request_log import RequestLog
from launcher.adapters.response_stats import ResponseStats
from launcher.adapters.system_message import SystemMessage
from launcher.core.errors import UserError
from launcher.core.types import Endpoint
from launcher.proxy.settings import Proxy
from launcher.proxy.supervisor import Mounted, Supervisor, listening, running
from tests.proxy.mounted import ANSWER, DONE, Seen, event, scripted, stream, whole
from tests.running import UNVALIDATED, launch_here, living, program, wait_for

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "2+2="}]}
SERVED = CHAT | {"model": "none"}
"""For the launcher's own server."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@contextmanager
def proxied(url: str, folder: Path, *adapters: Any, key: str | None = None, **settings: Any) -> Iterator[Supervisor]:
    endpoint = Endpoint(url, "m", "external", "x", is_builtin=False)
    mounted = Mounted(endpoint, adapters, None, folder / "proxy", folder / "proxy.log")
    proxy = Proxy(require_key=key is not None, **settings)
    with listening(proxy) as listener, running(proxy, listener, mounted, key) as supervisor:
        yield supervisor


def workers() -> list[psutil.Process]:
    return [process for process in living(psutil.Process().children()) if _is_worker(process)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "launcher.proxy.worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@dataclass
class Launched:
    """A run of the launcher with a proxy."""

    folder: Path
    process: subprocess.Popen[str]
    facts: dict[str, Any]
    key: str


@contextmanager
def launched(folder: Path, *arguments: str) -> Iterator[Launched]:
    run = folder / "run"
    common = ["engine=echo", "model=none", "tasks=[]", f"hydra.run.dir={run}"]
    with program([sys.executable, str(ROOT / "launch.py"), *common, *arguments], folder) as process:
        wait_for((run / "proxy.json").exists, process, PATIENCE_S)
        facts = json.loads((run / "proxy.json").read_text())
        yield Launched(run, process, facts, (run / "proxy.key").read_text().strip())
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    chain = ("adapters=[retry,system_message,request_log]", "adapters.system_message.text=Hi.")
    with launched(tmp_path_factory.mktemp("run"), "mode=proxy", *chain) as found:
        yield found


@pytest.fixture
def client(run: Launched) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=run.facts["url"], api_key=run.key, max_retries=0) as found:
        yield found


def test_openai_chats_through_the_proxy(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(**SERVED, max_tokens=4, n=2, logprobs=True, top_logprobs=2, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].logprobs is not None
    assert len(found.choices[0].logprobs.content or ()) == 4
    assert found.usage is not None
    assert found.usage.prompt_tokens > len("2+2="), "the system message is not there"


def test_openai_streams_through_the_proxy(client: openai.OpenAI) -> None:
    settings = {**SERVED, "max_tokens": 4, "temperature": 0}
    whole_answer = client.chat.completions.create(**settings).choices[0].message.content
    parts = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == whole_answer
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 4


def test_openai_completes_and_lists_through_the_proxy(client: openai.OpenAI) -> None:
    found = client.completions.create(model="none", prompt="ab", max_tokens=1, logprobs=1, echo=True)
    assert found.choices[0].logprobs is not None
    assert len(found.choices[0].logprobs.token_logprobs or ()) == 3
    assert found.choices[0].text.startswith("ab")
    assert [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"max_tokens": -1}, openai.BadRequestError), ({"n": 10**6}, openai.BadRequestError)],
)
def test_openai_gets_the_errors_of_the_endpoint(client: openai.OpenAI, settings: Any, error: Any) -> None:
    with pytest.raises(error) as raised:
        client.chat.completions.create(**SERVED, **settings)
    assert next(iter(settings)) in str(raised.value)


def test_openai_gets_the_errors_of_the_proxy(run: Launched) -> None:
    stranger = openai.OpenAI(base_url=run.facts["url"], api_key="other", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError, match="the proxy's key is missing or wrong"):
        stranger.models.list()
    other = run.facts["run_url"].replace(run.facts["run"], "0" * 16)
    with openai.OpenAI(base_url=other, api_key=run.key, max_retries=0) as lost:
        with pytest.raises(openai.APIStatusError, match="not of '0000000000000000'") as raised:
            lost.models.list()
        assert raised.value.status_code == 421
    with openai.OpenAI(base_url=run.facts["run_url"], api_key=run.key, max_retries=0) as own:
        assert list(own.models.list())


def test_the_id_of_a_request_is_in_the_logs_behind_the_proxy_and_in_its_answer(run: Launched) -> None:
    headers = {"Authorization": f"Bearer {run.key}", "x-request-id": "addition/7/0/0"}
    sent = httpx.post(f"{run.facts['url']}/chat/completions", json=SERVED | {"max_tokens": 1}, headers=headers)
    assert (sent.status_code, sent.headers.get_list("x-request-id")) == (200, ["addition/7/0/0"])
    log = run.folder / "server.log"
    until(lambda: [each for each in map(json.loads, _whole_lines(log)) if each.get("request_id") == "addition/7/0/0"])


def _whole_lines(file: Path) -> list[str]:
    text = file.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def test_a_run_folder_has_no_key_once_the_proxy_is_gone_and_never_the_key_in_another_file(tmp_path: Path) -> None:
    with launched(tmp_path, "mode=serve", "proxy.port=0", "adapters=[request_log]") as run:
        assert (run.folder / "proxy.key").stat().st_mode & 0o777 == 0o600
        endpoint = json.loads((run.folder / "endpoint.json").read_text())
        assert endpoint["url"] != run.facts["url"]
        headers = {"Authorization": f"Bearer {run.key}"}
        for url in (run.facts["url"], run.facts["run_url"]):
            sent = httpx.post(f"{url}/chat/completions", json={**SERVED, "max_tokens": 1}, headers=headers)
            assert sent.status_code == 200
        assert httpx.post(f"{endpoint['url']}/chat/completions", json={**SERVED, "max_tokens": 1}).status_code == 200
    left = [path for path in run.folder.rglob("*") if path.is_file()]
    assert not [path.name for path in left if path.name in ("proxy.key", "proxy.json")]
    assert len((run.folder / "proxy" / "requests.jsonl").read_text().splitlines()) == 2
    assert not [path for path in left if run.key.encode() in path.read_bytes()]


def test_an_evaluation_with_a_proxy_answers_others_until_it_ends(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"until [ -e {go} ]; do sleep 0.1; done; echo 1 > {{output}}/out.json"
    waiting = (
        "tasks=[harness/command]", "tasks.harness_command.shell=true", f"tasks.harness_command.command='{script}'",
        "tasks.harness_command.result.path='{output}/out.json'", "+tasks.harness_command.result.metrics.one=$",
    )  # fmt: skip
    with launched(tmp_path, "mode=run", "proxy.port=0", UNVALIDATED, "adapters=[request_log]", *waiting) as run:
        with openai.OpenAI(base_url=run.facts["url"], api_key=run.key, max_retries=0) as client:
            assert client.chat.completions.create(**SERVED).choices
        go.touch()
        assert run.process.wait(PATIENCE_S) == 0
    assert not (run.folder / "proxy.json").exists()
    assert not (run.folder / "proxy.key").exists()
    assert not (run.folder / "requests.jsonl").exists()
    assert len((run.folder / "proxy" / "requests.jsonl").read_text().splitlines()) == 1
    found = json.loads((run.folder / "results.json").read_text())["tasks"]["harness_command"]
    assert found["metrics"]["one"]["value"] == 1


def test_two_runs_on_one_host_never_answer_each_other_and_leave_no_process(run: Launched, tmp_path: Path) -> None:
    with launched(tmp_path, "mode=proxy", "proxy.workers=2") as other:
        ours, theirs = ({one.facts["url"], one.facts["run"], one.key} for one in (run, other))
        assert ours.isdisjoint(theirs)
        for here, there in ((run, other), (other, run)):
            headers = {"Authorization": f"Bearer {here.key}", "x-launcher-run": here.facts["run"]}
            assert httpx.get(f"{here.facts['url']}/models", headers=headers).status_code == 200
            assert httpx.get(f"{there.facts['url']}/models", headers=headers).status_code == 421
        proxies = [each for each in psutil.Process(other.process.pid).children(recursive=True) if _is_worker(each)]
        assert len(proxies) == 2
        other.process.kill()
        until(lambda: not living(proxies))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("proxy.api_key_env=NOT_THERE",), ["proxy.api_key_env", "NOT_THERE"]),
        (("proxy.authorization=forward", "proxy.api_key_env=PATH"), ["proxy.api_key_env=PATH", "forward"]),
        (("proxy.require_key=false", "proxy.api_key_env=PATH"), ["proxy.require_key=false", "PATH"]),
        (("proxy.authorization=Bearer",), ["proxy.authorization", "not shown"]),
        (("proxy.port=70000",), ["proxy.port", "65535"]),
        (("proxy.workers=0",), ["proxy.workers", "1"]),
        (
            ("proxy.workers=2", "adapters=[retry,reasoning_replay]"),
            ["proxy.workers=2", "reasoning_replay", "workers=1"],
        ),
        (("proxy.host=256.0.0.1",), ["proxy.host=256.0.0.1", "address of this machine"]),
        (("proxy.port=1", "proxy.host=192.0.2.1"), ["proxy.host=192.0.2.1", "address of this machine"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_served(
    arguments: Sequence[str], words: list[str], tmp_path: Path
) -> None:
    common = ["mode=proxy", "engine=echo", "model=none", "tasks=[]", f"hydra.run.dir={tmp_path}/run"]
    done = launch_here(tmp_path, *common, *arguments)
    assert done.returncode == 1, done
    assert [word for word in words if word not in done.stderr] == []
    assert "validate:" not in done.stderr


def test_a_mistake_of_an_adapter_is_that_of_the_proxy(tmp_path: Path) -> None:
    refused = Caching(folder="/proc/nothing/here", upstream_id="x")
    with pytest.raises(UserError, match="/proc/nothing/here"), proxied("http://127.0.0.1:1/v1", tmp_path, refused):
        pass


def test_a_worker_that_dies_is_replaced_and_no_client_takes_a_part_for_the_whole(tmp_path: Path) -> None:
    hang = threading.Event()

    def answer(seen: Seen) -> Any:
        return stream(event("a"), hang, DONE) if b"stream" in seen.body else whole(ANSWER)

    with scripted(answer) as server, proxied(server.url, tmp_path) as proxy:
        assert httpx.post(f"{proxy.url}/chat/completions", json=CHAT).json() == ANSWER
        (worker,) = workers()
        with httpx.stream(
            "POST", f"{proxy.url}/chat/completions", json=CHAT | {"stream": True}, timeout=PATIENCE_S
        ) as cut:
            lines = cut.iter_lines()
            assert "a" in next(lines)
            worker.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        hang.set()
        found = httpx.post(
            f"{proxy.url}/chat/completions", json=CHAT, timeout=PATIENCE_S
        )  # waits in the socket's queue
        assert found.json() == ANSWER
        assert [process.pid for process in workers()] != [worker.pid]
        metrics = httpx.get(proxy.url.replace("/v1", "/_proxy/metrics")).text
        assert 'launcher_proxy_requests_total{status="200"} 2' in metrics, "the counts of the dead worker are lost"


def test_a_killed_worker_leaves_the_counts_of_its_adapters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "proxy" / f"{name}.json" for name in ("response_stats", "reasoning")]
    with (
        scripted(lambda seen: whole(ANSWER)) as server,
        proxied(server.url, tmp_path, ResponseStats(), Reasoning()) as proxy,
    ):
        ask = functools.partial(httpx.post, f"{proxy.url}/chat/completions", json=CHAT, timeout=PATIENCE_S)
        for _ in range(3):
            ask()
        until(lambda: all(file.exists() for file in files))
        (worker,) = workers()
        worker.kill()
        assert ask().json() == ANSWER
    stats, reasoning = (json.loads(file.read_text()) for file in files)
    assert stats["/v1/chat/completions"]["200"]["answers"] == reasoning["answers"] == 4
    told = "what its adapters counted in its last 2 s may be missing"
    assert told in capfd.readouterr().err
    assert told in (tmp_path / "proxy.log").read_text()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.proxy.supervisor.HANG_S", 8)
    with scripted(lambda seen: whole(ANSWER)) as server, proxied(server.url, tmp_path) as proxy:
        (worker,) = workers()
        worker.suspend()  # also right after it has said that it is ready
        assert httpx.post(f"{proxy.url}/chat/completions", json=CHAT, timeout=2 * PATIENCE_S).json() == ANSWER
        assert not living([worker])


def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, proxied(server.url, tmp_path) as proxy:
        dead = set[int]()
        while not proxy.dead.is_set():
            kill_new(workers(), dead)
            proxy.dead.wait(0.02)
        assert "in a row" in proxy.reason
        assert len(dead) == 5
        with pytest.raises(httpx.ConnectError):  # and no client waits for an answer
            httpx.post(f"{proxy.url}/chat/completions", json=CHAT, timeout=PATIENCE_S)


def kill_new(processes: Sequence[psutil.Process], dead: set[int]) -> None:
    """Kill the processes that are not among the dead yet, and note them there."""
    for process in processes:
        if process.pid not in dead:
            dead.add(process.pid)
            process.kill()


@pytest.mark.parametrize("mode", ["proxy", "serve"])
def test_a_run_whose_clients_need_the_proxy_ends_with_it(mode: str, tmp_path: Path) -> None:
    with launched(tmp_path, f"mode={mode}", "proxy.port=0", UNVALIDATED) as run:
        own, dead = psutil.Process(run.process.pid), set[int]()
        while run.process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                kill_new([process for process in living(own.children()) if _is_worker(process)], dead)
            time.sleep(0.02)
        assert run.process.returncode == 1
        assert len(dead) == 5
    reason = json.loads((run.folder / "results.json").read_text())["reason"]
    assert "worker 0 of the proxy has ended with code -9, 5 times in a row" in reason


def test_several_workers_share_the_port_the_counts_and_the_work(tmp_path: Path) -> None:
    gate, refusal = threading.Event(), whole({"error": {"message": "no such model"}}, "404 Not Found")
    with (
        scripted(lambda seen: refusal if b"other" in seen.body else [gate, *whole(ANSWER)]) as server,
        proxied(server.url, tmp_path, RequestLog(), RaiseClientErrors(), workers=2) as proxy,
        ThreadPoolExecutor(16) as pool,
    ):
        both = workers()
        assert len(both) == 2
        asked = [
            pool.submit(httpx.post, f"{proxy.url}/chat/completions", json=CHAT, timeout=PATIENCE_S) for _ in range(16)
        ]
        until(lambda: len(server.requests) == 16)
        gate.set()
        assert [each.result().json() for each in asked] == [ANSWER] * 16
        metrics = httpx.get(proxy.url.replace("/v1", "/_proxy/metrics")).text
        assert "launcher_proxy_workers 2" in metrics
        assert 'launcher_proxy_requests_total{status="200"} 16' in metrics
        assert "launcher_proxy_stopped 0" in metrics
        after = [httpx.post(f"{proxy.url}/chat/completions", json=CHAT | {"model": "other"}) for _ in range(9)]
        assert {(each.status_code, each.json()["error"]["code"]) for each in after} == {(503, "adapter_stop")}
        assert len(server.requests) == 17, "the adapter of one worker ends the evaluation for all"
        assert "launcher_proxy_stopped 1" in httpx.get(proxy.url.replace("/v1", "/_proxy/metrics")).text
    logs = [path.read_text().splitlines() for path in sorted(tmp_path.glob("proxy/worker-*/requests.jsonl"))]
    assert sum(map(len, logs)) == 17


def test_sigterm_lets_a_request_end(tmp_path: Path) -> None:
    """What a client was told comes to its end, also if the process that does it is told to end."""
    gate = threading.Event()
    with (
        scripted(lambda seen: stream(event("a"), gate, event("b", "stop"), DONE)) as server,
        proxied(server.url, tmp_path, SystemMessage(text="x")) as proxy,
        httpx.stream("POST", f"{proxy.url}/chat/completions", json=CHAT, timeout=PATIENCE_S) as found,
    ):
        lines = found.iter_lines()
        assert "a" in next(lines)
        (worker,) = workers()
        worker.terminate()
        time.sleep(0.2)
        assert living([worker])
        gate.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
        until(lambda: not living([worker]))


def test_a_run_says_that_its_proxy_has_limits_of_its_own(tmp_path: Path) -> None:
    words = "engine=echo", "model=none", "tasks=addition", UNVALIDATED, "proxy.port=0", f"hydra.run.dir={tmp_path}/run"
    limit = "adapters=[rate_limit]", "adapters.rate_limit.requests_per_minute=1e6"
    done = launch_here(tmp_path, *words, *limit)
    assert "proxy: WARNING: the evaluation and the proxy have their own rate_limit" in done.stderr
    assert "WARNING: the evaluation" not in launch_here(tmp_path, *words, "adapters=[retry]").stderr
