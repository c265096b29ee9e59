from __future__ import annotations

import asyncio

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Request
from launcher.evaluate.sample_source import SampleSource, overridden
from launcher.settings.evaluate import Evaluate
from launcher.tasks import waiting
from tests.evaluate.evaluation_server import Echoes


async def taken(source):
    found = []
    while (sample := await source.take()) is not None:
        found.append(sample)
    return found


async def test_tasks_samples_and_repeats_in_order():
    source = SampleSource({"a": Echoes(2), "b": Echoes(1)}, Evaluate(repeats=2, concurrency=3), "m", set())
    samples = await taken(source)
    assert [s.key for s in samples] == ["a/0/0", "a/0/1", "a/1/0", "a/1/1", "b/0/0", "b/0/1"]
    assert [s.key for s in samples] == [s.requests[0].sample for s in samples]
    assert list(source.order) == [source.keys.find(s.key) for s in samples] == list(range(6))
    assert samples[0].requests[0].body["model"] == "m"


async def test_what_is_done_is_in_the_order_but_not_asked():
    source = SampleSource({"a": Echoes(3)}, Evaluate(), "m", {"a/1/0"})
    assert [s.id for s in await taken(source)] == ["0", "2"]
    assert list(source.order) == [source.keys.find(key) for key in ("a/0/0", "a/1/0", "a/2/0")]


async def test_only_as_many_are_made_as_are_in_flight():
    task = Echoes(1000)
    source = SampleSource({"a": task}, Evaluate(concurrency=4), "m", set())
    await source.take()
    assert task.made <= 5


async def test_what_is_made_is_taken_at_once():
    source = SampleSource({"a": Echoes(4)}, Evaluate(concurrency=3), "m", set())
    assert source.take_at_once() is None, "nothing is made yet"
    first = await source.take()
    found = [first, source.take_at_once(), source.take_at_once()]
    assert [sample and sample.id for sample in found] == ["0", "1", "2"]
    assert source.take_at_once() is None
    assert [sample.id for sample in await taken(source)] == ["3"]


async def test_many_askers_get_each_sample_once():
    source = SampleSource({"a": Echoes(50)}, Evaluate(concurrency=3), "m", set())
    groups = await asyncio.gather(*(taken(source) for _ in range(7)))
    assert sorted(int(s.id) for group in groups for s in group) == list(range(50))


async def test_limit_and_totals():
    source = SampleSource({"a": Echoes(5), "b": Echoes(2)}, Evaluate(limit=3, repeats=2), "m", set())
    assert source.totals(complete=False) == {"a": 6, "b": 4}
    assert len(await taken(source)) == 10


async def test_an_unknown_size_is_counted_when_asked_to():
    source = SampleSource({"a": Echoes(5), "b": Echoes(4, knows_size=False)}, Evaluate(concurrency=2), "m", set())
    await source.take()
    assert source.totals(complete=False) == {"a": 5, "b": None}
    assert source.totals(complete=True, within_s=0) == {"a": 5, "b": None}, "there was no time to make them"
    assert source.totals(complete=True) == {"a": 5, "b": 4}
    assert source.totals(complete=False) == {"a": 5, "b": 4}


def test_the_size_of_a_task_that_cannot_make_its_samples_stays_unknown():
    class Broken(Echoes):
        def samples(self, name, model):
            yield from Echoes(2).samples(name, model)
            raise TaskError("item 3 is damaged")

    source = SampleSource({"a": Echoes(5), "b": Broken(4, knows_size=False)}, Evaluate(), "m", set())
    with pytest.raises(TaskError, match="item 3 is damaged"):
        source.totals(complete=True)
    assert source.totals(complete=True) == {"a": 5, "b": None}


async def test_two_samples_with_one_id_are_refused():
    class Twice(Echoes):
        def samples(self, name, model):
            yield from super().samples(name, model)
            yield from super().samples(name, model)

    with pytest.raises(TaskError, match=r"tasks\.a: two samples have the id '0'"):
        await taken(SampleSource({"a": Twice(1)}, Evaluate(), "m", set()))


BODY = {"prompt": "x", "max_tokens": 4, "temperature": 0.0}


def test_settings_replace_what_the_task_says():
    settings = Evaluate(temperature=0.7, max_tokens=9, seed=5)
    changed = overridden(Request("/v1/completions", BODY), settings, 2)
    assert changed.body == {"prompt": "x", "max_tokens": 9, "temperature": 0.7, "seed": 7}
    chat = overridden(Request("/v1/chat/completions", {"max_completion_tokens": 4}), settings, 0)
    assert chat.body == {"max_completion_tokens": 9, "temperature": 0.7, "seed": 5}
    assert overridden(Request("/v1/completions", BODY), Evaluate(), 0).body == BODY


def test_a_likelihood_request_stays_as_it_is():
    request = Request("/v1/completions", {"prompt": ["x"], "echo": True, "max_tokens": 1})
    settings = Evaluate(temperature=0.7, max_tokens=9, seed=5)
    assert overridden(request, settings, 1) == request


@pytest.mark.parametrize(
    ("key", "value"),
    [("concurrency", 0), ("repeats", 0), ("limit", 0), ("max_tokens", 0), ("temperature", -1.0), ("timeout_s", 0.0),
     ("min_coverage", 1.5), ("min_coverage", -0.1)],
)  # fmt: skip
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=rf"evaluate\.{key} is {value}"):
        Evaluate(**{key: value})


def test_what_decides_the_answers():
    assert Evaluate.answer_fields() == [
        "repeats",
        "limit",
        "temperature",
        "max_tokens",
        "seed",
        "retry_truncated",
        "order_seed",
    ]


async def test_counting_does_not_wait_for_a_server_that_is_gone():
    class AsksTheServer(Echoes):
        def samples(self, name, model):
            yield from super().samples(name, model)
            if waiting.wait(24 * 3600):
                raise waiting.NotBack("gone")

    source = SampleSource(
        {"a": AsksTheServer(3, knows_size=False), "b": Echoes(2)}, Evaluate(concurrency=1), "m", set()
    )
    await source.take()
    assert source.totals(complete=True) == {"a": None, "b": 2}
