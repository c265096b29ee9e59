"""Two models race over the same questions until the verdict needs no more."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from itertools import islice

import pytest
from aiohttp import web

from launcher.core.errors import TaskError
from launcher.evaluate import outcome
from launcher.evaluate.early_stop import Draws
from launcher.evaluate.evaluator import ask_all
from launcher.evaluate.race import AHEAD, Race
from launcher.pipeline.race import _together
from launcher.settings.evaluate import Evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving

COUNT = 600


def answering(wrong, delay=0.0, only=None):
    """Answer with the prompt, and wrongly in each question that a number divides."""

    async def answer(body, request):
        if only is not None:
            await only.wait()
        await asyncio.sleep(delay)
        return said("no" if wrong and int(body["prompt"]) % wrong == 0 else body["prompt"])

    return answer


async def race(first, second, folder, *, count=COUNT, widths=None, watches=(None, None), concurrency=4, tasks=None):
    """Race two servers; return how the asking of each has ended, and the race."""
    settings = Evaluate(concurrency=concurrency)
    each = tasks or ({"t": Echoes(count)}, {"t": Echoes(count)})
    found = Race(Draws(each[0], {}, 1, 0), Draws(each[1], {}, 1, 0), widths, concurrency)
    asking = [
        ask_all(server.endpoint, given, [], settings, folder / label, {"v": 1}, watch or Watch(), stop=side)
        for server, given, label, watch, side in zip((first, second), each, "ab", watches, found.sides, strict=True)
    ]
    return await _together(found, asking), found


async def test_a_clear_difference_ends_it_early_for_both(tmp_path):
    async with serving(answering(0)) as first, serving(answering(3)) as second:
        ended, found = await race(first, second, tmp_path)
    assert ended == [None, None]
    assert found.decided == {"t": True}
    assert max(len(first.asked), len(second.asked)) < COUNT / 2
    results = [outcome.read(tmp_path / label, {"t": Echoes(COUNT)}).tasks["t"] for label in "ab"]
    for server, result in zip((first, second), results, strict=True):
        assert result.coverage["not_asked"] == 0
        assert result.coverage["not_needed"] == COUNT - len(server.asked)
        assert result.early_stop["until"] == "race"


async def test_equal_models_are_asked_everything_and_stay_undecided(tmp_path):
    async with serving(answering(3)) as first, serving(answering(3)) as second:
        ended, found = await race(first, second, tmp_path, count=120)
    assert (ended, found.decided) == ([None, None], {"t": False})
    assert (len(first.asked), len(second.asked)) == (120, 120)


async def test_a_width_ends_it_too(tmp_path):
    async with serving(answering(3)) as first, serving(answering(3)) as second:
        _, found = await race(first, second, tmp_path, widths={"t": 0.2})
    assert found.decided == {"t": True}
    assert len(first.asked) < COUNT


async def test_the_faster_one_waits_for_the_other(tmp_path):
    slow = asyncio.Event()
    async with serving(answering(0)) as first, serving(answering(2, only=slow)) as second:
        session = asyncio.create_task(race(first, second, tmp_path))
        while len(first.asked) < AHEAD:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
        ahead = len(first.asked)
        slow.set()
        ended, _ = await asyncio.wait_for(session, 60)
    assert ahead <= AHEAD + 4 + 4
    assert ended == [None, None]


async def test_it_goes_on_after_it_was_killed_and_asks_nothing_twice(tmp_path):
    async with serving(answering(0)) as first, serving(answering(6)) as second:
        whole, _ = await race(first, second, tmp_path / "whole", concurrency=1)
        expected = len(first.asked), len(second.asked)
    async with serving(answering(0)) as first, serving(answering(6)) as second:
        watch = Watch(after=20)
        session = asyncio.create_task(race(first, second, tmp_path, watches=(watch, None), concurrency=1))
        await asyncio.wait_for(watch.reached.wait(), 60)
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session
        for label in "ab":
            path = tmp_path / label / "journal.json"
            header = json.loads(path.read_text())
            path.write_text(json.dumps({name: header[name] for name in ("schema_version", "fingerprint")}))
        ended, found = await race(first, second, tmp_path, concurrency=1)
        asked = [[body["prompt"] for body in server.asked] for server in (first, second)]
    assert (ended, whole, found.decided) == ([None, None], [None, None], {"t": True})
    assert all(abs(len(set(each)) - count) <= AHEAD + 2 for each, count in zip(asked, expected, strict=True))
    assert all(len(each) - len(set(each)) <= 1 for each in asked), "only what was in flight is asked again"


async def test_a_model_that_does_not_answer_decides_nothing(tmp_path):
    """Its samples are lost, which is no sign that they are wrong."""

    async def refuses(body, request):
        return web.json_response({"error": {"message": "no"}}, status=400)

    async with serving(answering(0)) as first, serving(refuses) as second:
        _, found = await race(first, second, tmp_path, count=120)
    assert found.decided == {"t": False}


async def test_the_other_one_stops_where_one_fails(tmp_path):
    class Breaks(Echoes):
        def samples(self, name, model):
            yield from islice(super().samples(name, model), 7)
            raise TaskError("items.jsonl:8: not JSON")

    async with serving(answering(0)) as first, serving(answering(0)) as second:
        tasks = {"t": Breaks(300)}, {"t": Echoes(300)}
        ended, found = await asyncio.wait_for(race(first, second, tmp_path, tasks=tasks), 60)
    assert "not JSON" in str(ended[0])
    assert ended[1] is None
    assert found.lost
    assert len(second.asked) < 300


async def test_other_questions_cannot_race(tmp_path):
    async with serving(answering(0)) as first, serving(answering(0)) as second:
        tasks = {"t": Echoes(20)}, {"t": Echoes(30)}
        ended, _ = await asyncio.wait_for(race(first, second, tmp_path, tasks=tasks), 60)
    assert any("asked other questions" in str(each) for each in ended)


@pytest.mark.parametrize("better", ["a", "b"])
async def test_the_verdict_names_the_better_one(tmp_path, better):
    wrong = (0, 3) if better == "a" else (3, 0)
    async with serving(answering(wrong[0])) as first, serving(answering(wrong[1])) as second:
        _, found = await race(first, second, tmp_path)
    sign = "-" if better == "a" else "+"
    assert f"B - A in [{sign}" in found.described()
