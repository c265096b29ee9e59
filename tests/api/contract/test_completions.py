from __future__ import annotations

import openai
import pytest

from tests.api.contract.conftest import Api, alike

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


async def test_a_completion_has_openais_shape(sdk: openai.AsyncOpenAI, api: Api) -> None:
    found = await sdk.completions.create(model=api.endpoint.model, prompt="12+34=", max_tokens=4, temperature=0)
    assert found.object == "text_completion"
    assert found.model == api.endpoint.model
    assert found.id.startswith("cmpl-")
    assert [c.index for c in found.choices] == [0]
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


async def test_a_trailing_slash_is_no_redirect(api: Api) -> None:
    for path in ("/v1/completions/", "/tokenize/"):
        answer = await api.post(path, prompt="ab", **({"max_tokens": 1} if "v1" in path else {}))
        assert answer.status_code == 200
        assert not answer.history


async def test_four_forms_of_a_prompt_have_one_answer(api: Api) -> None:
    tokens = await api.tokens("12+34=")
    found = [await api.complete(prompt) for prompt in ("12+34=", ["12+34="], tokens, [tokens])]
    assert len({body["choices"][0]["text"] for body in found}) == 1
    assert {body["usage"]["prompt_tokens"] for body in found} == {len(tokens)}


async def test_several_prompts_are_answered_in_order_as_if_alone(api: Api) -> None:
    prompts = ["12+34=", "7", "abcabc"]
    together = await api.complete(prompts)
    alone = [await api.complete(prompt) for prompt in prompts]
    assert [c["index"] for c in together["choices"]] == [0, 1, 2]
    assert [c["text"] for c in together["choices"]] == [body["choices"][0]["text"] for body in alone]
    assert together["usage"]["total_tokens"] == sum(body["usage"]["total_tokens"] for body in alone)


async def test_usage_counts_each_prompt_once_and_every_choice(api: Api) -> None:
    one = await api.complete(max_tokens=3, ignore_eos=True)
    many = await api.complete(max_tokens=3, ignore_eos=True, n=4)
    assert one["usage"]["completion_tokens"] == 3
    assert many["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] == len(await api.tokens("12+34="))
    assert many["usage"]["completion_tokens"] == 12


async def test_finish_reason_is_true(api: Api) -> None:
    cut = await api.complete(max_tokens=2, ignore_eos=True)
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 2)
    text = (await api.complete(max_tokens=8, ignore_eos=True))["choices"][0]["text"]
    stopped = await api.complete(max_tokens=8, ignore_eos=True, stop=text[2])
    assert stopped["choices"][0]["finish_reason"] == "stop"


async def test_the_default_is_sixteen_tokens(api: Api) -> None:
    answer = await api.post("/v1/completions", prompt="12+34=", temperature=0, ignore_eos=True)
    assert answer.json()["usage"]["completion_tokens"] == 16


async def test_max_completion_tokens_is_max_tokens(api: Api) -> None:
    body = {"prompt": "12", "ignore_eos": True, "max_completion_tokens": 5}
    assert (await api.post("/v1/completions", **body)).json()["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("start", [0, 1, 3])
async def test_a_stop_string_is_cut_where_it_first_occurs(api: Api, start: int) -> None:
    """Across the boundaries of tokens, and so that nothing of it is left."""
    text = (await api.complete(max_tokens=12, ignore_eos=True))["choices"][0]["text"]
    stop = text[start : start + 3]
    for given in (stop, [stop], ["\x00never", stop]):
        body = await api.complete(max_tokens=12, ignore_eos=True, stop=given)
        assert body["choices"][0]["text"] == text[: text.index(stop)]
        assert body["choices"][0]["finish_reason"] == "stop"


async def test_stop_lists_of_logprobs_match_the_text(api: Api) -> None:
    text = (await api.complete(max_tokens=12, ignore_eos=True))["choices"][0]["text"]
    choice = (await api.complete(max_tokens=12, ignore_eos=True, stop=text[4:6], logprobs=1))["choices"][0]
    assert {len(choice["logprobs"][name]) for name in LISTS} == {len(choice["logprobs"]["tokens"])}
    assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])


async def test_greedy_repeats_and_takes_the_best_token(api: Api) -> None:
    one, two = [(await api.complete(logprobs=2))["choices"][0] for _ in range(2)]
    assert alike(one, two), (one, two)
    for value, top in zip(one["logprobs"]["token_logprobs"], one["logprobs"]["top_logprobs"], strict=True):
        assert value == max(top.values())


async def test_temperature_zero_with_top_p_one_is_greedy(api: Api) -> None:
    plain = await api.complete()
    assert (await api.complete(top_p=1, top_k=0))["choices"] == plain["choices"]
    for same in ({"top_k": 1}, {"top_p": 0}):
        assert (await api.complete(temperature=1.5, seed=5, **same))["choices"] == plain["choices"]


async def test_a_seed_repeats_and_its_choices_differ(api: Api) -> None:
    asked = {"temperature": 2, "max_tokens": 24, "ignore_eos": True, "n": 3}
    one, two = [(await api.complete(seed=11, **asked))["choices"] for _ in range(2)]
    other = (await api.complete(seed=12, **asked))["choices"]
    assert one == two
    assert len({c["text"] for c in one}) == 3
    assert [c["text"] for c in other] != [c["text"] for c in one]


async def test_equal_prompts_with_one_seed_are_independent(api: Api) -> None:
    body = await api.complete(["12+34="] * 3, seed=11, temperature=2, max_tokens=24, ignore_eos=True)
    assert len({c["text"] for c in body["choices"]}) == 3


async def test_logit_bias_forces_and_bans(api: Api) -> None:
    best = (await api.tokens((await api.complete(max_tokens=1, ignore_eos=True))["choices"][0]["text"]))[0]
    forced = (await api.tokens("z"))[0]
    name = (await api.post("/tokenize", prompt="z", return_token_strs=True)).json()["token_strs"][0]
    found = await api.complete(max_tokens=4, ignore_eos=True, logit_bias={str(forced): 100}, logprobs=0)
    assert found["choices"][0]["logprobs"]["tokens"] == [name] * 4
    banned = await api.complete(max_tokens=1, ignore_eos=True, logit_bias={str(best): -100})
    assert banned["choices"][0]["text"] != (await api.complete(max_tokens=1, ignore_eos=True))["choices"][0]["text"]


async def test_logprobs_are_the_models_own_whatever_the_sampling(api: Api) -> None:
    token = (await api.tokens("z"))[0]
    plain = await api.complete(max_tokens=1, logprobs=5)
    forced = await api.complete(max_tokens=1, logprobs=5, logit_bias={str(token): 100}, presence_penalty=2)
    first, second = (body["choices"][0]["logprobs"]["top_logprobs"][0] for body in (plain, forced))
    for name in set(first) & set(second):
        assert first[name] == pytest.approx(second[name], abs=1e-5)


async def test_a_frequency_penalty_avoids_repetition(api: Api) -> None:
    asked = {"max_tokens": 40, "ignore_eos": True, "logprobs": 0}
    plain = (await api.complete("aaaaaaaa", **asked))["choices"][0]["logprobs"]["tokens"]
    varied = (await api.complete("aaaaaaaa", frequency_penalty=2, presence_penalty=2, **asked))["choices"][0]
    assert len(set(varied["logprobs"]["tokens"])) > len(set(plain))


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
async def test_echo_lists_are_aligned(api: Api, max_tokens: int) -> None:
    prompt = "12+34=46 and more"
    body = await api.complete(prompt, echo=True, logprobs=2, max_tokens=max_tokens, ignore_eos=True)
    choice, logprobs = body["choices"][0], body["choices"][0]["logprobs"]
    expected = len(await api.tokens(prompt)) + max_tokens
    assert {name: len(logprobs[name]) for name in LISTS} == dict.fromkeys(LISTS, expected)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert choice["text"].startswith(prompt)
    assert body["usage"]["completion_tokens"] == max_tokens
    assert choice["finish_reason"] == "length"
    for name, value, top in zip(
        logprobs["tokens"][1:], logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True
    ):
        assert top[name] == value
        assert value <= max(top.values()) <= 0
        assert len(top) in (2, 3)


async def test_echo_has_an_entry_for_the_end_of_sequence(api: Api) -> None:
    """One more entry than the prompt has tokens, also when the model has nothing to add."""
    info = (await api.http.get("/tokenizer_info")).json()
    eos = info["eos_token_ids"][0]
    body = await api.complete("12", echo=True, logprobs=1, max_tokens=1, logit_bias={str(eos): 100})
    choice = body["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == "12"
    assert {len(choice["logprobs"][name]) for name in LISTS} == {len(await api.tokens("12")) + 1}
    assert body["usage"]["completion_tokens"] == 1


async def test_echo_shows_a_special_token_among_token_ids(api: Api) -> None:
    eos = (await api.http.get("/tokenizer_info")).json()["eos_token_ids"][0]
    prompt = [*await api.tokens("12"), eos, *await api.tokens("3")]
    choice = (await api.complete(prompt, echo=True, logprobs=1, max_tokens=0))["choices"][0]
    name = choice["logprobs"]["tokens"][2]
    assert name.startswith("<")
    assert choice["text"] == f"12{name}3"
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 2 + len(name)]


async def test_offsets_point_at_the_tokens_in_the_text(api: Api) -> None:
    body = await api.complete("héllo €5 ≠ 😀", echo=True, logprobs=0, max_tokens=6, ignore_eos=True)
    choice = body["choices"][0]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    for name, offset in zip(choice["logprobs"]["tokens"], offsets, strict=True):
        assert name.startswith(("bytes:", "<")) or choice["text"][offset : offset + len(name)] == name


async def test_prompt_logprobs_equal_a_plain_forward_pass(api: Api) -> None:
    tokens = await api.tokens("12+34=46 and 7+5=12")
    answer = await api.post("/reference_logprobs", tokens=tokens)
    assert answer.status_code == 200, answer.text
    expected = answer.json()["token_logprobs"]
    body = await api.complete(tokens, echo=True, logprobs=1, max_tokens=1)
    found = body["choices"][0]["logprobs"]["token_logprobs"][: len(tokens)]
    assert expected[0] is None
    assert found[0] is None
    assert found[1:] == pytest.approx(expected[1:], abs=1e-4)


async def test_scoring_only_takes_a_prompt_as_long_as_the_context(api: Api) -> None:
    tokens = (await api.tokens("12+34="))[:1] * await api.context_length()
    body = await api.complete(tokens, echo=True, logprobs=1, max_tokens=0)
    assert len(body["choices"][0]["logprobs"]["tokens"]) == len(tokens)


async def test_logprobs_do_not_depend_on_the_batch(api: Api) -> None:
    prompts = ["12+34=46", "7+5=12", "1", "99+1=100 and so on"]
    asked = {"echo": True, "logprobs": 1, "max_tokens": 1}
    together = (await api.complete(prompts, **asked))["choices"]
    for prompt, choice in zip(prompts, together, strict=True):
        alone = (await api.complete(prompt, **asked))["choices"][0]
        assert alone["logprobs"]["token_logprobs"][1:] == pytest.approx(
            choice["logprobs"]["token_logprobs"][1:], abs=1e-4
        )
