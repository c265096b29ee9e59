"""Ready-made servers give no flag, value or variable that a listed version of the server does not take."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise, product
from pathlib import Path

import pytest

from launcher.backends.nim import NIM
from launcher.backends.preset import Preset
from launcher.backends.served_checkpoint import ServedCheckpoint
from launcher.backends.server_program import SETTINGS
from launcher.core.errors import UserError
from launcher.engines.base import Deployment
from launcher.engines.none import Nothing
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism, ToolCallParser
from tests.backends.flag_lists import lists_of
from tests.backends.presets import CPU, GPU, PRESETS, ROOT

IMAGE = "nvcr.io/nim/nvidia/vllm-model-free-nim:2.1.6"
PATH = "/checkpoints/model"
READ_BY = {"vllm": "VLLM", "llama_cpp": "LLAMA_CPP"}
"""The variables that name a program of environments that `make vllm` and `make soak` install."""


def presets(name: str) -> Iterator[Preset]:
    """Yield the preset with every combination of its own settings that become flags."""
    for data_parallel, memory, logprobs, replicas in product((1, 2), (None, 0.5), (None, 20), (1, 2)):
        preset = PRESETS[name](
            program="server",
            data_parallel=data_parallel,
            memory_fraction=memory,
            max_logprobs=logprobs,
            replicas=replicas,
        )
        if isinstance(preset, NIM):
            preset.image = IMAGE
        yield preset


def deployments() -> Iterator[Deployment]:
    """Yield every combination of the settings of model, parallelism and optimizations that become flags."""
    folder = Path("/run")
    models = [
        Model("tiny", PATH, tokenizer, None, length, tool_call_parser=parser)
        for tokenizer, length in product((None, "/tokenizer"), (None, 64))
        for parser in (ToolCallParser.auto, ToolCallParser.none, ToolCallParser.hermes)
    ]
    split = [Parallelism(*sizes) for sizes in product((1, 2), (1, 2), (1, 2), (1, 2, 4))]
    optimized = [Optimizations(dtype, prefix_caching=on) for dtype, on in product(Dtype, (True, False))]
    for model, parallelism, optimizations in product(models, split, optimized):
        yield Deployment(model, Nothing(), parallelism, optimizations, folder)


def arguments(preset: Preset, deployment: Deployment, gpus: int) -> list[str] | None:
    """Return the words of the command behind the program; None where the preset refuses the settings."""
    source = ServedCheckpoint(deployment.model.path, deployment.optimizations.dtype, deployment.model)
    try:
        preset._check(deployment, GPU if gpus else CPU)
        return preset.command(deployment, source, 8000, gpus)[1:]
    except UserError:
        return None


@functools.cache
def commands(name: str) -> set[tuple[str, ...]]:
    """Return all commands that a preset can give, of any combination of settings."""
    asked = product(presets(name), list(deployments()), (0, 1))
    return {tuple(words) for each in asked if (words := arguments(*each)) is not None}


def flags_and_positional(name: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off the checkpoint where it stands alone, and the file that starts llama-cpp-python's server."""
    if str(PRESETS[name].server.flags["checkpoint"]) == "(an argument)":
        return list(words[1:]), list(words[:1])
    return list(words), []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "nim"])
def test_no_combination_of_settings_gives_a_flag_that_a_listed_version_lacks(name: str) -> None:
    found, lists = commands(name), lists_of(name)
    assert found
    assert lists
    for words in found:
        flags, alone = flags_and_positional(name, words)
        assert alone in ([], [PATH])
        assert [problem for each in lists for problem in each.problems(flags)] == []


@pytest.mark.slow
def test_no_combination_gives_the_container_or_its_vllm_a_flag_that_it_lacks() -> None:
    (container,) = lists_of("nim")
    inner = [each for each in lists_of("vllm") if each.version in container.vllm]
    assert len(inner) == len(container.vllm)
    for words in commands("nim"):
        image = words.index(IMAGE)
        assert words[image + 1] == "nim-serve"
        assert list(container.problems(words[:image])) == []
        assert [problem for each in inner for problem in each.problems(words[image + 2 :])] == []
        given = {word.split("=")[0] for flag, word in pairwise(words) if flag == "--env"}
        known = container.environment.union(*(each.environment for each in inner), {"HF_HUB_DISABLE_TELEMETRY"})
        assert given <= known


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRESETS))
def test_every_setting_with_a_flag_is_walked(name: str) -> None:
    """A flag that no combination gives would be checked by nothing."""
    server = PRESETS[name].server
    words = {word for command in commands(name) for word in command}
    wanted = {word for flag in server.flags.values() for word in str(flag).split() if word.startswith("--")}
    assert wanted <= words
    assert {*server.always, *server.on_gpu} <= words


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_variable_is_one_of_the_server(name: str) -> None:
    """Only names of the server itself are listed; a list may leave them out."""
    known = frozenset[str]().union(*(each.environment for each in lists_of(name)), lists_of("vllm")[-1].environment)
    own = {key for key in PRESETS[name].server.environment if not key.startswith("HF_")}
    assert own <= known
    assert {key for key in PRESETS[name]()._cpu_variables(2) if key.startswith("VLLM_")} <= known


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_list_has_version_source_and_date(name: str) -> None:
    for each in lists_of(name):
        assert each.server == name
        assert each.version in each.source


def test_a_wrong_command_is_found() -> None:
    newest = lists_of("vllm")[-1]
    assert list(newest.problems(["--no-such-flag", "--dtype", "fp32"])) == [
        f"vllm {newest.version} has no --no-such-flag",
        f"vllm {newest.version}: --dtype fp32 is not one of {newest.options['--dtype']['choices']}",
    ]
    assert list(newest.problems(["--port", "x", "--max-logprobs", "-1", "--seed"])) == [
        f"vllm {newest.version}: --port x is no int",
        f"vllm {newest.version}: --seed takes a value",
    ]
    assert list(newest.problems(["--enable-prefix-caching", "true"])) == [f"vllm {newest.version} has no true"]


def test_settings_of_the_model_and_its_parallelism_are_flags_or_the_launchers_own() -> None:
    """A new setting must become a flag, or be refused: none is lost without a word."""
    own = {"chat_template_timeout_s", "chat_template_max_mb", "bounds", "peft"}  # peft is merged by the conversion
    keys = {key for key in SETTINGS.values() if key.startswith(("model.", "parallelism."))}
    held = {f"model.{each.name}" for each in fields(Model) if each.name not in own}
    assert held | {f"parallelism.{each.name}" for each in fields(Parallelism)} == keys


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "transformers_serve",
        pytest.param("vllm", marks=pytest.mark.vllm),
        pytest.param("llama_cpp", marks=pytest.mark.soak),
    ],
)
def test_the_list_is_what_the_installed_server_accepts(name: str, tmp_path: Path) -> None:
    python = sys.executable
    if name in READ_BY:
        program = os.environ.get(READ_BY[name])
        if not program:
            pytest.skip(f"{READ_BY[name]} names no program; `make vllm` and `make soak` install them")
        python = str(Path(program).with_name("python"))
    command = [python, ".ci/server_flags.py", name, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    listed = {each.version: each for each in lists_of(name)}.get(found["version"])
    assert listed is not None, f"{name} {found['version']} has no list: run `make flags`, as CONTRIBUTING.md says"
    assert found["options"] == listed.options
    assert set(found["environment"]) == listed.environment
