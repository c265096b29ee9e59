"""Clients of other programs get through the proxy what they get without it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.proxy.test_processes import SERVED, launched

ADAPTERS = ("adapters=[payload,validate_response,finish_reason]", "+adapters.payload.add.user=me")
"""They read everything, change what the server does not look at, and need no coroutine."""
LM_EVAL = """
import json, os, sys
from lm_eval.api.instance import Instance
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI


def asked(kind, *pairs):
    return [Instance(request_type=kind, doc={}, arguments=pair, idx=n) for n, pair in enumerate(pairs)]


until = {"until": ["\\n"], "max_gen_toks": 6, "temperature": 0}
said = JsonChatStr(json.dumps([{"role": "user", "content": "2+2="}]))
for url in sys.argv[2:]:
    options = dict(model=sys.argv[1], max_length=256, auth_token=os.environ["OPENAI_API_KEY"])
    completions = LocalCompletionsAPI(base_url=f"{url}/completions", tokenizer_backend="remote", **options)
    chat = LocalChatCompletion(base_url=f"{url}/chat/completions", **options)
    pairs = ("The sky is", " blue"), ("Two", " caf\\u00e9")
    print("FOUND", json.dumps([
        completions.loglikelihood(asked("loglikelihood", *pairs)),
        completions.loglikelihood_rolling(asked("loglikelihood_rolling", ("Oak and iron.",))),
        completions.generate_until(asked("generate_until", ("2+2=", until), ("Say", until))),
        chat.generate_until(asked("generate_until", (said, until))),
    ]))
"""
INSPECT = """
import asyncio, json, os, sys
from inspect_ai.model import GenerateConfig, get_model


async def ask(url):
    config = GenerateConfig(max_tokens=6, temperature=0, logprobs=True, top_logprobs=2, num_choices=2, seed=1)
    name, key = f"openai-api/launcher/{sys.argv[1]}", os.environ["OPENAI_API_KEY"]
    answer = await get_model(name, base_url=url, api_key=key, config=config).generate("2+2=")
    return [[each.message.text, each.stop_reason, each.logprobs.model_dump()] for each in answer.choices]


for url in sys.argv[2:]:
    print("FOUND", json.dumps(asyncio.run(ask(url))))
"""


@dataclass(frozen=True)
class Served:
    """A server, by its own URL and by that of the proxy in front of it."""

    urls: tuple[str, str]
    key: str
    requests: Path

    def both(self, script: str) -> list[Any]:
        """Return what a script finds at the server, and through the proxy."""
        environment = {**os.environ, "OPENAI_API_KEY": self.key, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", script, SERVED["model"], *self.urls]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with launched(tmp_path_factory.mktemp("run"), "mode=serve", "proxy.port=0", *ADAPTERS) as run:
        own = json.loads((run.folder / "endpoint.json").read_text())["url"]
        yield Served((own, run.facts["url"]), run.key, run.folder / "proxy" / "requests.jsonl")


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@pytest.mark.services
@needs("lm_eval")
def test_lm_evals_two_clients(served: Served) -> None:
    direct, proxied = served.both(LM_EVAL)
    assert proxied == direct
    likelihoods, _, texts, chats = direct
    assert likelihoods[0][0] != likelihoods[1][0]
    assert all(texts)
    assert all(chats)


@pytest.mark.services
@needs("inspect_ai")
def test_inspect(served: Served) -> None:
    direct, proxied = served.both(INSPECT)
    assert proxied == direct
    assert len(direct) == 2
    assert len(direct[0][2]["content"]) == 6


def test_openai_in_every_mode(served: Served) -> None:
    found = [modes(url, served.key) for url in served.urls]
    assert found[0] == found[1]
    assert found[0][0][0][1], "the first chat has log-probabilities"


def modes(url: str, key: str) -> list[Any]:
    """Return what the client makes of chats and completions, whole and streamed, and of errors."""
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        common: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "n": 2, "seed": 1}
        chat = {**SERVED, **common, "logprobs": True, "top_logprobs": 2}
        text: dict[str, Any] = {"model": SERVED["model"], "prompt": ["ab", "c\u00e9"], **common, "logprobs": 2}
        usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        found: list[Any] = [
            said(client.chat.completions.create(**chat)),
            said(client.completions.create(**text, echo=True)),
        ]
        found += [list(map(said, client.chat.completions.create(**chat, **usage)))]
        found += [list(map(said, client.completions.create(**text, **usage)))]
        for wrong in ({"max_tokens": -1}, {"n": 10**6}, {"temperature": "hot"}, {"logprobs": "many"}):
            with pytest.raises(openai.BadRequestError) as raised:
                client.chat.completions.create(**{**chat, **wrong})
            found.append((raised.value.status_code, raised.value.body))
        return found


def said(answer: Any) -> list[Any]:
    """Return what an answer says, without its id and its date."""
    choices = [choice.model_dump() for choice in answer.choices]
    return [[[c, c.get("logprobs")] for c in choices], answer.usage and answer.usage.model_dump()]
