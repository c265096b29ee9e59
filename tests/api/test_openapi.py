from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NotRequired, get_origin, get_type_hints

import httpx
import jsonschema
import openapi_python_client
import pytest
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from launcher.api.app import OPERATIONS
from launcher.api.extra_fields import SAMPLED
from launcher.api.openapi import openapi_document
from launcher.asgi.config import FrontendConfig
from launcher.core import health
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from tests.api import raw
from tests.api.runners import Scripted, client_of, said

KEYED = openapi_document(OPERATIONS, keyed=True)
MESSAGES = [{"role": "user", "content": "hi"}]
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


def fits(value: object, schema: dict[str, str]) -> None:
    """Raise unless ``value`` is as a schema of the document says."""
    validator(schema["$ref"]).validate(value)


@cache
def validator(reference: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": reference, "components": KEYED["components"]})


def replies(method: str, path: str, status: int, media: str = "application/json") -> dict[str, Any]:
    found = KEYED["paths"][path][method]["responses"][str(status)]
    if "$ref" in found:
        found = KEYED["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return found["content"][media]["schema"]


@pytest.mark.parametrize("key", [None, "right"])
async def test_the_document_is_openapi_3_1(key: str | None) -> None:
    async with client_of(Scripted([]), frontend=FrontendConfig(key)) as client:
        answer = await client.get("/openapi.json", headers={"Authorization": f"Bearer {key}"})
    document = answer.json()
    validate(document, cls=OpenAPIV31SpecValidator)
    assert document["openapi"].startswith("3.1.")
    assert "$defs" not in answer.text
    assert ("401" in document["paths"][COMPLETION]["post"]["responses"]) == (key is not None)
    assert document["paths"]["/health"]["get"]["security"] == []


async def test_every_route_is_described_and_every_described_one_is_there() -> None:
    async with client_of(EchoAsyncEngine(Echo(), Model("echo"))) as client:
        routes = {(m.lower(), r.path) for r in client._transport.app.routes for m in r.methods}  # type: ignore[attr-defined]
    known = {(o.method, f"{o.path}{end}") for o in OPERATIONS for end in ("", "/")}
    assert {(m, path) for m, path in routes if m != "head"} == known | {("get", "/openapi.json")}


ASKS: list[tuple[str, dict[str, object]]] = [
    (COMPLETION, {"prompt": "abc"}),
    (COMPLETION, {"prompt": ["a", "b"], "n": 2, "logprobs": 2, "echo": True}),
    (COMPLETION, {"prompt": [1, 2], "logprobs": 0, "stop": ["x"], "logit_bias": {"5": 1}}),
    (CHAT, {"messages": MESSAGES}),
    (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 3, "n": 2}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "tools": [], "user": "u"}),
    ("/tokenize", {"prompt": "abc"}),
    ("/tokenize", {"messages": MESSAGES, "return_token_strs": True}),
    ("/detokenize", {"tokens": [65, 66]}),
    ("/reference_logprobs", {"tokens": [65, 66]}),
]


@pytest.mark.parametrize(("path", "body"), ASKS)
async def test_requests_and_answers_are_as_described(path: str, body: dict[str, object]) -> None:
    asked = {"model": "echo"} | body
    fits(asked, KEYED["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"])
    async with client_of(EchoAsyncEngine(Echo(), Model("echo"))) as client:
        answer = await client.post(path, json=asked)
        assert answer.status_code in (200, 501), answer.text
        fits(answer.json(), replies("post", path, answer.status_code))
        if path in (COMPLETION, CHAT):
            options = {"include_usage": True, "continuous_usage_stats": "n" in body}
            text = (await client.post(path, json=asked | {"stream": True, "stream_options": options})).text
            *events, done = text.strip().split("\n\n")
            assert done == "data: [DONE]"
            assert len(events) >= 2
            for event in events:
                fits(json.loads(event.removeprefix("data: ")), replies("post", path, 200, "text/event-stream"))


@pytest.mark.parametrize("path", [p for p, methods in KEYED["paths"].items() if "get" in methods])
async def test_what_is_read_is_as_described(path: str) -> None:
    async with client_of(EchoAsyncEngine(Echo(), Model("echo"))) as client:
        answer = await client.get(path.replace("{name}", "echo"))
    assert answer.status_code == 200
    assert (
        answer.headers["content-type"].partition(";")[0] in KEYED["paths"][path]["get"]["responses"]["200"]["content"]
    )
    if path != "/metrics":
        fits(answer.json(), replies("get", path, 200))


@pytest.mark.parametrize(
    ("script", "sent", "status"),
    [
        ([], {"content": b"{"}, 400), ([], {"json": {"model": "other", "prompt": "a"}}, 404),
        ([], {"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, 415),
        ([QueueFull("full", 2)], {}, 429), ([EngineUnavailable("x")], {}, 503), ([RuntimeError("x")], {}, 500),
        ([], {"headers": {"Authorization": "no"}}, 401),
        ([], {"headers": {"Content-Length": "99999999999"}}, 413),
    ],
)  # fmt: skip
async def test_errors_are_as_described(script: list[Exception], sent: dict[str, Any], status: int) -> None:
    asked: dict[str, Any] = {} if "content" in sent else {"json": {"model": "scripted", "prompt": "a"}}
    headers = {"Authorization": "Bearer right"} | sent.pop("headers", {})
    async with client_of(Scripted(script), frontend=FrontendConfig("right")) as client:
        answer = await client.post(COMPLETION, **asked | sent, headers=headers)
    assert answer.status_code == status
    fits(answer.json(), replies("post", COMPLETION, status))
    described_headers = KEYED["components"]["responses"][str(status)]["headers"].keys()
    assert ("Retry-After" in described_headers) or "retry-after" not in answer.headers


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
def test_what_asks_for_nothing_is_described(path: str) -> None:
    schema = KEYED["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    good = {"model": "m"} | ({"prompt": "p"} if path == COMPLETION else {"messages": MESSAGES})
    own = KEYED["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for name in own["properties"].keys() - own["required"]:
        fits(good | {name: None}, schema)
    for name, values in SAMPLED.neutral.items():
        for value in values:
            fits(good | {name: value}, schema)
    for wrong in ({"tools": [1]}, {"min_p": 0.5}, {"suffix": "x"}, {"temperature": 3}, {"zzz": 1}, {"n": "1"}):
        with pytest.raises(jsonschema.ValidationError):
            fits(good | wrong, schema)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A client that openapi-python-client has written from the document."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(KEYED))
    config = Config.from_sources(
        ConfigFile(post_hooks=[]), MetaType.NONE, folder / "openapi.json", "utf-8", False, folder / "launcher_client"
    )
    problems = openapi_python_client.generate(config=config)
    assert not problems, [f"{problem.header} {problem.detail}" for problem in problems]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("launcher_client")
    for name in [name for name in sys.modules if name.partition(".")[0] == "launcher_client"]:
        del sys.modules[name]


def operation(name: str) -> Any:
    return importlib.import_module(f"launcher_client.api.default.{name}")


def test_a_generated_client_works_against_a_server(generated: ModuleType) -> None:
    models = importlib.import_module("launcher_client.models")
    with raw.server(EchoAsyncEngine(Echo(), Model("echo")), key="right") as server:
        url = "http://{}:{}".format(*server.address)
        with generated.AuthenticatedClient(url, token="right", timeout=httpx.Timeout(60)) as client:
            ask = models.CompletionRequest(model="echo", prompt="abc", max_tokens=3, temperature=0.0, logprobs=1)
            found = operation("create_completion").sync(client=client, body=ask)
            assert found.usage.completion_tokens == 3
            assert len(found.choices[0].logprobs.tokens) == 3
            message = models.Message(role=models.MessageRole.USER, content="hi")
            chat = operation("create_chat_completion").sync(
                client=client, body=models.ChatRequest(model="echo", messages=[message], max_tokens=3)
            )
            assert chat.choices[0].message.role == "assistant"
            tokens = operation("tokenize").sync(client=client, body=models.TokenizeRequest(prompt="ab")).tokens
            text = operation("detokenize").sync(client=client, body=models.TokensRequest(tokens=tokens))
            assert text.prompt == "ab"
            assert operation("model").sync("echo", client=client) == operation("models").sync(client=client).data[0]
            assert operation("health").sync(client=client).status == "live"
            ask.model = "other"
            refused = operation("create_completion").sync_detailed(client=client, body=ask)
            assert (refused.status_code, refused.parsed.error.code) == (404, "model_not_found")
        with generated.AuthenticatedClient(url, token="wrong", timeout=httpx.Timeout(60)) as client:
            assert operation("models").sync(client=client).error.code == "invalid_api_key"


async def test_a_failure_on_the_way_of_a_stream_is_a_described_error() -> None:
    async with client_of(Scripted([said("a"), EngineUnavailable("died")])) as client:
        text = (await client.post(COMPLETION, json={"model": "scripted", "prompt": "a", "stream": True})).text
    fits(json.loads(text.strip().split("\n\n")[-1].removeprefix("data: ")), replies("post", COMPLETION, 503))


@pytest.mark.parametrize("name", ["Health", "ReplicaHealth", "LostProcess", "ScalingDecision"])
def test_the_document_describes_health_as_its_readers_know_it(name: str) -> None:
    typed: Any = getattr(health, name)
    described = openapi_document(OPERATIONS, keyed=False)["components"]["schemas"][name]
    assert described["properties"].keys() == typed.__annotations__.keys()
    hints = get_type_hints(typed, include_extras=True)
    assert set(described["required"]) == {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
