from __future__ import annotations

import openai

from tests.api.contract.conftest import Api

MESSAGES = [{"role": "user", "content": "12+34="}]


async def test_a_chat_completion_has_openais_shape(sdk: openai.AsyncOpenAI, api: Api) -> None:
    found = await sdk.chat.completions.create(
        model=api.endpoint.model,
        messages=MESSAGES,  # type: ignore[arg-type]
        max_completion_tokens=4,
        temperature=0,
    )
    assert found.object == "chat.completion"
    assert found.id.startswith("chatcmpl-")
    assert found.choices[0].message.role == "assistant"
    assert isinstance(found.choices[0].message.content, str)
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage.completion_tokens <= 4


async def chat(api: Api, **body: object) -> dict:
    asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8} | body
    answer = await api.post("/v1/chat/completions/", **asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_prompt_is_the_rendered_template(api: Api) -> None:
    tokens = (await api.post("/tokenize", messages=MESSAGES)).json()["tokens"]
    by_chat = await chat(api, ignore_eos=True)
    by_tokens = await api.complete(tokens, ignore_eos=True)
    assert by_chat["choices"][0]["message"]["content"] == by_tokens["choices"][0]["text"]
    assert by_chat["usage"] == by_tokens["usage"]


async def test_parts_of_text_are_a_text(api: Api) -> None:
    parts = [{"type": "text", "text": "12+"}, {"type": "text", "text": "34="}]
    assert (await chat(api, messages=[{"role": "user", "content": parts}]))["choices"] == (await chat(api))["choices"]


async def test_logprobs_have_bytes_and_alternatives(api: Api) -> None:
    choice = (await chat(api, logprobs=True, top_logprobs=3, ignore_eos=True))["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 8
    assert (
        bytes(b for entry in content for b in entry["bytes"]).decode(errors="replace") == choice["message"]["content"]
    )
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]


async def test_logprobs_without_alternatives(api: Api) -> None:
    content = (await chat(api, logprobs=True, max_tokens=2))["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in content)
    assert (await chat(api))["choices"][0]["logprobs"] is None


async def test_n_stop_and_seed(api: Api) -> None:
    asked = {"n": 3, "seed": 4, "temperature": 2, "max_tokens": 24, "ignore_eos": True}
    one, two = [(await chat(api, **asked))["choices"] for _ in range(2)]
    assert one == two
    assert len({c["message"]["content"] for c in one}) == 3
    text = (await chat(api, ignore_eos=True))["choices"][0]["message"]["content"]
    stopped = (await chat(api, ignore_eos=True, stop=[text[2:4]]))["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(text[2:4])]
    assert stopped["finish_reason"] == "stop"


async def test_the_default_limit_is_what_is_left_of_the_context(api: Api) -> None:
    asked = {"messages": MESSAGES, "temperature": 0, "ignore_eos": True}
    usage = (await api.post("/v1/chat/completions", **asked)).json()["usage"]
    assert usage["total_tokens"] == await api.context_length()
