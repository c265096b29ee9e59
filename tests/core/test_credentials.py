"""A secret that is given as a value is refused wherever it stands, and is not repeated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launcher.core import redaction
from launcher.core.credentials import SecretGiven, check, is_secret, shown
from launcher.core.errors import UserError
from launcher.core.files import conf_folder
from launcher.settings.overrides import CommandLine
from tests.fuzzing import examples

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SECRETS = st.builds(
    lambda prefix, a, digits, b: f"{prefix}{a}{digits}{b}",
    st.sampled_from(["", "sk-", "hf_", "nvapi-", "pw."]),
    st.text(st.sampled_from(LETTERS), min_size=5, max_size=20),
    st.text(st.sampled_from("0123456789"), min_size=2, max_size=9),
    st.text(st.sampled_from(LETTERS + "_-"), min_size=4, max_size=20).filter(lambda text: text[-1] not in "_-"),
)

PLACES: dict[str, Callable[[str], Any]] = {
    "backend.api_key_env": str,
    "backend.api_key": str,
    "backend.password": str,
    "adapters.payload.add_headers.Authorization": "Bearer {}".format,
    "adapters.payload.add_headers.X-Team": str,
    "adapters.payload.add_headers": lambda secret: {"X-Anything": secret},
    "adapters.payload.headers_env.Authorization": str,
    "adapters.payload.add.api_key": str,
    "adapters.payload.add": lambda secret: {"extra": {"auth_token": secret}},
    "adapters": lambda secret: {"payload": {"add_headers": {"Cookie": secret}}},
    "backend.environment.ANY_NAME": str,
    "backend.environment.HF_TOKEN": str,
    "backend.environment_env.HF_TOKEN": str,
    "backend.environment": lambda secret: {"VLLM_API_KEY": secret},
    "hydra.job.env_set.MY_VARIABLE": str,
    "cluster.environment": lambda secret: ["HOME", secret],
    "cluster.setup": lambda secret: ["module load x", f"export NGC_API_KEY={secret}"],
    "cluster.srun_args": lambda secret: [f"--export=ALL,HF_TOKEN={secret}"],
    "cluster.additional_parameters.export": "ALL,HF_TOKEN={}".format,
    "backend.command": "serve --port {{port}} --api-key {}".format,
    "backend.command ": "serve --port {{port}} --api-key={}".format,
    "backend.command  ": "env HF_TOKEN={} serve --port {{port}}".format,
    "backend.command   ": "sh -c \"curl -H 'Authorization: Bearer {}'\"".format,
    "backend.command    ": 'serve --config \'{{"api_key": "{}"}}\''.format,
    "backend.url": "http://user:{}@127.0.0.1:1/v1".format,
    "backend.url ": "https://{}@127.0.0.1:1/v1".format,
    "backend.url  ": "http://127.0.0.1:1/v1?api_key={}".format,
    "model.path": "https://user:{}@host/checkpoint".format,
    "backend.url   ": "http://127.0.0.1:1/v1#token={}".format,
    "backend.url    ": "http://127.0.0.1:1/v1;key={}".format,
    "backend.command     ": "curl -u bob:{} http://x".format,
    "backend.command      ": "curl --user=bob:{} http://x".format,
    "backend.command       ": 'serve --token=""{} --port {{port}}'.format,
    "backend.command        ": 'serve --api-key "" {} --port {{port}}'.format,
    "backend.command         ": "sh -c 'serve --api-key \\{}'".format,
    "backend.command          ": "serve --api-key /{} --port {{port}}".format,
    "backend.command           ": "docker run --env=HF_TOKEN={} x".format,
    "adapters.payload.add.user_key": str,
    "adapters.payload.add.apitoken": str,
    "adapters.payload.add.MYAPIKEY": str,
    "adapters.payload.add.hfToken": str,
    "adapters.payload.add.db_password1": str,
    "adapters.payload.add.api_key2": str,
    "adapters.payload.add.tokens": lambda secret: [secret],
    "adapters.payload.add.note": lambda secret: secret.encode(),
}

RANDOM = st.from_regex(r"[A-Z][a-z]{2,6}[0-9]{1,3}[A-Za-z0-9]{6,12}", fullmatch=True)
DOUBTFUL: dict[str, Callable[[str], Any]] = {
    "backend.url": "http://127.0.0.1:1/v1?k={}".format,
    "backend.url ": "http://127.0.0.1:1/v1?sig={}".format,
    "backend.command": "serve --api-key -{} --port {{port}}".format,
    "backend.command ": "docker run -u bob:{} x".format,
    "adapters.payload.add.sessionid": str,
    "adapters.payload.add.user": "Bearer {}".format,
}
"""Places in which a word passes, and letters with digits do not."""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    redaction.forget()


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=examples(30))
@given(secret=SECRETS)
def test_a_secret_is_refused_and_not_repeated(place: str, secret: str) -> None:
    with pytest.raises(SecretGiven) as refused:
        check(place.strip(), PLACES[place](secret))
    assert secret not in str(refused.value)
    assert str(refused.value).startswith(place.strip().partition(".")[0])
    assert secret not in redaction.redact(f"a later message about {secret}")
    redaction.forget()


@pytest.mark.parametrize("place", DOUBTFUL)
@settings(max_examples=examples(30))
@given(secret=RANDOM)
def test_what_is_like_a_key_is_refused_in_a_doubtful_place(place: str, secret: str) -> None:
    with pytest.raises(SecretGiven) as refused:
        check(place.strip(), DOUBTFUL[place](secret))
    assert secret not in str(refused.value)
    assert secret not in redaction.redact(f"a later message about {secret}")
    redaction.forget()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapters.payload.add.password", 918273645546),
        ("adapters.payload.add", {"extra": [{"api_key": 918273645546}]}),
        ("backend.command", "serve --api-key 918273645546 --port {port}"),
        ("adapters.payload.add.api_key", "918273645546"),
    ],
)
def test_a_secret_may_be_a_number(key: str, value: Any) -> None:
    with pytest.raises(SecretGiven) as refused:
        check(key, value)
    assert "918273645546" not in str(refused.value)


@pytest.mark.parametrize(
    "word",
    [
        "backend.api_key_env={}",
        "++backend.api_key={}",
        "backend.api_key='{}' b",
        "+adapters.payload.add_headers.Authorization=Bearer {} (x",
        "adapters.payload.add_headers={{Authorization: {}}}",
        "adapters.payload.add_headers={{Authorization: {}",
        "backend.environment.HF_TOKEN={},{}",
        "backend.url=http://u:{}@127.0.0.1/v1",
        "backend.command=serve --port {{port}} --api-key {}",
        "{}",
        "--api-key={}",
        "sk-abcdefgh{}=1",
        "+sk-abcdefgh{}.b=1",
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
@pytest.mark.parametrize("secret", ["sk-12345abcdefGHIJK", "Zx81mnQ4pLs7Rt2Vw9"])
def test_no_word_of_a_command_line_repeats_a_secret(word: str, sweep: list[str], secret: str) -> None:
    with pytest.raises(UserError) as refused:
        CommandLine.parse([*sweep, word.format(secret, secret)])
    assert secret not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backend.api_key_env", "OPENAI_API_KEY"),
        ("backend.api_key_env", "A_KEY_THAT_IS_NOT_SET_2"),
        ("backend.api_key_env", "PATH"),
        ("adapters.payload.headers_env", {"Authorization": "MY_HEADER"}),
        ("adapters.payload.add_headers", {"Accept": "text/plain", "User-Agent": "team-7/1.0"}),
        ("adapters.payload.add", {"stop_token_ids": [1, 2], "max_tokens": 5, "user": "me", "top_k": 3}),
        ("adapters.payload.rename", {"api_key": "key"}),
        (
            "backend.environment",
            {"CUDA_VISIBLE_DEVICES": "0,1", "VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"},
        ),
        ("backend.environment", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128"}),
        ("backend.environment", {"HF_HOME": "/data/hf1x2/cache", "ANY": "so"}),
        ("cluster.environment", ["HF_TOKEN"]),
        ("cluster.setup", ["module load cuda/12.4", "export HF_HOME=/data", 'export HF_TOKEN="$(cat ~/token)"']),
        ("backend.command", "docker run --gpus all -e NGC_API_KEY -p 127.0.0.1:{port}:8000 nvcr.io/nim/a:latest"),
        ("backend.command", "vllm serve {checkpoint} --tokenizer x --max-num-batched-tokens 4 --api-key-file /k"),
        ("backend.command", "sh -c 'exec serve --api-key \"$MY_KEY\"'"),
        ("model.path", "/ckpt/step=100"),
        ("model.path", "${oc.env:SCRATCH}/ckpt"),
        ("model.tokenizer", "bert-base-uncased"),
        ("backend.url", "http://[::1]:8000/v1"),
        ("backend.url", "https://host/openai/v1?api-version=2024-02-01&deployment=gpt-4o-2024-08-06"),
        ("model.path", "/data/run?k=5/step#2;b"),
        ("model.name", "meta-llama/Llama-3.1-8B-Instruct"),
        ("adapters.system_message.text", "Basic mathematics2024; a Bearer instrument. Answer: password is a word"),
        ("adapters.payload.add", {"min_tokens": 100000, "user": "user-1234", "stop": ["</s>", "key=", "Token:"]}),
        ("adapters.payload.add", {"eos_token": "[END]", "pad_token": 12800100, "stop_token": "xx", "seed": 123456789}),
        ("adapters.payload.add", {"session_id": "a", "cache_key": "prefix1234", "chat_template_kwargs": {"k": 3}}),
        ("adapters.payload.add", {"ratio": 0.25, "none": None, "flag": True, "monkey": "Zx81mnQ4p", "k": 5}),
        ("backend.command", "docker run -u 1000:1000 --user root:root x --port {port} --max-token 100000"),
        ("backend.command", "serve --enable-auth --port 8000 --private-key /etc/tls/key.pem -u {port}"),
        ("backend.command", "serve --api-key ~/token --auth /etc/auth.json --auth basic --model-key sorted"),
        ("backend.command", "python -u -m vllm.entrypoints.openai.api_server --seed 123456 --served-model-name a:b1"),
    ],
)
def test_what_is_no_secret_passes(key: str, value: Any) -> None:
    check(key, value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("backend.model", "${oc.env:OPENAI_API_KEY}"),
        ("adapters.payload.add_headers.X", "${oc.env:TEAM}"),
        ("backend.environment.X", "a/${oc.env:TEAM,none}"),
        ("adapters.payload.add.api_key", "${ oc.env : TEAM }"),
        ("adapters.payload.add.user", "${oc.env:'MY_TOKEN'}"),
    ],
)
def test_an_interpolation_that_would_write_a_secret_is_refused(key: str, text: str) -> None:
    with pytest.raises(SecretGiven, match=r"oc\.env"):
        check(key, text)


def test_the_refusal_shows_the_form_that_works() -> None:
    for key, form in (
        ("adapters.payload.add_headers.Authorization", "+adapters.payload.headers_env.Authorization=MY_VARIABLE"),
        ("adapters.payload.add.api_key", "+adapters.payload.add_env.api_key=MY_VARIABLE"),
        ("backend.environment.HF_TOKEN", "+backend.environment_env.HF_TOKEN=MY_VARIABLE"),
        ("backend.api_key", "backend.api_key_env=MY_KEY"),
    ):
        with pytest.raises(SecretGiven) as refused:
            check(key, "Zx81mnQ4pLs7")
        assert form in str(refused.value)
        name, _, variable = form.partition("=")
        check(name.lstrip("+"), variable)


def test_a_variable_that_is_set_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SecretGiven, match="no variable of this name is set"):
        check("backend.api_key_env", "myKey9x")
    monkeypatch.setitem(os.environ, "myKey9x", "the key")
    check("backend.api_key_env", "myKey9x")


def test_every_option_file_that_is_shipped_passes() -> None:
    for file in conf_folder().glob("*/*.yaml"):
        check(file.parent.name, OmegaConf.to_container(OmegaConf.load(file), resolve=False))


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "X-Api-Key", "dbPassword", "AWS_SECRET_ACCESS_KEY", "Authorization", "key"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["max_tokens", "tokenizer", "stop_token_ids", "SSH_AUTH_SOCK", "sort_key", "api_key_env", ""]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


def test_a_message_quotes_words_and_no_keys() -> None:
    assert shown("help") == "help"
    assert len(shown("a " * 500)) == 200
    assert shown("say Zx81mnQ4pLs7Rt2Vw9") == "..."
