"""An honest server gets its certificate; one that lies in any one way does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from launcher.core.client import Client
from launcher.core.types import Check, Endpoint, Outcome, Severity
from launcher.core.types import Request as Call
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Extent, Failure, Family
from launcher.validate.exchange import Asking
from launcher.validate.schema import Certificate, CheckRecord
from tests.validate.lying import Lie, server

ALL = frozenset(Capability)
SCHEMA = Path(certificate.__file__).with_name("certificate.schema.json")


async def verdict(
    folder: Path, lie: Lie, needed: frozenset[Capability] = ALL, skip: tuple[str, ...] = ()
) -> dict[str, Check]:
    with server(folder, lie) as endpoint:
        checks = await certificate.validate(endpoint, Validate(timeout_s=20, skip=list(skip)), needed)
    return {check.name: check for check in checks}


def words_for_tokens(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["usage"]["completion_tokens"] = len(answer["choices"][0]["text"].split())
        answer["usage"]["total_tokens"] = answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def no_leading_null(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        answer["choices"][0]["logprobs"]["top_logprobs"].pop(0)


def echo_ignored(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        choice, prompt = answer["choices"][0], answer["usage"]["prompt_tokens"]
        choice["text"] = choice["text"][-1:]
        for name, values in choice["logprobs"].items():
            choice["logprobs"][name] = values[prompt:]


def shifted_by_one(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        values = answer["choices"][0]["logprobs"]["token_logprobs"]
        values[1:] = [values[-1], *values[1:-1]]


def bytes_for_characters(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        choice = answer["choices"][0]
        before = [choice["text"][:offset] for offset in choice["logprobs"]["text_offset"]]
        choice["logprobs"]["text_offset"] = [len(text.encode()) for text in before]


def tokens_of_another_text(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        answer["choices"][0]["logprobs"]["tokens"][4] = "X"


def constant_logprobs(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        logprobs = answer["choices"][0]["logprobs"]
        logprobs["token_logprobs"] = [v and -1.0 for v in logprobs["token_logprobs"]]
        logprobs["top_logprobs"] = [None for _ in logprobs["top_logprobs"]]


def another_index(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["choices"][0]["index"] = 1


def aborted(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["choices"][0]["finish_reason"] = "abort"


def error_beside_choices(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/chat/completions":
        answer["error"] = {"message": "CUDA error"}


def usage_of_words(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["usage"] = {"prompt_tokens": "n/a", "completion_tokens": "n/a", "total_tokens": "n/an/a"}


def without_usage(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        del answer["usage"]


def null_usage(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["usage"] = None


def usage_in_a_list(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        answer["usage"] = [answer["usage"]]


def usage_without_a_count(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/completions":
        del answer["usage"]["total_tokens"]


def without_tokens(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/tokenize":
        del answer["tokens"]


def tgis_finish_reasons(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if "choices" in answer and answer["choices"][0]["finish_reason"] == "stop":
        answer["choices"][0]["finish_reason"] = "stop_sequence" if asked.get("stop") else "eos_token"


def slightly_off(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("echo"):
        logprobs = answer["choices"][0]["logprobs"]
        logprobs["token_logprobs"] = [v and v - 0.001 for v in logprobs["token_logprobs"]]


def limit_of_another_request(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("max_tokens") == 3:
        answer["usage"]["completion_tokens"] = 7


def stop_not_trimmed(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if asked.get("stop"):
        answer["choices"][0]["text"] += asked["stop"]


def another_model(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/models":
        answer["data"][0]["id"] = "somebody else"


def error_as_text(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    if path == "/v1/chat/completions":
        answer.clear()
        answer["error"] = "CUDA error"


class Restless:
    """Answers a repeated greedy request differently each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked.get("max_tokens") == 12 and "stop" not in asked:
            self.calls += 1
            answer["choices"][0]["text"] += str(self.calls)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        (words_for_tokens, "token accounting"),
        (no_leading_null, "echo aligned"),
        (echo_ignored, "echo aligned"),
        (shifted_by_one, "equal to forward pass"),
        (slightly_off, "equal to forward pass"),
        (bytes_for_characters, "echo aligned"),
        (tokens_of_another_text, "echo aligned"),
        (constant_logprobs, "echo aligned"),
        (another_index, "completion"),
        (aborted, "completion"),
        (error_beside_choices, "chat"),
        (usage_of_words, "token accounting"),
        (limit_of_another_request, "own parameters"),
        (stop_not_trimmed, "stop trimmed"),
        (another_model, "model listed"),
        (error_as_text, "chat"),
        (Restless(), "greedy repeats"),
    ],
)
async def test_a_lie_is_found(tmp_path: Path, lie: Lie, check: str) -> None:
    checks = await verdict(tmp_path, lie)
    assert checks[check].ok is False, checks[check]


@pytest.mark.parametrize(
    ("lie", "check", "detail"),
    [
        (without_usage, "token accounting", "'usage' is missing, expected object"),
        (null_usage, "token accounting", "'usage' is of type null, expected object"),
        (usage_in_a_list, "token accounting", "'usage' is of type array, expected object"),
        (usage_in_a_list, "echo aligned", "'usage' is of type array, expected object"),
        (usage_of_words, "token accounting", "'usage.prompt_tokens' is 'n/a', expected a number of tokens"),
        (usage_without_a_count, "token accounting", "'usage.total_tokens' is missing, expected a number of tokens"),
        (without_tokens, "token accounting", "an answer does not have the expected form: 'tokens' is missing"),
    ],
)
async def test_a_failure_is_a_plain_sentence(tmp_path: Path, lie: Lie, check: str, detail: str) -> None:
    assert (await verdict(tmp_path, lie))[check].detail == detail


async def test_the_finish_reasons_of_tgi_pass(tmp_path: Path) -> None:
    checks = await verdict(tmp_path, tgis_finish_reasons, skip=("stream", "chat_stream"))  # those stay as they are
    assert not certificate.failed(tuple(checks.values())), checks
    assert checks["stop trimmed"].ok is True


def test_each_check_has_an_id_of_its_own() -> None:
    ids = [check.id for check in certificate.CHECKS]
    assert len(set(ids)) == len(ids) == len(set(certificate.NAMES))
    assert all(id.isidentifier() and id.islower() for id in ids)


async def test_what_is_odd_about_answers_is_said(tmp_path: Path) -> None:
    def odd(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if path == "/v1/completions":
            answer["model"] = "another"
            answer["choices"][0]["finish_reason"] = None

    check = (await verdict(tmp_path, odd))["completion"]
    assert check.ok, check
    assert "answered by the model 'another'" in check.detail
    assert "no finish_reason" in check.detail


def test_the_reason_is_a_line_that_a_reader_can_take_in() -> None:
    """The first fault is told in full, the others by name: the table has their details."""
    names = [f"check {number}" for number in range(20)]
    checks = tuple(Check(name, False, "it is wrong", effect="scores", remedy="another server") for name in names)
    assert certificate.reason(checks[:1]) == "check 0: it is wrong (scores; remedy: another server)"
    found = certificate.reason((Check("fine", True, "yes"), *checks))
    assert found.startswith("check 0: it is wrong (scores; remedy: another server); failed too: check 1, check 2")
    assert found.endswith(" and 11 more")


def test_the_prompt_tells_bytes_from_characters() -> None:
    assert not Validate().prompt.isascii()


async def test_what_no_task_needs_does_not_fail_the_endpoint(tmp_path: Path) -> None:
    checks = await verdict(tmp_path, echo_ignored, frozenset({Capability.serving, Capability.completions}))
    assert checks["echo aligned"].ok is None
    assert "not needed" in checks["echo aligned"].detail
    assert not certificate.failed(tuple(checks.values()))


async def test_nothing_more_is_asked_of_a_server_that_is_not_there() -> None:
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", "inline", "echo")
    checks = await certificate.validate(endpoint, Validate(timeout_s=5), ALL)
    assert [c.ok for c in checks] == [False]


async def test_a_check_that_is_left_out_is_not_passed(tmp_path: Path) -> None:
    with server(tmp_path) as endpoint:
        checks = await certificate.validate(endpoint, Validate(skip=["chat"]), ALL)
    assert {c.name: c.ok for c in checks}["chat"] is None


def test_needs_follow_from_what_the_tasks_ask() -> None:
    chat = Call("/v1/chat/completions", {})
    scoring = Call("/v1/completions", {"echo": True})
    assert certificate.needs([chat]) == {Capability.serving, Capability.chat}
    assert certificate.needs([chat], ["system_message"]) == {Capability.serving, Capability.chat, Capability.system}
    assert Capability.stream in certificate.needs([chat], ["stream_coalesce"])
    system = Call("/v1/chat/completions", {"messages": [{"role": "system", "content": [{}]}], "stop": ["a"], "n": 2})
    more = {Capability.system, Capability.parts, Capability.chat_stop, Capability.choices}
    assert certificate.needs([system]) == {Capability.serving, Capability.chat, *more}
    assert Capability.system not in certificate.needs([system], ["consolidate_system"])
    several = Call("/v1/completions", {"prompt": [[1, 2], [3]], "logprobs": 0, "temperature": 1, "stop": "a"})
    more = {Capability.prompts, Capability.token_prompts, Capability.logprobs, Capability.sampling, Capability.stop}
    assert certificate.needs([several]) == {Capability.serving, Capability.completions, *more}
    assert certificate.needs([scoring]) == {Capability.serving, Capability.completions, Capability.prompt_logprobs}
    assert certificate.needs([]) == ALL


CHECKS = (
    Check("rounding", True, "fine", 0.1, {"value": 0.1}, "rounding", "log-probabilities", requests=2),
    Check("b c", False, "bad \x1b[31m\x00", id="bc", family="chat", sent="POST /a", effect="wrong", remedy="x=1"),
    Check("chat", None, "no chat", id="chat", family="chat", warned=True),
    Check("stop", None, "left out by validate.skip", id="stop", family="limits", left_out=True),
)
SERVED = Endpoint("http://127.0.0.1:1/v1", "m", "inline", "echo", api_key="secret")


def test_the_certificate_is_written(tmp_path: Path) -> None:
    certificate.write(CHECKS, SERVED, tmp_path, frozenset({Capability.serving, Capability.chat}))
    text = (tmp_path / "certificate.json").read_text()
    written = json.loads(text)
    assert written["valid"] is False
    assert written["tolerance"] == {"value": 0.1}
    assert written["needed"] == ["serving", "chat"]
    assert (written["counts"]["passed"], written["counts"]["warning"], written["counts"]["left out"]) == (1, 1, 1)
    assert [(check["id"], check["name"], check["ok"], check["outcome"]) for check in written["checks"]] == [
        ("rounding", "rounding", True, "passed"),
        ("bc", "b c", False, "failed"),
        ("chat", "chat", None, "warning"),
        ("stop", "stop", None, "left out"),
    ]
    assert "secret" not in text


async def test_the_file_of_a_real_server_has_the_shape_of_its_schema(tmp_path: Path) -> None:
    with server(tmp_path) as endpoint:
        checks = await certificate.validate(endpoint, Validate(skip=["chat"], timeout_s=20), ALL)
    certificate.write(checks, endpoint, tmp_path)
    written = json.loads((tmp_path / "certificate.json").read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(written)
    assert set(written["checks"][0]) == set(CheckRecord.__annotations__)
    assert set(written) == set(Certificate.__annotations__)
    asked = next(check for check in written["checks"] if check["id"] == "completion")
    assert asked["sent"].startswith("POST /v1/completions {")
    assert asked["received"].startswith("HTTP 200 {")
    assert asked["expected"]


def test_a_ci_system_reads_the_certificate(tmp_path: Path) -> None:
    """Characters that XML cannot hold do not break the file."""
    certificate.write(CHECKS, SERVED, tmp_path)
    suites = ElementTree.parse(tmp_path / "certificate.xml").getroot()
    cases = {case.get("name"): case for case in suites.iter("testcase")}
    assert set(cases) == {check.name for check in CHECKS}
    failure = cases["b c"].find("failure")
    assert failure is not None
    assert "effect: wrong" in str(failure.text)
    assert cases["stop"].find("skipped") is not None
    assert cases["chat"].find("failure") is None
    assert "warning: no chat" in str(cases["chat"].findtext("system-out"))
    assert sum(int(suite.get("failures", "")) for suite in suites) == 1


@pytest.mark.parametrize("severity", list(Severity))
async def test_a_failure_stops_the_run_only_if_it_is_fatal_and_needed(tmp_path: Path, severity: Severity) -> None:
    async def fails(context: CheckContext) -> str:
        await context.talk()
        raise Failure("wrong")

    check = CheckDefinition("a", "a", Capability.chat, fails, Family.chat, "right", "no score", "nothing", severity)
    with server(tmp_path) as endpoint:
        async with Client(endpoint, timeout_s=20) as client:
            context = CheckContext(endpoint, Asking(endpoint, client), Validate())
            found = await check.run(context, ALL, {})
            other = await check.run(context, frozenset({Capability.serving}), {}, Extent.every)
            unasked = await check.run(context, frozenset({Capability.serving}), {})
            after = await replace(check, id="b", after="a").run(context, ALL, {"a": found})
    fatal = severity is Severity.fatal
    expected = Outcome.failed if fatal else Outcome.warning if severity is Severity.warning else Outcome.not_applicable
    assert found.outcome is expected
    assert (found.requests, found.sent[:25]) == (1, "POST /v1/chat/completions")
    assert other.outcome is (Outcome.not_applicable if severity is Severity.info else Outcome.warning)
    assert (unasked.outcome, unasked.requests) == (Outcome.not_applicable, 0)
    assert after.outcome is (expected if severity is Severity.info else Outcome.not_applicable)
