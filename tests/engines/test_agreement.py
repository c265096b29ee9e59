"""Both engines read the same checkpoint as the same model, or refuse it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from launcher.checkpoints import detect
from launcher.checkpoints.huggingface.safetensors_index import INDEX, SINGLE
from launcher.core.errors import CheckpointError
from launcher.engines.base import Engine
from launcher.engines.huggingface import HuggingFace, loading, source
from launcher.engines.megatron import Megatron
from launcher.settings.model import Model
from tests.checkpoints import test_gguf
from tests.engines import deployments
from tests.engines.answers import answer, request
from tests.engines.huggingface.huggingface_models import HOST, save
from tests.fuzzing import examples

ENGINES: dict[str, Callable[..., Engine]] = {"megatron": Megatron, "huggingface": HuggingFace}
CPU = torch.device("cpu")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 200, 100, 7, 30, 31, 32, 33, 34]


@torch.no_grad()
def right(folder: Path, **tensors: torch.Tensor) -> list[float]:
    """Return the log-probabilities of transformers' own model of a folder, with these tensors in it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.load_state_dict(tensors, strict=False)
    logprobs = model(torch.tensor([PROMPT])).logits[0, :-1].log_softmax(-1)
    found: list[float] = logprobs.gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist()
    return found


def opened(engine: str, folder: Path) -> Any:
    return deployments.load(ENGINES[engine](), Model(path=str(folder)), HOST)


async def served(engine: str, folder: Path) -> list[float]:
    """Return the log-probabilities of the prompt as the engine answers them."""
    with opened(engine, folder) as runner:
        found = (await answer(runner, request("a", PROMPT, max_tokens=0, prompt_logprobs=0))).logprobs[1:]
        assert found == pytest.approx(runner.reference(PROMPT), abs=1e-4)
        return [value for value in found if value is not None]


def refused(engine: str, folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(engine, folder).__enter__()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def split(folder: Path) -> Path:
    """Split the weights of a folder in two files with an index."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / SINGLE).unlink()
    return folder


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
async def test_they_agree_with_transformers(engine: str, kind: str, tmp_path: Path) -> None:
    expected = right(save(kind, tmp_path))
    assert await served(engine, tmp_path) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stored_output_layer_is_used_though_the_config_ties_it(engine: str, tmp_path: Path) -> None:
    save("llama", tmp_path, tie_word_embeddings=True)
    head = torch.randn(264, 64, generator=torch.Generator().manual_seed(2)) * 0.15
    tied = right(tmp_path)
    changed(tmp_path / SINGLE, lambda tensors: tensors.update({"lm_head.weight": head}))
    found = await served(engine, tmp_path)
    assert found == pytest.approx(right(tmp_path), abs=1e-4)
    assert found != pytest.approx(tied, abs=0.1)


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_index_decides_beside_a_single_file_of_others(engine: str, tmp_path: Path) -> None:
    expected = right(split(save("llama", tmp_path)))
    other = {name: t + 0.1 for file in tmp_path.glob("*.safetensors") for name, t in load_file(file).items()}
    save_file(other, tmp_path / SINGLE, metadata={"format": "pt"})
    save_file(other, tmp_path / "consolidated.safetensors", metadata={"format": "pt"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    assert await served(engine, tmp_path) == pytest.approx(expected, abs=1e-4)
    plan = deployments.plan(ENGINES[engine](), Model(path=str(tmp_path)), HOST)
    assert plan["unread_files"] == ["consolidated.safetensors", SINGLE, "pytorch_model.bin"]


PART = "model-00002-of-00002.safetensors"


def twice(folder: Path) -> None:
    first = load_file(folder / "model-00001-of-00002.safetensors")
    changed(folder / PART, lambda tensors: tensors.update(dict([sorted(first.items())[0]])))


def elsewhere(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    content["weight_map"] |= dict.fromkeys(sorted(load_file(folder / PART))[:1], "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps(content))


def lost(folder: Path) -> None:
    changed(folder / PART, lambda tensors: tensors.pop(sorted(tensors)[0]))


CONTRADICTIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor in two parts": (twice, "is in model-00001-of-00002.safetensors too"),
    "a tensor in another part": (elsewhere, "is missing (the index promises it)"),
    "a tensor that is gone": (lost, "is missing (the index promises it)"),
    "a part that is gone": (lambda folder: (folder / PART).unlink(), "missing (expected a part of the weights)"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "an adapter is not applied"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_contradicts_the_index_is_refused(engine: str, name: str, tmp_path: Path) -> None:
    change, complaint = CONTRADICTIONS[name]
    change(split(save("llama", tmp_path)))
    assert complaint in refused(engine, tmp_path)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(50))
def test_both_read_the_same_tensors_of_any_index_or_none(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        split(save("llama", folder))
        shutil.copy(folder / INDEX, tmp_path / "whole.json")
    said = json.loads((tmp_path / "whole.json").read_text())["weight_map"]
    for name in data.draw(st.sets(st.sampled_from(sorted(said)), max_size=2)):
        said[name] = data.draw(st.sampled_from(["model-00001-of-00002.safetensors", PART, SINGLE, "../x", None]))
    said = {name: part for name, part in said.items() if part is not None}
    (folder / INDEX).write_text(json.dumps({"weight_map": said}))
    found = [either(lambda: set(detect(folder)._stored)), either(lambda: set(source.read(folder).tensors))]  # type: ignore[attr-defined]
    assert found[0] == found[1]


def either(read: Callable[[], Any]) -> Any:
    """Return what was read, or that it was refused."""
    try:
        return read()
    except CheckpointError:
        return "refused"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_the_class_ignores_is_refused(engine: str, tmp_path: Path) -> None:
    save("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"clip_qkv": 8.0}))
    assert "clip_qkv is 8.0, which llama models ignore" in refused(engine, tmp_path)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("name", ["blk.0.attn_output.bias", "blk.1.ffn_down.bias", "blk.2.attn_q.weight"])
def test_a_gguf_tensor_without_a_place_is_refused_by_both(kind: str, name: str, tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", kind, extra={name: np.ones(32)})
    complaint = f"tensor '{name}' has no place in the model"
    assert complaint in refused("megatron", file)
    assert loading.load(source.read(test_gguf.written(tmp_path / "whole.gguf", kind)), torch.float32, CPU)
    with pytest.raises(CheckpointError, match=complaint):
        loading.load(source.read(file), torch.float32, CPU)


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "output_norm.weight"])
def test_a_gguf_tensor_that_is_missing_is_refused_by_both(name: str, tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", lacking=name)
    assert f"tensor '{name}' is missing" in refused("megatron", file)
    with pytest.raises(CheckpointError, match=r"tensor '.*' is missing"):
        loading.load(source.read(file), torch.float32, CPU)


LENGTHS = {"llama": 2048, "mistral": 131072, "qwen3": 32768}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_context_that_is_left_out_is_the_classs(engine: str, kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = deployments.plan(ENGINES[engine](), Model(path=str(tmp_path)), HOST)
    assert plan["context_length"] == LENGTHS[kind]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cache_is_sized_by_the_classs_default(engine: str, tmp_path: Path) -> None:
    """Qwen3's heads have 128 channels unless its configuration says otherwise."""
    save("qwen3", tmp_path, head_dim=128)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings: Any = {"kv_cache_gib": 0.01}
    plan = deployments.plan(ENGINES[engine](**settings), Model(path=str(tmp_path)), HOST)
    assert plan["cache_tokens"] == pytest.approx(0.01 * 2**30 / (2 * 3 * 2 * 128 * 4), rel=0.02)
