from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.caching import Caching
from launcher.adapters.chain import all_running, pipeline
from launcher.adapters.reasoning import Reasoning
from launcher.core.errors import AdapterError, TransportError, UserError
from launcher.core.types import Request, Response

KNOWN = Downstream({"fingerprint": "sha256:1"})
BODY = {"model": "m", "prompt": "a", "temperature": 0, "max_tokens": 4}
ASKED = Request("/v1/completions", BODY, sample="t/1/0")


def said(text):
    return Response(200, {"choices": [{"index": 0, "text": text}], "usage": {"completion_tokens": 1}}, {"X-Id": "1"})


@pytest.fixture
def ask(tmp_path):
    """Ask in a session of its own, with the same folder for answers; ``run`` is the folder of the run."""

    async def asked(upstream, *requests, behind=KNOWN, run="", **settings):
        caching = Caching(str(tmp_path / "answers"), **settings)
        (tmp_path / run).mkdir(exist_ok=True)
        async with caching.running(tmp_path / run, behind):
            return [await caching(request, upstream) for request in requests]

    return asked


def texts(responses):
    return [response.body["choices"][0]["text"] for response in responses]


async def test_the_same_request_is_asked_once_also_by_a_later_run(ask, server, tmp_path):
    upstream = server(said("one"), said("two"))
    first, second = await ask(upstream, ASKED, ASKED)
    assert (first.cached, second.cached) == (False, True)
    assert second.body == first.body
    (third,) = await ask(upstream, ASKED)
    assert third.cached
    assert texts([third]) == ["one"]
    assert len(upstream.asked) == 1
    assert json.loads((tmp_path / "caching.json").read_text()) == {"from_folder": 2, "asked": 1}


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, path="/v1/chat/completions"),
        replace(ASKED, headers={"X-Route": "b"}),
        replace(ASKED, sample="t/1/1"),
        *(
            replace(ASKED, body=BODY | {key: value})
            for key, value in {
                "model": "other",
                "prompt": "b",
                "max_tokens": 5,
                "temperature": 0.5,
                "stop": ["\n"],
                "n": 2,
                "logprobs": 1,
                "seed": 1,
                "echo": True,
                "anything": None,
            }.items()
        ),
    ],
    ids=str,
)
async def test_another_request_is_another_answer(ask, server, other):
    assert texts(await ask(server(said("one"), said("two")), ASKED, other)) == ["one", "two"]


@pytest.mark.parametrize(
    "other",
    [
        {"behind": Downstream({"fingerprint": "sha256:2"})},
        {"behind": replace(KNOWN, adapters=[{"reasoning": {"start_tag": "<t>"}}])},
        {"upstream_id": "step-2"},
    ],
    ids=str,
)
async def test_who_answers_counts(ask, server, other):
    upstream = server(said("one"), said("two"))
    assert texts([*await ask(upstream, ASKED), *await ask(upstream, ASKED, **other)]) == ["one", "two"]


async def test_answers_that_are_drawn_stay_independent(ask, server):
    drawn = [replace(ASKED, body=BODY | {"temperature": 1}, sample=f"t/{i}/{r}") for i in (1, 2) for r in (0, 1)]
    drawn += [replace(r, body={k: v for k, v in r.body.items() if k != "temperature"}) for r in drawn]
    first = await ask(server(*[said(str(i)) for i in range(8)]), *drawn)
    assert texts(first) == [str(i) for i in range(8)]
    assert texts(await ask(server(said("never")), *drawn)) == texts(first)


@pytest.mark.parametrize("named", [False, True])
async def test_drawn_answers_to_equal_requests_of_other_clients_stay_independent(ask, server, named):
    """A harness behind a proxy asks n times for n answers; a second run of it gets the same n."""
    drawn = Proxied(BODY | {"temperature": 0.7}, named=named)
    unsaid = Proxied({k: v for k, v in BODY.items() if k != "temperature"}, named=named)
    upstream = server(*[said(str(i)) for i in range(7)])
    first = texts(await ask(upstream, *drawn.times(3), *unsaid.times(2)))
    assert first == [str(i) for i in range(5)]
    again = await ask(upstream, *drawn.times(4), *unsaid.times(2), run="again")
    assert texts(again) == [*first[:3], "5", *first[3:]]
    assert texts(await ask(upstream, *Proxied(BODY, named=named).times(2))) == ["6", "6"]


class Proxied:
    """Equal requests of a client of the proxy, which names each or none."""

    count = 0

    def __init__(self, body, *, named):
        self.body, self.named = body, named

    def times(self, count):
        for _ in range(count):
            Proxied.count += 1
            yield replace(ASKED, body=self.body, sample=f"proxy/run.{Proxied.count}/0" if self.named else None)


async def test_workers_of_a_proxy_share_no_drawn_answer(server, tmp_path):
    upstream, found = server(*[said(str(i)) for i in range(4)]), []
    drawn = replace(ASKED, body=BODY | {"temperature": 0.7}, sample=None)
    for folder in ("one/worker-1", "one/worker-2", "two/worker-1"):
        (tmp_path / folder).mkdir(parents=True)
        caching = Caching(str(tmp_path / "answers"))
        async with caching.running(tmp_path / folder, KNOWN):
            found += texts([await caching(drawn, upstream)])
    assert found == ["0", "1", "0"]


async def test_a_process_that_follows_a_dead_one_repeats_none_of_its_drawn_answers(server, tmp_path):
    upstream, found = server(*[said(str(i)) for i in range(4)]), []
    drawn = Proxied(BODY | {"temperature": 1}, named=True)
    for run in ("one", "one", "two"):
        (tmp_path / run).mkdir(exist_ok=True)
        caching = Caching(str(tmp_path / "answers"))
        async with caching.running(tmp_path / run, KNOWN):
            found += texts([await caching(request, upstream) for request in drawn.times(2)])
    assert found == ["0", "1", "2", "3", "0", "1"]


async def test_samples_share_what_is_not_drawn(ask, server):
    same = [replace(ASKED, sample=sample) for sample in ("t/1/0", "u/7/0", "t/1/1", "u/7/1")]
    assert texts(await ask(server(said("one"), said("two")), *same)) == ["one", "one", "two", "two"]


async def test_at_the_same_time_it_is_sent_once(tmp_path, server):
    upstream = server(said("one"))

    async def slow(request):
        await asyncio.sleep(0.05)
        return await upstream(request)

    caching = Caching(str(tmp_path / "answers"))
    async with caching.running(tmp_path, KNOWN):
        found = await asyncio.gather(*[caching(ASKED, slow) for _ in range(5)])
    assert texts(found) == ["one"] * 5
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "failure",
    [Response(500, {}), Response(400, {}), Response(200, {"error": {"message": "no"}}), TransportError("down")],
)
async def test_a_failure_is_not_kept(ask, server, failure):
    upstream = server(failure, said("two"))
    if isinstance(failure, Exception):
        with pytest.raises(TransportError):
            await ask(upstream, ASKED)
    else:
        assert await ask(upstream, ASKED) == [failure]
    assert texts(await ask(upstream, ASKED)) == ["two"]


async def read(response):
    return [event async for event in response.events]


ENDING = (("a", None), ("b", "stop"))


async def test_a_stream_is_kept_when_it_came_to_its_end(ask, server, stream, tmp_path):
    events = [{"choices": [{"index": 0, "text": text, "finish_reason": end}]} for text, end in ENDING]
    upstream = server(*[Response(200, events=stream(events)) for _ in range(2)])
    streamed = replace(ASKED, body=BODY | {"stream": True})
    caching = Caching(str(tmp_path / "answers"))
    async with caching.running(tmp_path, KNOWN):
        left: Any = (await caching(streamed, upstream)).events
        await anext(left)
        await left.aclose()
        assert await read(await caching(streamed, upstream)) == events
    (again,) = await ask(upstream, streamed)
    assert again.cached
    assert await read(again) == events
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("indices", [[0], [0, 1, 2], [1]])
async def test_a_stream_with_other_choices_than_were_asked_for_is_not_kept(ask, server, stream, indices):
    events = [{"choices": [{"index": index, "text": "a", "finish_reason": "stop"}]} for index in indices]
    upstream = server(*[Response(200, events=stream(events)) for _ in range(2)])
    for _ in range(2):
        (response,) = await ask(upstream, replace(ASKED, body=BODY | {"stream": True, "n": 2}))
        assert await read(response) == events
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("last", [TransportError("cut"), {"error": {"message": "dead"}}])
async def test_a_stream_that_fails_is_not_kept(ask, server, stream, last):
    upstream = server(*[Response(200, events=stream([{"choices": []}, last])) for _ in range(2)])
    for _ in range(2):
        (response,) = await ask(upstream, ASKED)
        if isinstance(last, Exception):
            with pytest.raises(TransportError):
                await read(response)
        else:
            await read(response)
    assert len(upstream.asked) == 2


def rows(folder):
    with closing(sqlite3.connect(folder / "answers" / "answers.1.sqlite")) as file:
        return file.execute("SELECT digest, used, sum, answer FROM answers").fetchall()


def change(folder, statement, *values):
    with closing(sqlite3.connect(folder / "answers" / "answers.1.sqlite")) as file, file:
        assert file.execute(statement, values).rowcount == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"null"])
async def test_a_damaged_answer_is_asked_again_and_mended(ask, server, tmp_path, damage, caplog):
    upstream = server(said("one"), said("two"))
    await ask(upstream, ASKED)
    change(tmp_path, "UPDATE answers SET answer = ?", damage)
    assert texts(await ask(upstream, ASKED, ASKED)) == ["two", "two"]
    assert texts(await ask(upstream, ASKED)) == ["two"]
    assert caplog.text.count("is damaged; asked again") == 1


@pytest.mark.parametrize("damage", ["no database", "header only", "cut", "a page in the middle"])
async def test_a_damaged_file_is_put_aside_with_one_line(ask, server, tmp_path, damage, caplog):
    upstream, file = server(said("one" * 5000), said("two")), tmp_path / "answers/answers.1.sqlite"
    await ask(upstream, *[replace(ASKED, body=BODY | {"seed": seed}) for seed in range(20)], ASKED)
    content, asked = file.read_bytes(), len(upstream.asked)
    damaged = {
        "no database": b"this is no database, but a text" * 1000,
        "header only": content[:100] + bytes(len(content) - 100),
        "cut": content[: len(content) // 3],
        "a page in the middle": content[:4096] + b"\xff" * (len(content) - 4096),
    }[damage]
    file.write_bytes(damaged)
    assert texts(await ask(upstream, ASKED, ASKED)) == ["two", "two"]
    assert texts(await ask(upstream, ASKED)) == ["two"]
    assert len(upstream.asked) == asked + 1
    assert file.read_bytes() == damaged
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "answers.1.damaged",
        "answers.1.sqlite",
        "answers.2.sqlite",
    ]
    assert caplog.text.count("it is put aside") == 1


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE answers (digest BLOB PRIMARY KEY, answer BLOB)",
        "CREATE TABLE answers (digest BLOB PRIMARY KEY, used INTEGER, sum INTEGER, answer BLOB, more TEXT)",
        "CREATE VIEW answers AS SELECT 1",
    ],
)
async def test_a_file_of_another_version_is_put_aside_and_left_alone(ask, server, tmp_path, made, caplog):
    file, upstream = tmp_path / "answers/answers.1.sqlite", server(said("one"))
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as other, other:
        other.execute(made)
    content = file.read_bytes()
    assert texts(await ask(upstream, ASKED)) == texts(await ask(upstream, ASKED)) == ["one"]
    assert len(upstream.asked) == 1
    assert file.read_bytes() == content
    assert caplog.text.count("its answers have the columns") == 1


async def test_a_folder_that_is_removed_while_it_is_used_begins_anew(server, tmp_path, ask):
    upstream = server(said("one"), said("two"), said("three"))
    caching = Caching(str(tmp_path / "answers"))
    async with caching.running(tmp_path, KNOWN):
        await caching(ASKED, upstream)
        await written(tmp_path)
        shutil.rmtree(tmp_path / "answers")
        await caching(replace(ASKED, body=BODY | {"seed": 1}), upstream)
    assert texts(await ask(upstream, replace(ASKED, body=BODY | {"seed": 1}), ASKED)) == ["two", "three"]


async def written(folder):
    while not rows(folder):
        await asyncio.sleep(0.01)


async def test_secrets_are_not_written(ask, server, tmp_path):
    await ask(server(said("one")), replace(ASKED, headers={"Authorization": "Bearer s3cret"}))
    for file in (tmp_path / "answers").iterdir():
        assert b"s3cret" not in file.read_bytes()


async def test_what_was_not_used_for_the_longest_time_goes_first(ask, server, tmp_path):
    several = [replace(ASKED, body=BODY | {"seed": seed}) for seed in range(2000)]
    upstream = server(said("x" * 5000))
    await ask(upstream, *several[:1000])
    with closing(sqlite3.connect(tmp_path / "answers/answers.1.sqlite")) as file, file:
        file.execute("UPDATE answers SET used = used - 1e6")
    await ask(upstream, *several[:100])  # marks them as used
    asked, limit = len(upstream.asked), 4 << 20
    assert asked == 1000
    await ask(upstream, *several[1000:1300], max_gib=limit / 2**30)
    assert (tmp_path / "answers/answers.1.sqlite").stat().st_size <= limit
    kept = rows(tmp_path)
    assert len(kept) > 300
    await ask(upstream, *several[:100], *several[1000:1300])
    assert len(upstream.asked) == asked + 300
    await ask(upstream, *several[100:1000])
    assert len(upstream.asked) > asked + 600


async def test_an_answer_above_the_limit_is_not_kept(ask, server):
    upstream = server(said("x" * 100_000))
    for _ in range(2):
        await ask(upstream, ASKED, max_gib=1e-5)
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("behind", [False, True])
async def test_an_answer_that_another_adapter_fails_is_not_kept(server, tmp_path, behind):
    """The model's answer has an end tag alone, which `reasoning` refuses, whether it is in front or behind."""
    upstream = server(said("odd</think>"), said("even"))
    caching, reasoning = Caching(str(tmp_path / "answers")), Reasoning()
    adapters = [caching, reasoning] if behind else [reasoning, caching]
    async with all_running(adapters, tmp_path, {"fingerprint": "1"}):
        with pytest.raises(AdapterError, match="without '<think>'"):
            await pipeline(adapters, upstream)(ASKED)
    async with all_running(adapters, tmp_path, {"fingerprint": "1"}):
        assert texts([await pipeline(adapters, upstream)(ASKED)]) == ["even"]
    assert len(rows(tmp_path)) == 1


async def test_a_stream_that_another_adapter_fails_is_not_kept(server, stream, tmp_path):
    events = [{"choices": [{"index": 0, "text": "odd</think>", "finish_reason": "stop"}]}]
    upstream = server(*[Response(200, events=stream(events)) for _ in range(2)])
    for _ in range(2):
        adapters = [Reasoning(), Caching(str(tmp_path / "answers"))]
        async with all_running(adapters, tmp_path, {"fingerprint": "1"}):
            response = await pipeline(adapters, upstream)(ASKED)
            with pytest.raises(AdapterError, match="without '<think>'"):
                await read(response)
    assert len(upstream.asked) == 2


CUT = [
    [],
    [{"choices": []}],
    [{"choices": [{"index": 0, "text": "a", "finish_reason": None}]}],
    [{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}, {"index": 1, "text": "b"}]}],
]


@pytest.mark.parametrize("events", CUT)
async def test_a_stream_whose_choices_have_no_end_is_not_kept(ask, server, stream, events):
    upstream = server(*[Response(200, events=stream(events)) for _ in range(2)])
    for _ in range(2):
        assert await read((await ask(upstream, ASKED))[0]) == events
    assert len(upstream.asked) == 2


async def test_it_says_where_it_is_and_how_to_clear_it(ask, server, tmp_path, capsys):
    await ask(server(said("one")), ASKED, max_gib=3)
    folder = tmp_path / "answers"
    assert f"of 3 GiB in {folder}/answers.1.sqlite; delete {folder} to clear it" in capsys.readouterr().err


async def test_what_a_model_says_is_kept_not_what_adapters_make_of_it(tmp_path, server):
    upstream, found = server(said("<a>x</a><b>y</b>z")), []
    for tag in "ab":
        adapters = [Reasoning(f"<{tag}>", f"</{tag}>"), Caching(str(tmp_path / "answers"))]
        async with all_running(adapters, tmp_path, {"fingerprint": "1"}):
            found += texts([await pipeline(adapters, upstream)(ASKED)])
    assert found == ["<b>y</b>z", "<a>x</a>z"]
    assert len(upstream.asked) == 1


async def test_adapters_behind_it_count(tmp_path, server):
    upstream, found = server(said("<a>x</a><b>y</b>z")), []
    for tag in "aba":
        adapters = [Caching(str(tmp_path / "answers")), Reasoning(f"<{tag}>", f"</{tag}>")]
        async with all_running(adapters, tmp_path, {"fingerprint": "1"}):
            found += texts([await pipeline(adapters, upstream)(ASKED)])
    assert found == ["<b>y</b>z", "<a>x</a>z", "<b>y</b>z"]
    assert len(upstream.asked) == 2


async def test_an_unknown_checkpoint_needs_a_name(ask, server):
    upstream = server(said("one"), said("two"))
    with pytest.raises(UserError, match=r"adapters\.caching\.upstream_id is not set"):
        await ask(upstream, ASKED, behind=Downstream(None))
    found = [await ask(upstream, ASKED, behind=Downstream(None), upstream_id=name) for name in ("a", "b", "a")]
    assert [texts(responses) for responses in found] == [["one"], ["two"], ["one"]]


async def test_a_folder_that_cannot_be_is_refused(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"adapters\.caching\.folder=.*file/answers: cannot be used: "):
        async with Caching(str(tmp_path / "file/answers")).running(tmp_path, KNOWN):
            pass
    with pytest.raises(UserError, match="a folder is needed"):
        Caching("")


async def test_outside_of_a_run_it_refuses(server):
    with pytest.raises(AdapterError, match="outside of a run"):
        await Caching()(ASKED, server())
