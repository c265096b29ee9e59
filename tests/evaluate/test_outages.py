"""A server that goes away and comes back costs no sample: all is as if it had never been away."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from launcher.adapters.retry import Retry
from launcher.core.errors import Failure, ServerAway, TransportError
from launcher.core.types import Endpoint, Json, Liveness, Record, Request, Response, Sample, ServerState
from launcher.evaluate import breaker, outcome
from launcher.evaluate.queue import MAX_OUTAGES
from launcher.monitor.health import Timing, watch
from launcher.settings.evaluate import Evaluate
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving

SERVER = Path(__file__).with_name("evaluation_server.py")
QUICK = Timing(period_s=0.1, timeout_s=0.5)
ADAPTERS = {"no adapter": [], "retry": [Retry()]}


@dataclass
class Thirds(Echoes):
    """Every third answer is wrong, so that a mean tells which samples went into it."""

    count: int = 60
    dies: int | None = None

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for i, sample in enumerate(super().samples(name, model)):
            prompt = "dies" if i == self.dies else sample.id
            request = Request("/v1/completions", {"model": model, "prompt": prompt})
            yield Sample(name, sample.id, (request,), sample.target if i % 3 else "another")


class Marks(Watch):
    """Does something when so many samples have ended."""

    def __init__(self, after: int, happen: Callable[[], object]) -> None:
        super().__init__(after=after)
        self._happen = happen

    def advanced(self, record: Record) -> None:
        super().advanced(record)
        if len(self.records) == self.after:
            self._happen()


async def run(endpoint, folder, *, task=None, adapters=(), progress=None, watched=True, **settings):
    folder.mkdir(exist_ok=True)
    given: list[Any] = [endpoint, {"t": task or Thirds()}, list(adapters), Evaluate(**settings), folder, {"v": 1}]
    if not watched:
        return await evaluate(*given, progress=progress or Watch())
    with watch(endpoint, folder, QUICK) as health:
        return await evaluate(*given, progress=progress or Watch(), health=health)


def answers(folder):
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "latency_s"} for line in lines]


async def undisturbed(folder, **settings):
    async with serving() as server:
        return await run(server.endpoint, folder / "undisturbed", **settings)


async def assert_nothing_was_lost(found, folder, least_pauses=1):
    expected = await undisturbed(folder.parent)
    assert found.stopped is None
    assert answers(folder) == answers(folder.parent / "undisturbed")
    assert found.tasks == expected.tasks
    assert found.tasks["t"].coverage["scored"] == found.tasks["t"].coverage["total"] == 60
    assert len(found.pauses) >= least_pauses
    assert all(pause.seconds > 0 and pause.reason for pause in found.pauses)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Supervised:
    """A server in a process of its own that is started again whenever it ends, at the same address."""

    port: int = field(default_factory=free_port)
    starts: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}/v1", "m", "external", "none")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def keep(self) -> None:
        while True:
            self.process = await asyncio.create_subprocess_exec(sys.executable, SERVER, str(self.port))
            self.starts += 1
            await self.process.wait()

    async def up(self) -> None:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def supervised() -> AsyncIterator[Supervised]:
    server = Supervised()
    keeping = asyncio.create_task(server.keep())
    try:
        await server.up()
        yield server
    finally:
        keeping.cancel()
        with suppress(ProcessLookupError):
            server.send(signal.SIGKILL)
        await server.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize(("adapters", "concurrency"), [("no adapter", 1), ("no adapter", 64), ("retry", 8)])
async def test_a_server_that_is_killed_and_started_again(tmp_path, adapters, concurrency, watched):
    async with supervised() as server:
        progress = Marks(9, lambda: server.send(signal.SIGKILL))
        given = {"adapters": ADAPTERS[adapters], "concurrency": concurrency, "watched": watched}
        found = await run(server.endpoint, tmp_path / "run", progress=progress, **given)
        assert server.starts == 2
    # Without health, a request's own attempts outlast it; with all samples in flight, all answers may be there already.
    least = 0 if not watched and (adapters == "retry" or concurrency > 60) else 1
    await assert_nothing_was_lost(found, tmp_path / "run", least)
    if least:
        assert "the server " in progress.paused_s[0][1]
        assert progress.resumed_s


@pytest.mark.parametrize("adapters", ADAPTERS)
async def test_a_server_that_hangs_is_noticed_and_goes_on_when_it_does(tmp_path, adapters):
    async with supervised() as server:
        progress = Marks(9, lambda: server.send(signal.SIGSTOP))
        given = {"adapters": ADAPTERS[adapters], "concurrency": 8, "progress": progress}
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", timeout_s=600, **given))
        await progress.holding.wait()
        assert "no answer within" in progress.paused_s[0][1]
        server.send(signal.SIGCONT)
        found = await asking
        assert server.starts == 1
    unanswered_s = breaker.MIN_SILENT_PROBES * QUICK.timeout_s
    assert found.pauses[0].seconds >= unanswered_s, "a pause begins when the server falls silent"
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_a_server_that_hangs_for_good_is_given_up_long_before_its_requests_are(tmp_path):
    async with supervised() as server:
        progress = Marks(9, lambda: server.send(signal.SIGSTOP))
        given = {"concurrency": 8, "progress": progress, "timeout_s": 10**6, "max_pause_s": 0.2}
        found = await run(server.endpoint, tmp_path / "run", **given)
        server.send(signal.SIGCONT)
        assert "no answer within 0.5 s" in found.stopped
        counts = found.tasks["t"].coverage
        assert (counts["failed"], counts["scored"] + counts["not_asked"]) == (0, 60)
        found = await run(server.endpoint, tmp_path / "run")
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_a_request_that_a_hung_server_forgot_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(breaker, "LOST_REQUEST_TIMEOUT_S", 0.2)
    hangs, forgotten = asyncio.Event(), []

    async def answer(body, request):
        if hangs.is_set():
            forgotten.append(body["prompt"])
            await asyncio.Event().wait()
        return said(body["prompt"])

    class Silent(breaker.NoHealthProbes):
        """The health of a server that hangs until the evaluation has seen it."""

        def __init__(self):
            super().__init__()
            self.probe = 0

        def state(self):
            self.probe += 1
            if hangs.is_set() and forgotten:
                return ServerState(Liveness.silent, "no answer", self.probe, 5, float("inf"))
            return ServerState(probe=self.probe)

        def request_probe(self):
            return self.probe

    progress = Marks(9, hangs.set)
    async with serving(answer) as server:
        given: list[Any] = [
            server.endpoint,
            {"t": Thirds()},
            [],
            Evaluate(concurrency=4),
            tmp_path / "run",
            {"v": 1},
            progress,
        ]
        (tmp_path / "run").mkdir()
        asking = asyncio.create_task(evaluate(*given, health=Silent()))
        await progress.holding.wait()
        hangs.clear()
        found = await asking
    assert forgotten
    await assert_nothing_was_lost(found, tmp_path / "run")


@pytest.mark.timeout(120)
async def test_a_server_that_is_only_busy_is_let_finish(tmp_path):
    """One that does one thing at a time answers no probe while it works; nothing is cancelled, or asked twice."""
    asked, released = [], threading.Event()

    class OneAtATime(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"data": []})

        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            asked.append(prompt)
            if prompt == "5":
                released.wait(60)
            self._answer(json.loads(str(said(prompt).text)))

        def _answer(self, body: Json) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with in_thread(HTTPServer(("127.0.0.1", 0), OneAtATime)) as server:
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "external", "none", is_builtin=False)
        progress = Watch()
        asking = asyncio.create_task(run(endpoint, tmp_path / "run", progress=progress, concurrency=4))
        await progress.holding.wait()
        released.set()
        found = await asking
    await assert_nothing_was_lost(found, tmp_path / "run", least_pauses=0)
    assert sorted(prompt for prompt in asked if prompt != "a") == sorted(str(i) for i in range(60))
    assert len(found.pauses) <= 1


@contextmanager
def in_thread(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "concurrency", "reason"),
    [
        (502, 1, "HTTP 502"),
        (503, 64, "HTTP 503"),
        (521, 8, "HTTP 521"),
        (500, 8, "HTTP 500"),
        (200, 8, "no JSON"),
        (404, 8, "HTTP 404"),
    ],
)
async def test_a_burst_of_errors_of_a_server_that_says_it_is_well(tmp_path, status, concurrency, reason):
    """Also of a 500, or of a proxy's page with the status 200, if a plain request meets the same."""
    out = asyncio.Event()

    async def answer(body, request):
        page = web.Response(status=status, text="<html>Back soon</html>")
        return page if out.is_set() else said(body["prompt"])

    async with serving(answer) as server:
        progress = Marks(9, out.set)
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", progress=progress, concurrency=concurrency))
        await progress.holding.wait()
        while server.prompts.count("a") < 3:
            await asyncio.sleep(0.01)
        second = server.prompts.index("a", server.prompts.index("a") + 1)
        assert set(server.prompts[second:]) == {"a"}, "nothing but a plain request is sent"
        out.clear()
        found = await asking
    assert reason in found.pauses[0].reason
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_with_retry_a_short_burst_needs_no_pause(tmp_path):
    refused: list[Json] = []

    async def answer(body, request):
        if len(refused) < 40 and int(body["prompt"]) > 9:
            refused.append(body["prompt"])
            return web.Response(status=503)
        return said(body["prompt"])

    async with serving(answer) as server:
        adapters = [Retry(first_delay_s=0.01)]
        found = await run(server.endpoint, tmp_path / "run", adapters=adapters, concurrency=16)
    assert len(refused) == 40
    assert found.pauses == ()
    await assert_nothing_was_lost(found, tmp_path / "run", least_pauses=0)


async def test_a_server_that_repairs_itself_is_waited_for(tmp_path):
    repairing = asyncio.Event()
    refusal = {"error": {"message": "Triton is restarting: no answer", "code": "engine_restarting"}}

    async def answer(body, request):
        return web.json_response(refusal, status=503) if repairing.is_set() else said(body["prompt"])

    async def health(request):
        return web.json_response(refusal, status=503) if repairing.is_set() else web.Response()

    async with serving(answer, alive=health) as server:
        progress = Marks(9, repairing.set)
        given = {"progress": progress, "concurrency": 16, "adapters": [Retry()]}
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", **given))
        await progress.holding.wait()
        await asyncio.sleep(0.2)
        repairing.clear()
        found = await asking
    assert progress.paused_s[0][1] == "the server restarts (Triton is restarting: no answer)"
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_a_pause_is_no_part_of_the_throughput(tmp_path):
    out = asyncio.Event()

    async def answer(body, request):
        return web.Response(status=503) if out.is_set() else said(body["prompt"])

    async with serving(answer) as server:
        progress, clock = Marks(9, out.set), asyncio.get_running_loop().time
        began = clock()
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", progress=progress))
        await progress.holding.wait()
        await asyncio.sleep(0.5)
        out.clear()
        found = await asking
    [pause] = found.pauses
    assert pause.seconds >= 0.5
    assert found.throughput["wall_s"] <= clock() - began - pause.seconds
    journal = json.loads((tmp_path / "run" / "journal.json").read_text())
    assert journal["pauses"] == [{"start": pause.start, "seconds": pause.seconds, "reason": pause.reason}]


@pytest.mark.parametrize(("adapters", "concurrency"), [("no adapter", 16), ("retry", 1)])
async def test_a_sample_that_makes_the_server_go_away_is_given_up_and_the_others_are_not(
    tmp_path, concurrency, adapters
):
    async with supervised() as server:
        given = {"task": Thirds(dies=7), "concurrency": concurrency, "adapters": ADAPTERS[adapters]}
        found = await run(server.endpoint, tmp_path / "run", **given)
        assert (
            MAX_OUTAGES < server.starts <= MAX_OUTAGES * (breaker.LOSSES_PER_OUTAGE if adapters == "retry" else 1) + 1
        )
    await undisturbed(tmp_path)
    expected = answers(tmp_path / "undisturbed")
    for line, undisturbed_line in zip(answers(tmp_path / "run"), expected, strict=True):
        if line["id"] == "7":
            assert line["status"] == "failed"
            assert line["reason"].endswith(f"; it was asked {MAX_OUTAGES} times")
        else:
            assert line == undisturbed_line
    assert found.stopped is None
    assert found.tasks["t"].coverage["failed"] == 1


@pytest.mark.parametrize(
    ("how", "times"), [(503, MAX_OUTAGES), ("abort", MAX_OUTAGES), (500, 2), (429, 2), (404, 2), ("no JSON", 2)]
)
async def test_what_only_one_request_meets_is_its_own_failure(tmp_path, how, times):
    async def answer(body, request):
        if body["prompt"] != "7":
            return said(body["prompt"])
        if how == "abort":
            request.transport.abort()
        return web.Response(status=how) if isinstance(how, int) else web.Response(text="<html>")

    async with serving(answer) as server:
        found = await run(server.endpoint, tmp_path / "run", concurrency=4)
    assert found.pauses == ()
    assert (found.stopped, found.tasks["t"].coverage["failed"]) == (None, 1)
    assert server.prompts.count("7") == times


async def test_a_request_that_takes_too_long_is_asked_again_at_the_end_only(tmp_path):
    async def answer(body, request):
        await asyncio.sleep(60 if body["prompt"] == "7" else 0)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server.endpoint, tmp_path / "run", concurrency=4, timeout_s=0.5)
    assert (found.pauses, found.tasks["t"].coverage["failed"]) == ((), 1)
    assert server.prompts.count("7") == 2


async def test_a_server_that_answers_only_for_its_health_is_waited_for(tmp_path, monkeypatch):
    """Its engine hangs; without an answer to any request, a plain one included, no timeout is a request's own."""
    monkeypatch.setattr(breaker, "PLAIN_REQUEST_TIMEOUT_S", 0.3)
    hangs, released = asyncio.Event(), asyncio.Event()

    async def answer(body, request):
        if hangs.is_set():
            await released.wait()
        return said(body["prompt"])

    async with serving(answer) as server:
        progress = Marks(9, hangs.set)
        given = {"progress": progress, "concurrency": 4, "timeout_s": 0.5}
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", **given))
        await progress.holding.wait()
        released.set()
        found = await asking
    assert "answers no request (not within 0.3 s)" in progress.paused_s[0][1]
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_a_run_that_is_interrupted_in_a_pause_ends_at_once_and_is_continued(tmp_path):
    async with supervised() as server:
        progress = Marks(9, lambda: server.send(signal.SIGSTOP))
        asking = asyncio.create_task(run(server.endpoint, tmp_path / "run", progress=progress, timeout_s=10**6))
        await progress.holding.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        left = outcome.read(tmp_path / "run", {})
        assert [pause.reason for pause in left.pauses] == ["the server does not answer (no answer within 0.5 s)"]
        assert left.tasks["t"].coverage["failed"] == 0
        assert left.tasks["t"].coverage["not_asked"] == 60 - left.tasks["t"].coverage["scored"]
        server.send(signal.SIGCONT)
        found = await run(server.endpoint, tmp_path / "run")
    await assert_nothing_was_lost(found, tmp_path / "run")


async def test_a_server_whose_process_has_ended_is_not_waited_for(tmp_path):
    async with serving() as server:
        gone: list[Json] = []
        endpoint = Endpoint(
            server.url, "m", "command", "none", is_builtin=False, exit_reason=lambda: gone[0] if gone else None
        )
        progress = Marks(9, lambda: gone.append("the server ended: it exited with 3"))
        found = await run(endpoint, tmp_path / "run", progress=progress, concurrency=1, task=Thirds(100_000))
    assert found.stopped == "the server stopped answering: the server is dead (the server ended: it exited with 3)"
    assert found.tasks["t"].coverage["failed"] == 0


async def test_outages_between_which_nothing_is_answered_come_to_an_end(monkeypatch):
    monkeypatch.setattr(breaker, "MIN_PROBE_DELAY_S", 0.0)

    async def client(request):
        if request.sample is None:
            return Response(200, {})
        raise TransportError("reset", Failure.connection)

    class Flapping(breaker.NoHealthProbes):
        """Away at each look, and back at the next."""

        probes = 0

        def state(self):
            liveness = Liveness.away if self.probes % 2 else Liveness.live
            return ServerState(liveness, "refused", self.probes, 1, float("inf"))

        def request_probe(self):
            self.probes += 1
            return self.probes

    circuit = breaker.CircuitBreaker(client, client, "m", Flapping(), 600.0, Watch())
    guard = asyncio.create_task(circuit.guard())
    outages = 0
    while not guard.done():
        asking = asyncio.create_task(circuit(Request("/v1/completions", {}, sample="t/0/0")))
        await asyncio.wait((asking, guard), return_when=asyncio.FIRST_COMPLETED)
        outages += asking.done() and isinstance(asking.exception(), ServerAway)
        asking.cancel()
    with pytest.raises(breaker.ServerGone, match="10 times"):
        await guard
    assert outages == breaker.MAX_OUTAGES_IN_A_ROW + 1


@pytest.mark.parametrize(("liveness", "needed"), [(Liveness.silent, 3), (Liveness.away, 2)])
async def test_an_answer_that_comes_after_the_first_silent_probe_hides_no_outage(liveness, needed):
    """It was on its way while the server stopped; what counts are the probes that begin after it."""
    silent, opened = 1, asyncio.Event()

    async def client(request):
        return Response(200, {})

    class Opens(Watch):
        def paused(self, seconds, reason):
            opened.set()

    class Growing(breaker.NoHealthProbes):
        def state(self):
            return ServerState(liveness, "no answer", silent, silent, began)

    began = time.monotonic()
    circuit = breaker.CircuitBreaker(client, client, "m", Growing(), 600.0, Opens())
    assert (await circuit(Request("/v1/completions", {}, sample="t/0/0"))).status == 200
    guard = asyncio.create_task(circuit.guard())
    try:
        for silent in range(1, 1 + needed):
            await asyncio.sleep(4 * breaker.POLL_INTERVAL_S)
            assert not opened.is_set(), f"{silent} probes, of which one began before the answer"
        silent = 1 + needed
        await asyncio.wait_for(opened.wait(), 60)
    finally:
        guard.cancel()


async def test_one_plain_request_answers_for_all_that_failed_before_it():
    """A timeout that is too short fails many requests at once: each would wait for the plain requests of the others."""
    asked = 0

    async def client(request):
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return Response(200, {})

    class Live(breaker.NoHealthProbes):
        def state(self):
            return ServerState(Liveness.live, "", 0, 0, float("inf"))

        def request_probe(self):
            return 0

    circuit = breaker.CircuitBreaker(client, client, "m", Live(), 600.0, Watch())
    start = time.monotonic()
    found = await asyncio.gather(*(circuit.outage("/v1/completions", start) for _ in range(30)))
    assert (found, asked) == ([False] * 30, 1)
    assert not await circuit.outage("/v1/completions", time.monotonic())
    assert asked == 2


async def test_what_a_server_says_of_itself_is_one_harmless_line(tmp_path):
    out = asyncio.Event()
    hostile = {"error": {"message": "\x1b[31mred\n" + "x" * 10_000}}

    async def answer(body, request):
        return web.json_response(hostile, status=503) if out.is_set() else said(body["prompt"])

    async def health(request):
        return web.json_response(hostile, status=503 if out.is_set() else 200)

    for alive in (health, None):
        out.clear()
        async with serving(answer, alive=alive) as server:
            progress = Marks(9, out.set)
            found = await run(server.endpoint, tmp_path / str(alive), progress=progress, max_pause_s=0.5)
        for text in (found.stopped, found.pauses[0].reason, *(reason for _, reason in progress.paused_s)):
            assert "red" in text
            assert text.isprintable()
            assert len(text) < 400
