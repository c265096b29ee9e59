"""What adapters declare to read and to rewrite is what they do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import is_
from pathlib import Path

import pytest

from launcher.adapters.base import Adapter, Part, reads_of, rewrites_of
from launcher.adapters.chain import all_running, pipeline
from launcher.adapters.failures import Failures
from launcher.adapters.line_writer import check_files
from launcher.adapters.system_message import SystemMessage
from launcher.core.errors import AdapterError, UserError
from launcher.core.types import Json, Request, Response
from launcher.core.unread import Unread
from launcher.pipeline.components import extensions
from launcher.settings.component import COMPONENTS

SETTINGS: dict[str, list[dict[str, Json]]] = {
    "caching": [{"folder": "FOLDER", "upstream_id": "one"}],
    "drop_params": [{"names": ["user"]}],
    "modify_tools": [{"remove": ["look"]}],
    "omni": [{"content": "parts"}],
    "payload": [
        {"add": {"seed": 1}},
        {"remove": ["user"]},
        {"rename": {"user": "name"}},
        {"add_env": {"user": "HOME"}},
        {"add_headers": {"X-Team": "one"}},
        {"remove_headers": ["X-Team"]},
    ],
    "rate_limit": [{"requests_per_minute": 1e9}, {"tokens_per_minute": 1e9}],
    "consolidate_system": [{}, {"into_user": True}],
    "reasoning": [{}, {"starts_inside": True}],
    "response_log": [{}, {"errors_only": True}],
    "validate_response": [{}, {"require": ["usage"]}],
    "retry": [{"attempts": 2, "first_delay_s": 0.001}],
    "turn_limit": [{"max_turns": 1}, {}],
}
"""Settings of the adapters that need some, or whose declaration depends on them."""
extensions()
OURS = sorted(path.split("/")[1] for path, cls in COMPONENTS.items() if cls.__module__.startswith("launcher.adapters."))
CASES = [(name, settings) for name in OURS for settings in SETTINGS.get(name, [{}])]

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CHAT = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ],
    "tools": [TOOL],
    "user": "me",
    "temperature": 0,
    "max_tokens": 2,
}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
TEXT = "<think>a</think>b"
MESSAGE = {"role": "assistant", "content": TEXT}
CHAT_ANSWER = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}], "usage": USAGE}
LOGPROBS = {"tokens": ["p"], "token_logprobs": [None], "top_logprobs": None, "text_offset": [0]}
ANSWER = {"choices": [{"index": 0, "text": TEXT, "finish_reason": "stop"}], "usage": USAGE}
ECHOED = {"choices": [{"index": 0, "text": "p", "logprobs": LOGPROBS, "finish_reason": "length"}], "usage": USAGE}
EVENTS = [
    {"choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE},
]


@dataclass(frozen=True)
class Exchange:
    """A request, and what a server answers to it."""

    path: str
    body: Json
    answer: Json
    events: list[Json] | None = None
    status: int = 200

    def request(self, unread: Part) -> Request:
        body = Unread(json.dumps(self.body).encode()) if Part.request in unread else self.body
        return Request(self.path, body, {"X-Team": "two"}, sample="t/1/0")


EXCHANGES = [
    Exchange("/v1/chat/completions", CHAT, CHAT_ANSWER),
    Exchange("/v1/completions", {"prompt": "p", "temperature": 0}, ANSWER),
    Exchange("/v1/completions", {"prompt": "p", "echo": True, "max_tokens": 0, "logprobs": 1}, ECHOED),
    Exchange("/v1/chat/completions", CHAT | {"stream": True}, None, EVENTS),
    Exchange("/v1/chat/completions", CHAT, None, EVENTS),
    Exchange("/v1/chat/completions", CHAT | {"stream": True}, CHAT_ANSWER),
    Exchange("/v1/chat/completions", CHAT, {"error": {"message": "no"}}, status=500),
    Exchange("/v1/chat/completions", CHAT, {"error": {"message": "no"}}, status=429),
]


@dataclass
class Server:
    """Answers as the exchange says, with what ``unread`` names unparsed, and remembers what went through it."""

    exchange: Exchange
    unread: Part
    asked: list[Request] = field(default_factory=list)
    given: list[Json] = field(default_factory=list)

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if self.exchange.events is not None:
            return Response(200, events=self._events(self.exchange.events))
        hidden = Part.answer in self.unread and self.exchange.status == 200
        self.given.append(Unread(json.dumps(self.exchange.answer).encode()) if hidden else self.exchange.answer)
        return Response(self.exchange.status, self.given[0])

    async def _events(self, events: list[Json]) -> AsyncIterator[Json]:
        for event in events:
            self.given.append(Unread(json.dumps(event).encode()) if Part.events in self.unread else event)
            yield self.given[-1]


def made(name: str, settings: dict[str, Json], folder: Path) -> Adapter:
    found = {key: str(folder / "answers") if value == "FOLDER" else value for key, value in settings.items()}
    return COMPONENTS[f"adapters/{name}"](**found)


@dataclass
class Trial:
    """What an adapter made of an exchange."""

    request: Request
    server: Server
    response: Response | None = None
    events: list[Json] | None = None
    raised: AdapterError | None = None

    @property
    def kept_request(self) -> bool:
        return all(asked.body is self.request.body for asked in self.server.asked)

    @property
    def kept_answer(self) -> bool:
        given = self.server.given if self.server.exchange.events is None else ()
        return self.response is None or all(self.response.body is answer for answer in given)

    @property
    def kept_events(self) -> bool:
        if self.server.exchange.events is None or self.response is None:
            return True
        events = self.events or ()
        return len(events) == len(self.server.given) and all(map(is_, events, self.server.given))


async def tried(adapter: Adapter, exchange: Exchange, unread: Part, folder: Path) -> tuple[Trial, Failures]:
    trial = Trial(exchange.request(unread), Server(exchange, unread))
    async with all_running([adapter], folder, None) as failures:
        try:
            trial.response = await pipeline([adapter], trial.server, failures)(trial.request)
            if trial.response.events is not None:
                trial.events = [event async for event in trial.response.events]
        except AdapterError as error:
            trial.raised = error
    return trial, failures


def ids(case: tuple[str, dict[str, Json]]) -> str:
    return "-".join([case[0], *case[1]])


@pytest.mark.parametrize("case", CASES, ids=ids)
async def test_an_adapter_looks_at_nothing_else(case: tuple[str, dict[str, Json]], tmp_path: Path) -> None:
    for number, exchange in enumerate(EXCHANGES):
        adapter = made(*case, tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        trial, failures = await tried(adapter, exchange, ~adapter.reads, tmp_path / str(number))
        assert trial.raised is None or "'reads'" not in str(trial.raised), exchange
        assert not failures.counts, (exchange, failures)
        own = trial.response is not None and not trial.server.asked
        assert own or trial.kept_request or Part.request in adapter.rewrites, exchange
        assert own or trial.kept_answer or Part.answer in adapter.rewrites, exchange
        assert own or trial.kept_events or Part.events in adapter.rewrites, exchange


@pytest.mark.parametrize("case", CASES, ids=ids)
async def test_it_declares_no_more_than_it_needs(case: tuple[str, dict[str, Json]], tmp_path: Path) -> None:
    """Each declared part is looked at in at least one exchange: without it, the adapter or the observer fails."""
    for part in made(*case, tmp_path).reads:
        failed = []
        for number, exchange in enumerate(EXCHANGES):
            folder = tmp_path / f"{part.name}{number}"
            folder.mkdir()
            trial, failures = await tried(made(*case, folder), exchange, part, folder)
            failed.append((trial.raised is not None and "'reads'" in str(trial.raised)) or bool(failures.counts))
        assert any(failed), part


@pytest.mark.parametrize("case", CASES, ids=ids)
async def test_it_writes_no_file_that_it_does_not_name(case: tuple[str, dict[str, Json]], tmp_path: Path) -> None:
    adapter = made(*case, tmp_path / "apart")
    for exchange in EXCHANGES:
        await tried(adapter, exchange, Part.none, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {"apart"} <= set(adapter.files())


NO_FILES = [
    ({"request_log": "samples.jsonl"}, "'samples.jsonl', which the run writes itself"),
    ({"http_dump": "harness"}, "adapters.http_dump.folder is 'harness', which the run"),
    ({"request_log": "a", "response_log": "a"}, "'a', which adapters.request_log.file writes"),
    (
        {"token_log": "reasoning.json", "reasoning": None},
        "log.file is 'reasoning.json', which adapters.reasoning writes",
    ),
    ({"progress": "caching.sessions", "caching": None}, "which adapters.caching writes"),
]


@pytest.mark.parametrize(("names", "message"), NO_FILES)
def test_no_two_adapters_write_to_one_file_and_none_to_a_file_of_the_run(names, message, tmp_path) -> None:
    key = {"http_dump": "folder"}
    settings = {name: {} if file is None else {key.get(name, "file"): file} for name, file in names.items()}
    adapters = [made(name, SETTINGS.get(name, [{}])[0] | own, tmp_path) for name, own in settings.items()]
    with pytest.raises(UserError, match=message):
        check_files(adapters, "")


def test_the_files_of_all_adapters_at_their_defaults_differ(tmp_path) -> None:
    check_files([made(*case, tmp_path) for case in {case[0]: case for case in CASES}.values()], "")


SPELLINGS = ["?api-version=1", "?", "/", "/?a=/v1/models", "?a=/v1/embeddings/"]
"""What clients add to a path that means the same with it."""
ELSEWHERE = [("/v1/models", "?x=/v1/chat/completions"), ("/v1/embeddings", "?x=/v1/completions")]
"""Paths of other things, whose queries end like those of completions."""


async def outcome(case: tuple[str, dict[str, Json]], exchange: Exchange, folder: Path) -> Json:
    """Return what the server gets, and what comes back."""
    folder.mkdir()
    trial, failures = await tried(made(*case, folder), exchange, Part.none, folder)
    asked = [(one.body, one.headers) for one in trial.server.asked]
    found = None if trial.response is None else (trial.response.status, trial.response.body, trial.response.fault)
    raised = str(trial.raised).replace(exchange.path, "PATH")
    assert all(one.path == exchange.path for one in trial.server.asked), "the query goes on"
    return asked, found, trial.events, raised, failures.counts


@pytest.mark.parametrize("case", CASES, ids=ids)
async def test_a_path_means_the_same_in_each_spelling(case: tuple[str, dict[str, Json]], tmp_path: Path) -> None:
    pairs = [(one, one.path, end) for one in EXCHANGES for end in SPELLINGS]
    pairs += [(EXCHANGES[place], *other) for place in (0, 3) for other in ELSEWHERE]
    for number, (exchange, path, end) in enumerate(pairs):
        plain = await outcome(case, replace(exchange, path=path), tmp_path / f"plain{number}")
        other = await outcome(case, replace(exchange, path=path + end), tmp_path / f"other{number}")
        assert other == plain, path + end


class Undeclared(Adapter):
    async def __call__(self, request, call_next):
        return await call_next(request)


class Narrow(Undeclared):
    reads = Part.request
    rewrites = Part.none


class Overridden(Narrow):
    async def __call__(self, request, call_next):
        return await call_next(replace(request, body={}))


class Inherited(Narrow):
    pass


@pytest.mark.parametrize(
    ("adapter", "reads", "rewrites"),
    [
        (Undeclared, Part.all, Part.all),
        (Narrow, Part.request, Part.none),
        (Overridden, Part.all, Part.all),
        (Inherited, Part.request, Part.none),
    ],
)
def test_without_a_declaration_of_its_own_it_reads_everything(adapter, reads, rewrites) -> None:
    assert (adapter().reads, adapter().rewrites) == (reads, rewrites)


def test_a_chain_reads_what_its_adapters_read() -> None:
    assert reads_of([]) is Part.none
    assert reads_of([Narrow(), Narrow()]) is Part.request
    assert reads_of([Narrow(), Undeclared()]) is Part.all
    assert rewrites_of([Narrow()]) is Part.none


class Looks(SystemMessage):
    async def __call__(self, request, call_next):
        return await call_next(request)


@pytest.mark.parametrize(
    ("adapter", "path", "reads"),
    [
        (SystemMessage, "/v1/chat/completions", Part.request),
        (SystemMessage, "/v1/completions", Part.request | Part.answer),
        (SystemMessage, "/v1/chat/completions/?a=b", Part.request),
        (SystemMessage, "/v1/completions?a=/v1/chat/completions", Part.request | Part.answer),
        (Narrow, "/v1/chat/completions", Part.request),
        (Looks, "/v1/chat/completions", Part.all),
    ],
)
def test_what_is_read_may_depend_on_the_path(adapter, path, reads) -> None:
    assert reads_of([adapter()], path) is reads


@pytest.mark.parametrize("look", [len, str, list, bool, lambda body: body["a"], lambda body: "a" in body, dict])
def test_looking_at_what_nobody_parsed_is_an_error(look) -> None:
    with pytest.raises(AdapterError, match="does not declare in 'reads'"):
        look(Unread(b"{}"))


ODD_BODIES: list[Json] = [
    {"messages": None},
    {"messages": [1]},
    {"messages": [{"role": 5, "content": {"a": 1}}]},
    {"messages": [{"role": "system"}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [None]}, {"role": "user", "content": ["a"]}]},
    CHAT | {"tools": "x", "max_tokens": "5"},
    CHAT | {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}], "tool_choice": 5},
    *(CHAT | {"stream": on, "stream_options": odd, "n": "two"} for on in (True, False) for odd in (5, "x", [1])),
    {"messages": [{"role": ["user"], "content": [{"type": ["text"], "text": 5}]}]},
]
ODD_PROMPTS: list[Json] = [
    {"prompt": 5, "echo": True},
    {"prompt": [[1, 2]], "echo": "x", "max_tokens": "a", "logprobs": "x"},
]
ODD_ANSWERS: list[Json] = [
    None,
    "x",
    [],
    {"choices": {}},
    {"choices": [None], "usage": "x"},
    {"choices": [{"index": "0", "message": None}]},
    {
        "choices": [{"index": 0, "message": {"content": ["a"], "tool_calls": 5}, "finish_reason": ["stop"]}],
        "usage": USAGE,
    },
    {"choices": [{"index": 0, "message": {"content": "a", "tool_calls": [5]}, "logprobs": 5}]},
    {"choices": [{"index": 0, "text": None}], "usage": {"completion_tokens": "5"}},
]
ODD_EVENTS: list[Json] = [
    None,
    {"choices": "x"},
    {"choices": [None]},
    {"choices": [{"index": 0, "delta": "a"}]},
    {"choices": [{"index": 0, "delta": {"content": 5, "tool_calls": 5}}], "usage": 5},
    {"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [5]}, "logprobs": 5, "finish_reason": ["x"]}]},
]
ODD = [
    *(Exchange("/v1/chat/completions", body, CHAT_ANSWER) for body in ODD_BODIES),
    *(Exchange("/v1/completions", body, ANSWER) for body in ODD_PROMPTS),
    *(
        Exchange(path, body, answer)
        for answer in ODD_ANSWERS
        for path, body in (
            ("/v1/chat/completions", CHAT),
            ("/v1/chat/completions", CHAT | {"stream": True}),
            ("/v1/completions", {"prompt": "p", "echo": True, "max_tokens": 0}),
        )
    ),
    *(
        Exchange("/v1/chat/completions", CHAT | {"stream": streams}, None, [event, *EVENTS])
        for event in ODD_EVENTS
        for streams in (True, False)
    ),
]
"""What no server and no client should send."""


@pytest.mark.parametrize("case", CASES, ids=ids)
async def test_no_form_of_an_exchange_is_a_bug_of_the_adapter(
    case: tuple[str, dict[str, Json]], tmp_path: Path
) -> None:
    """It passes, or is refused by an `AdapterError` that says why."""
    adapter = made(*case, tmp_path)
    async with all_running([adapter], tmp_path, None) as failures:
        for number, exchange in enumerate(ODD):
            request, server = replace(exchange.request(Part.none), sample=f"t/{number}/0"), Server(exchange, Part.none)
            with suppress(AdapterError):
                response = await pipeline([adapter], server, failures)(request)
                if response.events is not None:
                    assert len([event async for event in response.events]) >= 0
    assert not failures.counts
