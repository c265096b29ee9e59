"""Small checkpoints whose tokens or chats others serve wrongly, through engine, API and HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from launcher.backends.inline import Inline
from launcher.core.event_loop import run_async
from launcher.core.responses import checked
from launcher.core.types import Check, Endpoint, Response
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment, Engine
from launcher.engines.huggingface import HuggingFace
from launcher.engines.megatron import Megatron
from launcher.settings.model import Model, Optimizations, Parallelism
from launcher.settings.validate import Validate
from launcher.tasks.multiple_choice import MultipleChoice
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.checkpoints.tokenizer_inputs import CHATML, PARTS, TEXTS, backend, gguf_file, gguf_vocabulary, model_folder
from tests.scoring import score

ENGINES: dict[str, type[Engine]] = {"megatron": Megatron, "huggingface": HuggingFace}
USER = [{"role": "user", "content": "What is the capital of France?"}]
LOOP = (
    "{% if messages[0].content == 'boom' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}"
)

TOOLS = {"tools read", "tool results read", "tool call valid", "tool call streamed"}
"""Checks of what a template without tools cannot do."""


@dataclass
class Served:
    endpoint: Endpoint
    http: httpx.Client

    @property
    def url(self) -> str:
        return self.endpoint.root

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(self.url + path, json=body, timeout=120)

    def tokens(self, **body: Any) -> list[int]:
        answer = self.post("/tokenize", **body)
        assert answer.status_code == 200, answer.text
        found: list[int] = answer.json()["tokens"]
        return found

    def checks(self, folder: Path) -> tuple[Check, ...]:
        return run_async(certificate.validate(self.endpoint, Validate(), frozenset(Capability), folder))

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{self.url}/engine").json()
        return found


@contextmanager
def served(path: Path, engine: str = "megatron", **model: Any) -> Iterator[Served]:
    asked = Deployment(
        Model(name="m", path=str(path), **model), ENGINES[engine](), Parallelism(), Optimizations(), path.parent / "log"
    )
    with Inline().serve(asked, allocate()) as endpoint, httpx.Client(trust_env=False) as http:
        yield Served(endpoint, http)


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize(
    ("pipeline", "cls", "kind"),
    [
        ("yi", "LlamaTokenizer", "llama"),
        ("byte_level", "GPT2Tokenizer", "llama"),
        ("byte_level", "PreTrainedTokenizerFast", "qwen2"),
        ("llama2", "LlamaTokenizer", "llama"),
    ],
)
def test_tokens_offsets_and_texts_are_those_of_the_file(
    engine: str, pipeline: str, cls: str, kind: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", pipeline, kind=kind, config={"tokenizer_class": cls})
    right = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with served(folder, engine) as server:
        for text in TEXTS:
            ids = right.encode(text).ids
            assert server.tokens(prompt=text) == ids
            assert server.post("/detokenize", tokens=ids).json()["prompt"] == right.decode(ids) == text
            if not ids:
                continue
            body = {"model": "m", "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
            choice = server.post("/v1/completions", **body).json()["choices"][0]
            assert choice["text"] == text
            offsets = choice["logprobs"]["text_offset"]
            assert len(offsets) == len(ids)
            assert offsets == sorted(offsets)
            assert all(0 <= offset <= len(text) for offset in offsets)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_gguf_begins_with_bos_and_ends_with_the_end_of_a_turn(engine: str, tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf", gguf_vocabulary("byte_level", chat_template=CHATML))
    right = backend("byte_level")
    turn = right.token_to_id("<|im_end|>")
    with served(file, engine) as server:
        assert server.tokens(prompt=TEXTS[0]) == right.encode(TEXTS[0]).ids
        body = {"model": "m", "messages": USER, "max_tokens": 8, "temperature": 0, "logit_bias": {str(turn): 100}}
        choice = server.post("/v1/chat/completions", **body).json()["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "")


TURN = "<|im_start|>user\n{{question}}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_choice_behind_a_rendered_chat_is_as_likely_as_by_a_forward_pass(engine: str, tmp_path: Path) -> None:
    """As lm-eval's ``apply_chat_template`` sends it: the template's special tokens stand in the text of the prompt."""
    rows, ends = tmp_path / "rows.jsonl", ["boat", " river<|im_end|>\n", "naïve"]
    rows.write_text(json.dumps({"question": "What?", "choices": ends, "answer": 0}))
    task = MultipleChoice(path=str(rows), context=TURN, prefix="")
    folder = model_folder(tmp_path / "m")
    [sample] = task.samples("t", "m")
    [request] = sample.requests
    with served(folder, engine) as server:
        answer = server.post(request.path, **request.body)
        whole = checked(request, Response(answer.status_code, answer.json()))
        streamed = server.post(request.path, **dict(request.body) | {"stream": True}).text
        twice = server.post(request.path, **dict(request.body) | {"n": 2}).json()["choices"]
    assert (whole.fault, whole.notes) == (None, ())
    turn = TURN.replace("{{question}}", "What?")
    context, space = turn.rstrip(), turn[len(turn.rstrip()) :]  # which counts as the choice's, as in lm-eval
    right = [forward(folder, context, space + end) for end in ends]
    assert score(task, sample, whole).prediction["loglikelihoods"] == pytest.approx(right, abs=1e-3)
    texts = [choice["text"] for choice in whole.body["choices"]]
    assert [choice["text"] for choice in twice[::2]] == texts
    assert joined(streamed) == texts


def forward(folder: Path, context: str, end: str) -> float:
    """Return the log-likelihood of ``end`` by transformers."""
    right = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids, first = right.encode(context + end).ids, len(right.encode(context).ids)
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0]
    likely = torch.log_softmax(logits.double(), -1)
    return sum(float(likely[i - 1, ids[i]]) for i in range(first, len(ids)))


def joined(stream: str) -> list[str]:
    texts = ["", "", ""]
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                texts[choice["index"]] += choice["text"]
    return texts


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_end_of_config_json_ends_an_answer_too(engine: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [1, 2]}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    with served(folder, engine) as server:
        for token in (1, 2, 3):
            body = {"model": "m", "prompt": "a", "max_tokens": 4, "temperature": 0, "logit_bias": {str(token): 100}}
            assert server.post("/v1/completions", **body).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("engine", list(ENGINES))
def test_only_a_prompt_with_a_token_without_a_row_is_refused(engine: str, tmp_path: Path) -> None:
    made = backend("byte_level")
    rows = made.get_vocab_size()
    made.add_special_tokens(["<image_soft_token>"])
    folder = model_folder(tmp_path / "m", made=made, rows=rows)
    with served(folder, engine) as server:
        assert f"token {rows} ('<image_soft_token>')" in server.facts()["notes"][0]
        good = {"model": "m", "prompt": "a", "max_tokens": 3, "logprobs": 5, "temperature": 0}
        assert server.post("/v1/completions", **good).status_code == 200
        chat = [{"role": "user", "content": "<image_soft_token>"}]
        for path, body in (
            ("/v1/completions", {"prompt": "a<image_soft_token>"}),
            ("/v1/completions", {"prompt": [5, rows]}),
            ("/v1/completions", {"prompt": "a", "logit_bias": {str(rows): 1}}),
            ("/v1/chat/completions", {"messages": chat}),
            ("/reference_logprobs", {"tokens": [5, rows]}),
        ):
            answer = server.post(path, model="m", **body)
            assert answer.status_code == 400
            assert f"there is no token {rows} ('<image_soft_token>')" in answer.json()["error"]["message"]
        assert server.tokens(prompt="<image_soft_token>", add_special_tokens=False) == [rows]
        assert server.post("/detokenize", tokens=[5, rows]).status_code == 200
        assert server.post("/detokenize", tokens=[5, rows + 1]).status_code == 400
        others = {check.name for check in server.checks(folder) if check.ok is not True}
        assert others == {"server facts", "key needed", "next token", *TOOLS}


def test_chats_reach_templates_of_parts_and_variables_and_stay_open(tmp_path: Path) -> None:
    thinks = PARTS + "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
    folder = model_folder(tmp_path / "m", config={"chat_template": thinks})
    right, opening = backend("byte_level"), "<|im_start|>user\nWhat is the capital of France?"
    with served(folder) as server:

        def text(**body: Any) -> str:
            tokens = server.tokens(messages=USER, **body)
            answer = server.post("/v1/chat/completions", model="m", messages=USER, max_tokens=1, **body)
            assert answer.json()["usage"]["prompt_tokens"] == len(tokens)
            return right.decode(tokens, skip_special_tokens=False)

        assert text() == f"{opening}<|im_end|>\n<|im_start|>assistant\n"
        assert text(add_generation_prompt=False) == f"{opening}<|im_end|>\n"
        assert text(continue_final_message=True, add_generation_prompt=False) == opening
        assert text(chat_template_kwargs={"enable_thinking": False}).endswith("assistant\nFalse")
        refused = server.post("/v1/chat/completions", model="m", messages=USER, continue_final_message=True)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "continue_final_message"


def test_a_template_that_loops_delays_no_other_request(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", config={"chat_template": LOOP + CHATML})
    boom = {"model": "m", "messages": [{"role": "user", "content": "boom"}], "max_tokens": 1}
    with served(folder, chat_template_timeout_s=0.5) as server, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            hostile = pool.submit(server.post, "/v1/chat/completions", **boom)
            while not hostile.done():
                assert server.post("/v1/completions", model="m", prompt="a", max_tokens=1).status_code == 200
            answer = hostile.result()
            assert answer.status_code == 400
            assert "longer than model.chat_template_timeout_s=0.5" in answer.json()["error"]["message"]
            assert server.post("/v1/chat/completions", model="m", messages=USER, max_tokens=1).status_code == 200


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ 'A' * 3000000000 }}", "{{ 'the same' }}"])
def test_a_template_of_no_use_is_said_at_start_and_refuses_chats_only(template: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", config={"chat_template": template})
    with served(folder) as server:
        (note,) = server.facts()["notes"]
        assert note.startswith(f"chat: {folder / 'tokenizer_config.json'}: the chat template cannot be used: ")
        answer = server.post("/v1/chat/completions", model="m", messages=USER)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "no_chat_template"
        assert "tokenizer_config.json" in answer.json()["error"]["message"]
        assert server.post("/v1/completions", model="m", prompt="a", max_tokens=1).status_code == 200


def test_a_text_for_which_the_library_panics_is_that_requests_error(tmp_path: Path) -> None:
    spec = json.loads(backend("byte_level").to_str())
    spec["normalizer"] = {"type": "Replace", "pattern": {"Regex": "x*(?=secret)"}, "content": "y"}
    made = Tokenizer.from_str(json.dumps(spec))
    with served(model_folder(tmp_path / "m", made=made), "huggingface") as server:
        chat = [{"role": "user", "content": "secret"}]
        for path, body in (
            ("/tokenize", {"prompt": "secret"}),
            ("/v1/completions", {"prompt": "secret", "max_tokens": 1}),
            ("/v1/completions", {"prompt": ["fine", "secret"], "max_tokens": 1, "stream": True}),
            ("/tokenize", {"prompt": "secret" + "a" * 60_000}),
        ):
            answer = server.post(path, model="m", **body)
            assert answer.status_code == 400, (path, answer.text)
            assert answer.json()["error"]["code"] == "text_refused"
            assert server.post("/v1/completions", model="m", prompt="fine", max_tokens=1).status_code == 200
        assert server.post("/v1/chat/completions", model="m", messages=chat, max_tokens=1).status_code == 200
