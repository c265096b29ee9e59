"""What ``samples.jsonl`` keeps of an echo is short, and is scored again to the last digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.records import from_line, to_line, to_whole_line
from launcher.core.responses import check
from launcher.core.types import Json, Record, Response, Sample, Status
from launcher.evaluate.ask import ask
from launcher.evaluate.stored_answers import answering, difference, with_stored_requests
from launcher.tasks.base import Task
from launcher.tasks.continuation import Continuation
from launcher.tasks.multiple_choice import MultipleChoice
from tests.recorded import ECHOES
from tests.running import launch_here

CONTEXT = "Ein Beispiel <b> [x] für <s> où est le café?\n\n" * 12 + "Question: où est 東京?\nAnswer:"
CHOICES = ["à Zürich 東京", "no", "<s>"]


Kind = TypeVar("Kind", MultipleChoice, Continuation)


def sample_of(
    task: type[Kind], folder: Path, context: str = CONTEXT, choices: list[str] | None = None
) -> tuple[Kind, Sample]:
    """Return a task with one item, and its sample."""
    choices = choices or CHOICES
    item = {
        "id": "a",
        "question": context,
        "context": context,
        "choices": choices,
        "answer": 0,
        "continuation": choices[0],
    }
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    made = task(path=str(folder / "items.jsonl"))
    return made, next(made.samples("t", "m"))


async def asked(task: Task, sample: Sample, body: Json, *, store: bool = False) -> Record:
    async def handler(request):
        return Response(200, body)

    found = await ask(handler, sample, task, store_prompt_logprobs=store)
    return found.record


async def again(task: Task, sample: Sample, stored: Record) -> Record:
    """Score a stored record, as ``mode=score`` does."""
    assert difference(sample, stored) == []
    return (await ask(answering(stored), with_stored_requests(sample, stored), task)).record


def answer_of(sample: Sample, shape: Callable[..., Json]) -> Json:
    prompt = sample.requests[0].body["prompt"]
    return shape(*(prompt if isinstance(prompt, list) else [prompt]))


@pytest.mark.parametrize("shape", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("kind", [MultipleChoice, Continuation])
async def test_the_echo_of_each_server_is_kept_short_and_scored_the_same(kind, shape, tmp_path):
    task, sample = sample_of(kind, tmp_path)
    body = answer_of(sample, shape)
    record, whole = await asked(task, sample, body), await asked(task, sample, body, store=True)
    assert record.status is Status.scored, record.reason
    assert whole.responses == (body,)
    assert (record.scores, record.prediction, record.usage) == (whole.scores, whole.prediction, whole.usage)
    line = to_line(record)
    assert len(line) < len(to_line(whole)) / 4
    for choice in record.responses[0]["choices"]:
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["tokens"][0] == choice["text"][: logprobs["text_offset"][1]]
        assert CONTEXT[:-20] in logprobs["tokens"][0]
    stored = from_line(line)
    assert (stored.requests, stored.responses) == (tuple(map(plain, sample.requests)), record.responses)
    assert to_line(replaced(await again(task, sample, stored), stored)) == line
    assert (await again(task, sample, from_line(to_line(whole)))).scores == record.scores


def plain(request):
    return {"path": request.path, "body": request.body}


def replaced(record: Record, stored: Record) -> Record:
    return replace(record, latency_s=stored.latency_s)


TEXT = st.text(st.sampled_from("ab \n\u2581<s>[é京\ufffd😀."), max_size=24)


@given(
    kind=st.sampled_from([MultipleChoice, Continuation]),
    context=TEXT,
    choices=st.lists(TEXT.filter(bool), min_size=2, max_size=4),
    shape=st.sampled_from(list(ECHOES)),
)
async def test_any_echo_that_is_scored_is_scored_the_same_from_its_line(
    tmp_path_factory, kind, context, choices, shape
):
    task, sample = sample_of(kind, tmp_path_factory.mktemp("t"), context or "q", choices)
    record = await asked(task, sample, answer_of(sample, ECHOES[shape]))
    assert record.status is not Status.scored or faults(sample, record) == [None], "no one else looks for one"
    stored = from_line(to_line(record))
    assert (stored.requests, stored.responses) == (record.requests, record.responses)
    if record.status is Status.scored:
        assert to_line(replaced(await again(task, sample, stored), stored)) == to_line(record)


def faults(sample: Sample, record: Record) -> list[str | None]:
    return [check(*each).fault for each in zip(sample.requests, map(answered, record.responses), strict=True)]


def answered(body: Json) -> Response:
    return Response(200, body)


async def test_what_is_not_stored_is_no_score(tmp_path):
    task, sample = sample_of(MultipleChoice, tmp_path)
    stored = from_line(to_line(await asked(task, sample, answer_of(sample, ECHOES["openai_like"]))))
    other = MultipleChoice(path=task.path, prefix=": où est 東京?\nAnswer: ")
    short = CONTEXT.removesuffix(": où est 東京?\nAnswer:")
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a", "question": short, "choices": CHOICES, "answer": 0}))
    found = await again(other, next(other.samples("t", "m")), stored)
    assert found.status is Status.failed
    assert "evaluate.store_prompt_logprobs=true" in str(found.reason)


async def test_only_the_answers_of_scored_samples_are_shortened(tmp_path):
    task, sample = sample_of(MultipleChoice, tmp_path)
    body = answer_of(sample, ECHOES["openai_like"])
    body["choices"][1]["logprobs"]["token_logprobs"][-2] = -1e9
    record = await asked(task, sample, body)
    assert (record.status, record.responses) == (Status.failed, (body,))


async def test_an_error_of_a_task_keeps_all(tmp_path, caplog):
    class Broken(MultipleChoice):
        def kept(self, sample, bodies):
            raise KeyError("x")

    task, sample = sample_of(Broken, tmp_path)
    body = answer_of(sample, ECHOES["openai_like"])
    record = await asked(task, sample, body)
    assert (record.status, record.responses) == (Status.scored, (body,))
    assert "t/a/0" in caplog.text


async def test_a_task_that_would_keep_a_fault_keeps_all(tmp_path):
    class Careless(MultipleChoice):
        def kept(self, sample, bodies):
            return [{"choices": bodies[0]["choices"][:1]}]

    task, sample = sample_of(Careless, tmp_path)
    body = answer_of(sample, ECHOES["openai_like"])
    record = await asked(task, sample, body)
    assert (record.status, record.responses) == (Status.scored, (body,))


def test_a_run_is_small_and_scored_again_from_its_file(tmp_path):
    run, whole, scored = tmp_path / "run", tmp_path / "whole", tmp_path / "again"
    items = [{"question": "Which word is it? " * 40 + str(n), "choices": CHOICES, "answer": 1} for n in range(4)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (options := tmp_path / "options" / "tasks").mkdir(parents=True)
    head = "# @package tasks.words\ndefaults:\n  - /schema/tasks/multiple_choice@_here_\n"
    (options / "words.yaml").write_text(head + f"path: {tmp_path / 'items.jsonl'}\nfewshot: 2\n")
    chosen = (
        "engine=echo",
        "model=none",
        "validate.skip=[greedy repeats]",
        f"--config-dir={options.parent}",
        "tasks=[words]",
    )
    for folder, more in ((run, ()), (whole, ("evaluate.store_prompt_logprobs=true",))):
        done = launch_here(tmp_path, *chosen, *more, f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
    lines = [folder / "samples.jsonl" for folder in (run, whole)]
    assert lines[0].stat().st_size < lines[1].stat().st_size / 20
    assert [metrics(folder) for folder in (run, whole)] == [metrics(run)] * 2
    done = launch_here(tmp_path, "score", str(run), f"hydra.run.dir={scored}")
    assert done.returncode == 0, done.stderr
    assert (scored / "samples.jsonl").read_bytes() == lines[0].read_bytes()
    assert b'"prompt": "Question' not in lines[0].read_bytes()
    for line in lines[0].read_bytes().splitlines(keepends=True):
        assert from_line(to_whole_line(from_line(line))) == from_line(line)


def metrics(folder: Path) -> Json:
    return json.loads((folder / "results.json").read_text())["tasks"]
