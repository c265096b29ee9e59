from __future__ import annotations

import pytest

from tests.api.contract.conftest import Api


@pytest.mark.parametrize("text", ["", "12+34=", "héllo €5 ≠ 😀\n\ttabs  and spaces "])
async def test_text_survives_tokenizing(api: Api, text: str) -> None:
    found = (await api.post("/tokenize", prompt=text, add_special_tokens=False)).json()
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == await api.context_length()
    assert (await api.post("/detokenize", tokens=found["tokens"])).json() == {"prompt": text}


async def test_messages_are_rendered(api: Api) -> None:
    messages = [{"role": "user", "content": "hi"}]
    asking = (await api.post("/tokenize", messages=messages)).json()["tokens"]
    done = (await api.post("/tokenize", messages=messages, add_generation_prompt=False)).json()["tokens"]
    assert len(asking) >= len(done) > 0
    assert asking[: len(done)] == done


async def test_give_either_a_prompt_or_messages(api: Api) -> None:
    assert (await api.post("/tokenize")).status_code == 400
    assert (await api.post("/tokenize", prompt="a", messages=[])).status_code == 400


async def test_the_tokenizer_describes_itself(api: Api) -> None:
    for path in ("/tokenizer_info", "/tokenizer_info/"):
        info = (await api.http.get(path)).json()
        assert info["vocab_size"] > 1
        assert info["eos_token_ids"]
        assert isinstance(info["eos_token"], str)


async def test_a_forward_pass_needs_tokens_that_fit(api: Api) -> None:
    assert (await api.post("/reference_logprobs", tokens=[])).status_code == 400
    assert (await api.post("/reference_logprobs", tokens=[1] * (await api.context_length() + 1))).status_code == 400
    assert (await api.post("/reference_logprobs", tokens=[1])).json() == {"token_logprobs": [None]}
