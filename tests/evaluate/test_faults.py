from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.errors import TaskError
from launcher.core.types import Aggregation, Request, Response, Sample, Score, Status
from launcher.evaluate.ask import ask
from launcher.evaluate.faults import check_sample
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving

REQUESTS = (Request("/v1/completions", {"model": "m", "prompt": "0"}),)
WRONG: Any = {1}
LIST: Any = []
VERDICT = Request("/v1/completions", {"model": "m", "prompt": "refuse"})


def scoring(function):
    """Make a task that scores with ``function(ask)``."""

    class Scored(Echoes):
        async def score(self, sample, responses, ask):
            return await function(ask)

    return Scored(1)


async def ended(task):
    async def handler(request: Request) -> Response:
        if request.body["prompt"] == "refuse":
            return Response(400, {"error": {"message": "not this"}})
        return Response(200, {"choices": [{"index": 0, "text": "0", "finish_reason": "stop"}]})

    [sample] = task.samples("t", "m")
    record = (await ask(handler, sample, task)).record
    return record.status.value, record.reason


def gave(prediction="a", status=Status.scored, scores=None, reason=None):
    return Score(status, prediction, {"exact_match": 1.0} if scores is None else scores, reason)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (None, "it returned None, expected a Score"),
        ("scored", "it returned 'scored', expected a Score"),
        (gave(status="scored"), "its status is 'scored', expected a Status"),
        (gave(scores=["exact_match"]), "its scores are ['exact_match'], expected a mapping"),
        (gave(scores={}), "it gave no value for exact_match, the task's first metric"),
        (gave(scores={"exact_match": 1.0, "f1": 1.0}), "it gave 'f1'; the task declares exact_match"),
        (gave(prediction={1}), "its prediction cannot be written as JSON: Object of type set"),
        (gave(prediction=[math.nan]), "its prediction cannot be written as JSON: Out of range float"),
        (gave(status=Status.unparsed, scores={}, reason=5), "its reason is 5, expected a text or None"),
    ],
)
async def test_a_score_that_cannot_be_used_fails_its_sample_only(score, words):
    async def made(ask):
        return score

    status, reason = await ended(scoring(made))
    assert (status, reason.startswith(f"scoring failed: {words}")) == ("failed", True), reason


async def test_a_reason_of_a_task_is_one_line():
    async def made(ask):
        return gave(status=Status.unparsed, scores={}, reason="no\nnumber" * 1000)

    status, reason = await ended(scoring(made))
    assert (status, "\n" in reason, len(reason)) == ("unparsed", False, 500)


async def caught(ask):
    try:
        await ask(VERDICT)
    except Exception:
        return gave()


async def grouped(ask):
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(ask(VERDICT))


async def gathered(ask):
    await asyncio.gather(ask(VERDICT), ask(VERDICT))


@pytest.mark.parametrize("function", [caught, grouped, gathered])
async def test_an_error_of_ask_ends_the_sample_however_the_scoring_handles_it(function):
    assert await ended(scoring(function)) == ("refused", "HTTP 400: not this")


async def test_a_scoring_that_cancels_a_task_of_its_own_fails_its_sample(tmp_path):
    """The run is not cancelled: a worker that took this for its own end would leave the run waiting for the sample."""

    async def cancels(ask):
        own = asyncio.create_task(asyncio.sleep(60))
        own.cancel()
        await own

    async with serving() as server, asyncio.timeout(60):
        found = await evaluate(server.endpoint, {"t": scoring(cancels)}, [], Evaluate(), tmp_path, {"v": 1}, Watch())
    assert found.tasks["t"].reasons == {"failed": {"scoring failed: CancelledError: ": 1}}


async def test_a_sample_that_is_cancelled_while_it_is_scored_is_no_failure():
    reached = asyncio.Event()

    async def waits(ask):
        reached.set()
        await asyncio.sleep(60)

    running = asyncio.create_task(ended(scoring(waits)))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("x", "samples() gave 'x', expected a Sample"),
        (Sample("t", WRONG, REQUESTS, None), "a sample has the id {1}, expected a text"),
        (Sample("u", "3", REQUESTS, None), "sample '3' has the task 'u', expected 't', the name in the run"),
        (Sample("t", "3", (), None), "sample '3' has no request"),
        (Sample("t", "3", WRONG, None), "sample '3': requests is {1}, expected a tuple of Request"),
        (Sample("t", "3", REQUESTS, {1}), "sample '3': target cannot be written as JSON: Object of type set"),
        (Sample("t", "3", (Request("/", LIST),), None), "sample '3': the body of a request is not a mapping"),
        (Sample("t", "3", (Request("/", WRONG),), None), "sample '3': request cannot be written as JSON"),
    ],
)
def test_a_sample_that_cannot_be_sent_or_recorded_is_named(sample, words):
    with pytest.raises(TaskError) as refused:
        check_sample(sample, "t")
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    ("combine", "words"),
    [
        (lambda values: values[0] + "a", "TypeError: unsupported operand"),
        (lambda values: None, "ValueError: exact_match is None, expected a finite number"),
        (lambda values: math.nan, "ValueError: exact_match is nan, expected a finite number"),
        (lambda values: 17, "ValueError: exact_match is 17.0, outside of its range [0, 1]"),
    ],
)
@pytest.mark.parametrize("aggregation", [Aggregation.items, Aggregation.corpus])
async def test_a_metric_that_cannot_be_computed_is_a_note_and_the_others_stay(tmp_path, aggregation, combine, words):
    class Two(Echoes):
        metrics: ClassVar[Sequence[Metric]] = (
            Metric("exact_match", aggregation=aggregation, combine=combine),
            Metric("right"),
        )

        async def score(self, sample, responses, ask):
            return gave(scores={"exact_match": 1.0, "right": 1.0})

    async def answer(body, request):
        return said(body["prompt"])

    async with serving(answer) as server:
        found = (await evaluate(server.endpoint, {"t": Two(3)}, [], Evaluate(), tmp_path, {"v": 1}, Watch())).tasks["t"]
    assert [(name, metric.value) for name, metric in found.metrics.items()] == [("right", 1.0)]
    [(note, count)] = found.notes.items()
    if aggregation is Aggregation.items and "is None" in words:  # an item may have no value, but not all of them
        words = "ValueError: no item has enough samples"
    assert (note.startswith(f"exact_match cannot be computed: {words}"), count) == (True, 3), note


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=1), st.just({1})
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=2), st.integers()), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(VALUES)
def test_a_target_is_refused_exactly_where_json_refuses_it(value):
    sample = Sample("t", "a", REQUESTS, value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        with pytest.raises(TaskError, match="target cannot be written as JSON"):
            check_sample(sample, "t")
    else:
        check_sample(sample, "t")
