from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.event_queue import Event
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.engines.base import GenerationRequest, Sampling, TokenLogprob, TokenOutput
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model

floats = st.floats(-2, 2)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(0, 2**40),
    temperature=st.floats(0, 1e300),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 2**31),
    seed=st.none() | st.integers(0, 2**63 - 1),
    presence_penalty=floats,
    frequency_penalty=floats,
    logit_bias=st.dictionaries(st.integers(0, 256), floats),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
    ignore_eos=st.booleans(),
)
token = st.integers(0, 2**31 - 1)
logprob = st.floats(allow_nan=False, max_value=0)
tokens = st.builds(TokenLogprob, token, logprob, st.lists(st.tuples(token, logprob), max_size=3).map(tuple))
plain = st.builds(TokenLogprob, token)
listed = st.lists(tokens, max_size=4).map(tuple) | st.lists(plain, max_size=4).map(tuple)
events = st.builds(TokenOutput, listed, st.none() | listed, st.sampled_from([None, "stop", "length"]))


@given(samplings)
def test_sampling_arrives_as_it_was_sent(sampling: Sampling) -> None:
    assert tensors.sampling(tensors.parameters(sampling)) == sampling


@given(st.lists(st.integers(0, 2**31 - 1)).map(tuple), samplings)
def test_batches_arrive_as_they_were_sent(prompt: tuple[int, ...], sampling: Sampling) -> None:
    packed = tensors.pack_requests([GenerationRequest("é", prompt, sampling, final_only=True)])
    ((id, found, asked, whole),) = tensors.unpack_requests(packed)
    assert (id, found, tensors.sampling(asked), whole) == ("é", prompt, sampling, True)


@given(st.lists(events))
def test_events_arrive_as_they_were_sent(sent: list[TokenOutput]) -> None:
    found = tensors.unpack(tensors.pack(7, (Event(str(i), what) for i, what in enumerate(sent))))
    assert found == (7, [Event(str(i), what) for i, what in enumerate(sent)])


def test_refusals_keep_their_kind() -> None:
    sent = [Event("a", QueueFull("full", 2.5)), Event("b", EngineUnavailable("gone")), Event("c", OSError("disk"))]
    full, gone, fault = [event.what for event in tensors.unpack(tensors.pack(0, sent))[1]]
    assert isinstance(full, QueueFull)
    assert full.retry_after_s == 2.5
    assert isinstance(gone, EngineUnavailable)
    assert str(fault) == "OSError: disk"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_token": 3}, "max_token: unknown parameter; expected one of id, max_tokens"),
        ({"max_tokens": -1}, "max_tokens=-1: must be int from 0"),
        ({"max_tokens": True}, "max_tokens=True: must be int"),
        ({"temperature": "hot"}, "temperature='hot': must be float"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_p": 1.5}, "top_p=1.5: must be float from 0 to 1"),
        ({"ignore_eos": 1}, "ignore_eos=1: must be a boolean"),
        ({"logit_bias": "[1]"}, "logit_bias"),
        ({"logit_bias": '{"1": NaN}'}, "numbers from -100 to 100"),
        ({"logit_bias": {"1": 101}}, "numbers from -100 to 100"),
    ],
)
def test_parameters_that_cannot_be_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"\w+") as error:
        tensors.sampling(given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "sampling", "said"),
    [
        ((), Sampling(), "needs tokens"),
        ((257,), Sampling(), "from 0 to 256, got 257"),
        ((1,), Sampling(logit_bias={300: 1.0}), "got 300"),
        ((1,) * 10, Sampling(max_tokens=7), "context length is 16"),
    ],
)
def test_a_prompt_that_the_model_cannot_continue(prompt: tuple[int, ...], sampling: Sampling, said: str) -> None:
    runner = EchoAsyncEngine(Echo(context_length=16), Model("echo"))
    with pytest.raises(ValueError, match=said):
        tensors.check(prompt, sampling, runner)


def test_typed_tensors_leave_out_what_was_not_asked_for() -> None:
    assert set(tensors.answer(TokenOutput((TokenLogprob(3),)))) == {"tokens"}
    best = ((3, -0.25), (4, -2.0))
    full = tensors.answer(
        TokenOutput((TokenLogprob(3, -0.25, best),), (TokenLogprob(1), TokenLogprob(2, -1.0)), "stop")
    )
    assert full["top_tokens"].tolist() == [[3, 4]]
    assert full["top_logprobs"].tolist() == [[-0.25, -2.0]]
    assert full["prompt_logprobs"].tolist() == [-1.0]
    assert full["finish"].tolist() == [b"stop"]
