"""engine=auto takes the engine that computes the checkpoint, and says why; what neither computes is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.core.errors import CheckpointError, UserError
from launcher.engines.auto import Auto
from launcher.engines.base import Engine
from launcher.engines.megatron import Megatron
from launcher.settings.model import Model, Parallelism
from tests.checkpoints import test_gguf
from tests.engines import deployments
from tests.engines.answers import answer, request
from tests.engines.huggingface.huggingface_models import HOST, random_model, save
from tests.engines.huggingface.test_engine import plain

TINY = Path(__file__).parents[2] / "launcher" / "assets" / "tiny"
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another model_type": ("gemma3_text", {}, "model_type is 'gemma3_text'"),
    "yarn": ("llama", {"rope_parameters": YARN}, "rope_type is 'yarn'"),
    "biases in attention only": ("llama", {"attention_bias": True}, "attention_bias is True and mlp_bias False"),
    "mixed windows": ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}, "layer_types mixes"),
}


def plan(engine: Engine, path: Path, parallelism: Parallelism | None = None) -> dict[str, Any]:
    return deployments.plan(engine, Model(path=str(path)), HOST, parallelism)


def test_megatron_is_taken_where_it_computes_the_checkpoint(tmp_path: Path) -> None:
    found = plan(Auto(), save("llama", tmp_path), Parallelism(tensor=2))
    assert (found["taken"], found["taken_because"]) == ("megatron", "it computes this huggingface checkpoint")
    assert found["layout"]["tensor"] == 2
    assert plan(Auto(), TINY)["taken_because"] == "it computes this megatron_bridge checkpoint"


@pytest.mark.parametrize("name", OTHERS)
async def test_huggingface_is_taken_for_the_rest_and_computes_it(name: str, tmp_path: Path) -> None:
    kind, changes, reason = OTHERS[name]
    save(kind, tmp_path, **changes)
    with pytest.raises(CheckpointError, match=rf"{reason}.*; engine=huggingface can serve it"):
        plan(Megatron(), tmp_path)
    with pytest.raises(CheckpointError, match=rf"{reason}.*; engine=huggingface can serve it"):
        Megatron().fingerprint(Model(path=str(tmp_path)))
    found = plan(Auto(max_sequences=7), tmp_path)
    assert found["taken"] == "huggingface"
    assert found["taken_because"].startswith(f"engine=megatron does not compute it: config.json: {reason}")
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    with deployments.load(Auto(), Model(path=str(tmp_path)), HOST) as runner:
        facts = runner.describe()
        scored = await answer(runner, request("a", tokens, max_tokens=0, prompt_logprobs=0))
    assert {key: facts[key] for key in ("taken", "taken_because")} == {
        key: found[key] for key in ("taken", "taken_because")
    }
    assert scored.logprobs[1:] == pytest.approx(plain(random_model(kind, **changes), tokens), abs=1e-4)


@pytest.mark.parametrize("engine", [Megatron(), Auto()])
@pytest.mark.parametrize("kind", ["unheard_of", "bert_generation_encoder"])
def test_what_neither_engine_knows_is_one_line(engine: Engine, kind: str, tmp_path: Path) -> None:
    config = save("llama", tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": kind}))
    with pytest.raises(
        CheckpointError, match=f"model_type is '{kind}'.*; engine=huggingface cannot serve it either: "
    ) as caught:
        plan(engine, tmp_path)
    assert str(caught.value).endswith("backend=vllm or backend=sglang may serve it as it is")
    assert "\n" not in str(caught.value)


def test_a_gguf_architecture_that_only_transformers_knows(tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", "gemma2")
    assert plan(Auto(), file)["taken"] == "huggingface"
    with pytest.raises(CheckpointError, match="engine=huggingface cannot serve it either"):
        plan(Auto(), test_gguf.written(tmp_path / "other.gguf", "plamo"))


def test_a_damaged_checkpoint_is_no_reason_to_take_another_engine(tmp_path: Path) -> None:
    (save("llama", tmp_path) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no safetensors header") as caught:
        plan(Auto(), tmp_path)
    assert "engine=huggingface" not in str(caught.value)


def test_several_processes_need_megatron(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"parallelism\.tensor=2: must be 1 with engine=huggingface"):
        plan(Auto(), save("gemma3_text", tmp_path), Parallelism(tensor=2))


def test_both_have_the_settings_of_auto(tmp_path: Path) -> None:
    for kind in ("llama", "gemma3_text"):
        choice = Auto(max_sequences=7, threads=3).choose(Model(path=str(save(kind, tmp_path / kind))))
        assert (choice.engine.max_sequences, choice.engine.threads) == (7, 3)  # type: ignore[attr-defined]
