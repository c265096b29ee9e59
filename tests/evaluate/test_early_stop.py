"""An evaluation asks in a random order, and only as much as its verdict needs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from aiohttp import web

from launcher.core.errors import TaskError, UserError
from launcher.core.key_table import KeyTable
from launcher.core.types import Interval, Score, Status
from launcher.evaluate import random_order
from launcher.evaluate.drawn_source import DrawnSource
from launcher.evaluate.early_stop import Draws, Widths
from launcher.evaluate.populations import NotDrawn
from launcher.evaluate.units import Question
from launcher.settings.evaluate import Evaluate
from launcher.settings.until import widths
from launcher.stats.metric import Metric
from launcher.tasks.group import Group, Weight
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving

SIXTH = 6


async def sometimes(body, request):
    """Be wrong in each sixth question."""
    return said("no" if int(body["prompt"]) % SIXTH == 0 else body["prompt"])


def stopping(tasks, width=0.2, groups=None, repeats=1, seed=0):
    draws = Draws(tasks, groups or {}, repeats, seed)
    told = f"width:{width}"
    return Widths(draws, widths(told, [each.name for each in draws.populations]), told)


async def run(server, folder, tasks, width=0.2, groups=None, progress=None, **settings):
    asking = Evaluate(until=f"width:{width}", **{"concurrency": 4, **settings})
    stop = stopping(tasks, width, groups, asking.repeats, asking.order_seed)
    given: tuple[Any, ...] = (server.endpoint, tasks, [], asking, folder, {"v": 1}, progress or Watch())
    return await evaluate(*given, stop=stop)


async def test_it_stops_at_the_width_and_says_what_was_not_needed(tmp_path):
    async with serving(sometimes) as server:
        found = await run(server, tmp_path, {"t": Echoes(600)})
    task, metric = found.tasks["t"], found.tasks["t"].metrics["exact_match"]
    asked = len(server.asked)
    assert 20 < asked < 400
    assert (task.coverage["total"], task.coverage["not_asked"], task.coverage["not_needed"]) == (asked, 0, 600 - asked)
    assert metric.interval is Interval.sequence
    assert metric.ci_low <= metric.value <= metric.ci_high
    assert metric.ci_high - metric.ci_low <= 0.2
    assert metric.ci_low <= 500 / 600 <= metric.ci_high
    assert (task.early_stop["asked"], task.early_stop["total"], task.early_stop["decided"]) == (asked, 600, True)
    ids = [json.loads(line)["id"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert ids == sorted(ids, key=int), "the file keeps the order of the task"
    assert server.prompts != sorted(server.prompts, key=int)


async def test_a_seed_decides_the_order(tmp_path):
    asked = []
    for number, seed in enumerate((0, 0, 1)):
        async with serving(sometimes) as server:
            await run(server, tmp_path / str(number), {"t": Echoes(600)}, order_seed=seed, concurrency=1)
            asked.append(server.prompts)
    assert asked[0] == asked[1]
    assert asked[0][:20] != asked[2][:20]


async def test_an_interrupted_one_goes_on_in_the_same_order_with_the_same_result(tmp_path):
    async with serving(sometimes) as server:
        whole = await run(server, tmp_path / "whole", {"t": Echoes(600)}, concurrency=1)
        expected = server.prompts
    async with serving(sometimes) as server:
        progress = Watch(after=15)
        session = asyncio.create_task(
            run(server, tmp_path / "parts", {"t": Echoes(600)}, progress=progress, concurrency=1)
        )
        await asyncio.wait_for(progress.reached.wait(), 60)
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session
        header = json.loads((tmp_path / "parts" / "journal.json").read_text())
        killed = {name: header[name] for name in ("schema_version", "fingerprint")}
        (tmp_path / "parts" / "journal.json").write_text(json.dumps(killed))
        again = await run(server, tmp_path / "parts", {"t": Echoes(600)}, concurrency=1)
        asked = list(dict.fromkeys(server.prompts))
    assert asked == expected
    assert again.tasks == whole.tasks


async def test_a_narrower_width_continues_a_run_that_has_stopped(tmp_path):
    async with serving(sometimes) as server:
        await run(server, tmp_path, {"t": Echoes(600)}, width=0.3)
        before = len(server.asked)
        found = await run(server, tmp_path, {"t": Echoes(600)}, width=0.15)
        assert len(set(server.prompts)) == len(server.asked) > before
        whole = await run(server, tmp_path, {"t": Echoes(600)}, width=1e-6)
    assert found.tasks["t"].coverage["not_needed"]
    assert (len(server.asked), whole.tasks["t"].early_stop, whole.tasks["t"].metrics["exact_match"].interval) == (
        600,
        {},
        Interval.wilson,
    )


async def test_samples_without_a_score_count_as_both(tmp_path):
    """All that is answered is right; a tenth is refused, and could be wrong or right."""

    async def answer(body, request):
        if int(body["prompt"]) % 10 == 0:
            return web.json_response({"error": {"message": "no"}}, status=400)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, {"t": Echoes(600)}, width=0.25)
    metric, coverage = found.tasks["t"].metrics["exact_match"], found.tasks["t"].coverage
    assert (metric.value, coverage["refused"] > 0) == (1.0, True)
    assert metric.ci_low <= 0.9
    assert metric.ci_high == 1.0


async def test_a_failed_sample_is_asked_again_before_the_run_ends(tmp_path):
    seen: Counter[str] = Counter()

    async def answer(body, request):
        seen[body["prompt"]] += 1
        if seen[body["prompt"]] == 1 and int(body["prompt"]) % 7 == 0:
            return web.json_response({"error": {"message": "busy"}}, status=429)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, {"t": Echoes(600)}, width=0.3)
    coverage = found.tasks["t"].coverage
    assert coverage["failed"] == 0
    assert coverage["scored"] == coverage["total"] < 600
    assert max(seen.values()) == 2


async def test_a_group_is_drawn_as_one_from_all_of_its_tasks(tmp_path):
    tasks = {"a": Echoes(400), "b": Echoes(200)}
    async with serving(sometimes) as server:
        found = await run(server, tmp_path, tasks, groups={"g": Group(["a", "b"])}, concurrency=1)
    asked = {name: result.coverage["total"] for name, result in found.tasks.items()}
    assert 0 < asked["b"] < asked["a"]
    assert abs(asked["a"] - 2 * asked["b"]) <= 6, "each task has its share"
    low, high = found.early_groups["g"]["intervals"]["exact_match"]
    assert high - low <= 0.2
    assert all(result.metrics["exact_match"].interval is Interval.sequence for result in found.tasks.values())


async def test_samples_of_which_some_could_not_be_made_are_no_draw(tmp_path):
    class Breaks(Echoes):
        def samples(self, name, model):
            yield from islice(super().samples(name, model), 7)
            raise TaskError("items.jsonl:8: not JSON")

    tasks = {"t": Breaks(600)}
    source = DrawnSource(tasks, Evaluate(), "m", (), KeyTable(), stopping(tasks), tmp_path)
    with pytest.raises(TaskError, match="not JSON"):
        await source.take()
    assert await source.take() is None, "another worker asks before it is cancelled"
    assert source.facts() == {}


async def test_repeats_of_a_question_come_together(tmp_path):
    async with serving(sometimes) as server:
        found = await run(server, tmp_path, {"t": Echoes(300)}, repeats=3, concurrency=1)
    assert len(server.asked) < 900
    assert all(len(set(server.prompts[start : start + 3])) == 1 for start in range(0, len(server.asked), 3))
    assert found.tasks["t"].coverage["not_needed"] == 900 - len(server.asked)


def test_blocks_hold_each_question_once_and_each_task_evenly():
    strata = {"a": [f"a/{n}" for n in range(1_000)], "b": [f"b/{n}" for n in range(30)]}
    found = random_order.blocks(strata, 0)
    assert sorted(question for block in found for question in block) == sorted(strata["a"] + strata["b"])
    shares = [sum(question.startswith("a/") for question in block) for block in found]
    assert set(shares) == {1_000 // len(found), 1_000 // len(found) + 1}
    assert max(sum(question.startswith("b/") for question in block) for block in found) == 1


def test_a_group_of_equal_members_weighs_its_questions():
    tasks = {"a": Echoes(300), "b": Echoes(100)}
    stop = stopping(tasks, groups={"g": Group(["a", "b"], Weight.equal)})
    stop.draws.draw({name: [Question(f"{name}/{n}") for n in range(task.count)] for name, task in tasks.items()})
    factors = stop.draws.factors(stop.draws.populations[0])
    assert factors == pytest.approx({"a": 400 / 2 / 300, "b": 400 / 2 / 100})


@dataclass
class Unbounded(Echoes):
    metrics = (Metric("loss", range=(0, None)),)

    async def score(self, sample, responses, ask):
        return Score(Status.scored, "", {"loss": 1.0})


def test_a_metric_without_bounds_is_refused():
    with pytest.raises(NotDrawn, match=r"^t is decided by loss, whose values have no bounds, \[0, unbounded\]"):
        Draws({"t": Unbounded()}, {}, 1, 0)


@pytest.mark.parametrize("until", ["width:0.02", 0.02, "0.02", {"width": 0.02}, {"t": "width:0.02"}, {"t": 0.02}])
def test_forms_of_a_width(until):
    assert widths(until, ["t"]) == {"t": 0.02}


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("narrow", "evaluate.until=narrow: expected width:W"),
        ("width:0", "with W above 0"),
        ("width:nan", "with W above 0"),
        ({"gms8k": 0.1}, r"gms8k: no such task or group \(did you mean gsm8k\?\)"),
        ({"gsm8k": "x"}, r"evaluate\.until\.gsm8k=x"),
    ],
)
def test_what_is_no_width_is_refused(until, words):
    with pytest.raises(UserError, match=words):
        widths(until, ["gsm8k"])
