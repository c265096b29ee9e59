"""A server that lies gets its samples failed, never a wrong score, a traceback or the terminal."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.adapters.caching import Caching
from launcher.adapters.reasoning import Reasoning
from launcher.core.types import Json
from launcher.settings.evaluate import Evaluate
from launcher.tasks.generation import Generation
from launcher.tasks.multiple_choice import MultipleChoice
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch, serving
from tests.fuzzing import examples
from tests.recorded import CHOICES, CONTEXT, answered, ours, said, told
from tests.running import program

ROOT = Path(__file__).parent.parent.parent
Change = Callable[[Json], object]


def right(asked: Json) -> Json:
    """Answer as an honest model would that knows all: the first choice is the likely one."""
    if asked.get("echo"):
        body = ours(*asked["prompt"])
        for choice in body["choices"][1:]:
            logprobs = choice["logprobs"]
            logprobs["token_logprobs"] = [v and v - 30.0 for v in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [t and {k: v - 30.0 for k, v in t.items()} for t in logprobs["top_logprobs"]]
        return body
    if "messages" in asked:
        return answered("chat.completion", [told("4")])
    return answered("text_completion", [said("4")])


def tasks(folder: Path, count: int = 2) -> dict[str, Json]:
    path = folder / "items.jsonl"
    rows = [{"id": str(i), "q": f"2+2={i}", "answer": "4", "choices": list(CHOICES), "right": 0} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "text": Generation(path=str(path), prompt="{{q}}"),
        "chat": Generation(path=str(path), prompt="{{q}}", chat=True),
        "choice": MultipleChoice(path=str(path), context=CONTEXT, prefix="", answer="right"),
    }


async def lines(folder: Path, answer: Callable[[Json], bytes | Json], adapters=(), **more: Json) -> list[Json]:
    """Evaluate against a server that answers so; return the lines of the samples."""

    async def respond(body: Json, request: web.Request) -> web.Response:
        found = answer(body)
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        return web.Response(body=data, content_type="application/json")

    folder.mkdir(parents=True, exist_ok=True)
    chosen: Json = {"max_pause_s": 0, "concurrency": 4} | more
    async with serving(respond) as server:
        await evaluate(
            server.endpoint, tasks(folder), adapters, Evaluate(**chosen), folder, {"v": 1}, Watch(), deployment={"v": 1}
        )
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


async def test_an_honest_server_scores_everything(tmp_path: Path) -> None:
    found = await lines(tmp_path, right)
    assert {line["status"] for line in found} == {"scored"}
    assert all(set(line["scores"].values()) == {1.0} for line in found)
    assert len(found) == 6


def lie(change: Change) -> Callable[[Json], Json]:
    def answer(asked: Json) -> Json:
        body = right(asked)
        change(body)
        return body

    return answer


def each(change: Change) -> Change:
    return lambda body: [change(choice) for choice in body["choices"]]


def counting_bytes(choice: Json) -> None:
    if choice["logprobs"]:
        cut = [choice["text"][:offset] for offset in choice["logprobs"]["text_offset"]]
        choice["logprobs"]["text_offset"] = [len(text.encode()) for text in cut]


def constant(choice: Json) -> None:
    if choice["logprobs"]:
        size = len(choice["logprobs"]["tokens"])
        choice["logprobs"] |= {"token_logprobs": [None, *[0.0] * (size - 1)], "top_logprobs": [None] * size}


FAULTS: dict[str, Callable[[Json], bytes | Json]] = {
    "aborted": lie(each(lambda c: c.update(finish_reason="abort"))),
    "failed": lie(each(lambda c: c.update(finish_reason="error"))),
    "one index": lie(each(lambda c: c.update(index=0))) ,
    "no index": lie(each(lambda c: c.pop("index"))),
    "one too many": lie(lambda b: b["choices"].append(copy.deepcopy(b["choices"][0]))),
    "error beside choices": lie(lambda b: b.update(error={"message": "CUDA error"})),
    "NaN": lambda asked: json.dumps(right(asked) | {"x": float("nan")}).encode(),
    "deep": lambda asked: json.dumps(right(asked))[:-1].encode() + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deeper": lambda asked: b"[" * 1_000_000,
    "many choices": lambda asked: b'{"choices": [' + b"{}," * 1_000_000 + b"{}]}",
    "too large": lambda asked: b'{"choices": "' + b"x" * 2_000_000 + b'"}',
    "page": lambda asked: b"<html>Please log in</html>",
    "nothing": lambda asked: b"",
    "list": lambda asked: [right(asked)],
    "a number": lambda asked: 5,
}  # fmt: skip
ONLY_CHOICE = {"counting bytes": lie(each(counting_bytes)), "constant": lie(each(constant))}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_faulty_answer_fails_the_sample(tmp_path: Path, name: str) -> None:
    found = await lines(tmp_path, FAULTS[name], [Reasoning()], max_answer_mb=1)
    if name == "one index":  # it is right for one choice
        found = [line for line in found if line["task"] == "choice"]
    assert {line["status"] for line in found} <= {"failed"}
    assert all(line["reason"] and not line["scores"] for line in found)


@pytest.mark.parametrize("name", ONLY_CHOICE)
async def test_likelihoods_that_are_none_fail_the_sample(tmp_path: Path, name: str) -> None:
    found = await lines(tmp_path, ONLY_CHOICE[name])
    assert {(line["task"], line["status"]) for line in found} == {
        ("text", "scored"), ("chat", "scored"), ("choice", "failed"),
    }  # fmt: skip


@pytest.mark.parametrize("accept", [False, True])
async def test_an_answer_without_a_finish_reason_is_counted_and_scored_on_demand(tmp_path: Path, accept: bool) -> None:
    folder = tmp_path / "run"
    change = lie(each(lambda c: c.update(finish_reason=None)))
    found = await lines(folder, change, accept_missing_finish=accept)
    statuses = {line["task"]: line["status"] for line in found}
    wanted = "scored" if accept else "failed"
    assert statuses == {"text": wanted, "chat": wanted, "choice": "scored"}
    assert all("finish_reason" in line["notes"][0] for line in found)


async def test_a_large_answer_of_no_use_is_kept_in_part(tmp_path: Path) -> None:
    found = await lines(tmp_path, lie(lambda b: b.update(error="x", more=["y" * 100] * 10_000)))
    assert all(line["status"] == "failed" for line in found)
    assert all(line["response"].endswith("characters are left out)") for line in found)
    assert (tmp_path / "samples.jsonl").stat().st_size < 1_000_000


async def test_another_model_is_counted(tmp_path: Path) -> None:
    found = await lines(tmp_path, lie(lambda b: b.update(model="other")))
    assert {line["status"] for line in found} == {"scored"}
    assert {note for line in found for note in line["notes"]} == {"answered by the model 'other', requested was 'm'"}


@pytest.mark.parametrize("usage", ["n/a", [], {"completion_tokens": "n/a"}, {"completion_tokens": 1e300, "x": []}, -1])
async def test_usage_may_be_anything(tmp_path: Path, usage: Json) -> None:
    found = await lines(tmp_path, lie(lambda b: b.update(usage=usage)))
    assert {line["status"] for line in found} == {"scored"}
    journal = json.loads((tmp_path / "journal.json").read_text())
    assert (journal["throughput"]["generated_tokens"], journal["throughput"]["without_usage"]) == (0, 6)


async def test_the_page_of_a_proxy_is_no_refusal(tmp_path: Path) -> None:
    async def respond(body: Json, request: web.Request) -> web.Response:
        if "2+2=0" in json.dumps(body):
            return web.Response(status=403, text="<html>Forbidden</html>")
        return web.json_response({"error": {"message": "too long", "type": "invalid_request_error"}}, status=400)

    async with serving(respond) as server:
        chosen: Json = {"text": tasks(tmp_path)["text"]}
        await evaluate(server.endpoint, chosen, [], Evaluate(max_pause_s=0), tmp_path, {"v": 1}, Watch())
    found = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {line["id"]: line["status"] for line in found} == {"0": "failed", "1": "refused"}


async def test_a_faulty_answer_is_not_cached(tmp_path: Path) -> None:
    caching = [Caching(str(tmp_path / "answers"))]
    first = await lines(tmp_path / "1", FAULTS["aborted"], caching)
    second = await lines(tmp_path / "2", right, caching)
    third = await lines(tmp_path / "3", FAULTS["aborted"], caching)
    assert {line["status"] for line in first} == {"failed"}
    assert {line["status"] for line in second + third} == {"scored"}


STRANGE: tuple[Json, ...] = (None, True, 7, -(2**40), 10**30, 1e308, "", "\x1b[2J\u202e", [], {}, [[]])


def paths(value: Json, path: tuple[Json, ...] = ()) -> Iterator[tuple[Json, ...]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


def mutated(body: Json, number: int) -> Json:
    """Change one place of an answer; the number says which, and how."""
    every = list(paths(body))
    *way, key = every[number % len(every)]
    holder = body
    for step in way:
        holder = holder[step]
    how = number // len(every) % (len(STRANGE) + 3)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif how == 2 and isinstance(holder[key], int | float):
        holder[key] = -holder[key]
    else:
        holder[key] = STRANGE[how % len(STRANGE)]
    return body


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 10**6), min_size=6, max_size=6), st.integers(0, 10**9))
async def test_any_change_of_an_answer_fails_it_or_leaves_its_score(
    tmp_path: Path, numbers: list[int], seed: int
) -> None:
    given_out = iter(numbers)
    folder = tmp_path / f"{seed}-{'-'.join(map(str, numbers))}"[:100]
    found = await lines(folder, lambda asked: mutated(right(asked), next(given_out, 0)), [Reasoning()])
    for line in found:
        text = isinstance(line["prediction"], str)
        honest = {"exact_match": 1.0} if line["task"] != "choice" else {"acc": 1.0, "acc_norm": 1.0}
        changed_text = text and line["prediction"] != "4"  # another text is another answer
        assert (
            line["status"] in ("failed", "unparsed", "refused", "truncated") or line["scores"] == honest or changed_text
        )
        assert line["reason"] is None or "scoring failed" not in line["reason"]


NAME = "evil\x1b]0;owned\x07\u202e[red]\x9b31m"
HOSTILE = "\x1b[2J\x1b]0;owned\x07no\x9b\u202e[bold red]bad[/]\r\nlauncher: ok"


@contextmanager
def hostile() -> Iterator[str]:
    """A server whose every word steers a terminal."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": NAME}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "messages" in asked:
                self._say(400, {"error": {"message": HOSTILE, "type": HOSTILE}})
            else:
                body = answered("text_completion", [said(HOSTILE, finish=HOSTILE)])
                self._say(200, body | {"model": NAME})

        def _say(self, status: int, body: Json) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "skip", ["[]", "[completion,token accounting,greedy repeats,own parameters,stop trimmed,chat]"]
)
def test_nothing_of_a_server_steers_the_terminal(tmp_path: Path, skip: str) -> None:
    with hostile() as url:
        arguments = [
            sys.executable, str(ROOT / "launch.py"), "backend=external", f"backend.url={url}", "engine=none",
            "model=none", "tasks=[addition,capitals]", "evaluate.limit=3", f"hydra.run.dir={tmp_path / 'run'}",
            "evaluate.max_pause_s=0",
            f"validate.skip={skip}",
        ]  # fmt: skip
        with program(arguments, tmp_path, dict(os.environ)) as process:
            out, err = process.communicate(timeout=120)
    shown = out + err
    assert "Traceback" not in shown
    assert not [c for c in shown if c != "\n" and not c.isprintable()], shown
    assert "\nlauncher: ok" not in shown
