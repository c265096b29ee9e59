"""Adapters of Hugging Face: what is merged equals ``merge_and_unload`` of ``peft``, and nothing is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from launcher.checkpoints import open_model
from launcher.checkpoints.base import Checkpoint
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import HuggingFace, loading, source
from launcher.engines.megatron import Megatron
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert
from launcher.settings.model import Bounds, Dtype, Model
from tests.checkpoints.checkpoint_models import HOST, TOKENS, filled, logits
from tests.checkpoints.export.test_convert import TINY
from tests.checkpoints.huggingface.test_packed_weights import quantized
from tests.checkpoints.test_huggingface import saved
from tests.engines import deployments
from tests.running import launch_here

peft = pytest.importorskip("peft")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 16, "target_modules": ALL},
    "rslora_patterns": {
        **{"r": 4, "lora_alpha": 8, "target_modules": ALL, "use_rslora": True},
        **{"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}, "alpha_pattern": {"v_proj": 3}},
    },
    "dora": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "saved": {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "norms": {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["norm", "input_layernorm"]},
    "embedding": {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
    "output": {"r": 4, "target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "output_dora": {"r": 4, "target_modules": ["lm_head"], "use_dora": True},
    "one_layer": {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "first_layer": {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": 0},
    "pattern": {"r": 4, "target_modules": r".*layers\.1.*q_proj"},
    "named_layer": {"r": 4, "target_modules": ["layers.0.mlp.up_proj", "v_proj"]},
}


def base_of(folder: Path, name: str = "llama") -> Path:
    saved(name, folder)
    return folder


def trained(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """Write an adapter with random weights by ``peft``; return the logits of its own merge, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    kind = peft.IA3Config if "feedforward_modules" in settings else peft.LoraConfig
    adapted = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                shift = parameter.abs() if "magnitude" in name else 0
                parameter.copy_(shift + 0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    merged = adapted.merge_and_unload().eval()
    with torch.no_grad():
        found: torch.Tensor = merged(TOKENS).logits
    return found


def opened(base: Path, adapter: Path) -> Checkpoint:
    return open_model(base, Bounds(), str(adapter))


def of_megatron(base: Path, adapter: Path) -> torch.Tensor:
    checkpoint = opened(base, adapter)
    return logits(filled(checkpoint.architecture, checkpoint))


def of_huggingface(base: Path, adapter: Path) -> torch.Tensor:
    from launcher.checkpoints.peft.opening import open_adapter

    found = open_adapter(str(adapter), Bounds(), base)
    model = loading.load(source.read(base), torch.float32, torch.device("cpu"), found)
    result: torch.Tensor = model(TOKENS).logits
    return result


@pytest.mark.parametrize("name", list(CASES))
def test_both_engines_merge_as_peft_does(name: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    expected = trained(base, tmp_path / "adapter", **CASES[name])
    torch.testing.assert_close(of_megatron(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(of_huggingface(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)


def test_merged_weights_equal_those_of_peft_bit_by_bit(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    found = opened(base, tmp_path / "adapter").parameter("decoder.layers.1.mlp.linear_fc2", "weight")
    assert torch.equal(found, merged.get_parameter("model.layers.1.mlp.down_proj.weight"))


def test_rows_and_columns_are_scaled(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "qwen2")
    expected = trained(
        base, tmp_path / "adapter", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    torch.testing.assert_close(of_megatron(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(of_huggingface(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)


def test_biases_that_were_trained_are_taken(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "qwen2")
    expected = trained(base, tmp_path / "adapter", r=2, target_modules=["q_proj", "o_proj"], bias="all")
    torch.testing.assert_close(of_megatron(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)


def test_a_shared_expert_and_its_gate_are_adapted(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "qwen2_moe")
    targets = ["q_proj", "gate_proj", "down_proj", "shared_expert_gate"]
    expected = trained(base, tmp_path / "adapter", r=4, lora_alpha=16, target_modules=targets)
    torch.testing.assert_close(of_megatron(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(of_huggingface(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)


def test_a_transposed_layer_is_merged(tmp_path: Path) -> None:
    """GPT-2 stores [inputs, outputs]; only engine=huggingface serves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)).save_pretrained(
        tmp_path / "base"
    )
    settings = {"r": 3, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    expected = trained(tmp_path / "base", tmp_path / "adapter", **settings)
    torch.testing.assert_close(of_huggingface(tmp_path / "base", tmp_path / "adapter"), expected, atol=2e-5, rtol=0)


def test_a_tied_model_is_untied_where_its_ends_were_trained_apart(tmp_path: Path) -> None:
    base = tied(tmp_path / "base")
    expected = trained(base, tmp_path / "adapter", r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert not opened(base, tmp_path / "adapter").architecture.tied
    torch.testing.assert_close(of_megatron(base, tmp_path / "adapter"), expected, atol=2e-5, rtol=0)
    with pytest.raises(
        CheckpointError, match=r"changes 'lm_head\.weight'.*also uses as its output layer|which it lacks"
    ):
        of_huggingface(base, tmp_path / "adapter")


def test_a_low_rank_change_of_a_tied_embedding_is_refused(tmp_path: Path) -> None:
    base = tied(tmp_path / "base")
    trained(base, tmp_path / "adapter", r=2, target_modules=["embed_tokens"])
    with pytest.raises(CheckpointError, match="a merge would not be what was trained"):
        opened(base, tmp_path / "adapter")


def tied(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(2)
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=32, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_converted_model_has_the_adapter_in_it(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    expected = trained(base, tmp_path / "adapter", **CASES["lora"])
    model = Model(path=str(base), peft=str(tmp_path / "adapter"))
    assert convert(model, Convert(path=str(tmp_path / "made"), tokenizer=False)) == 0
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(TOKENS).logits, expected, atol=2e-5, rtol=0)
    fingerprint = json.loads((tmp_path / "made" / "conversion.json").read_text())["identity"]["source"]
    assert fingerprint == opened(base, tmp_path / "adapter").fingerprint() != open_model(base).fingerprint()


def changed(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"peft_type": "PREFIX_TUNING"}, r"peft_type is 'PREFIX_TUNING' \(merged: LORA, IA3\)"),
        ({"task_type": "SEQ_CLS"}, r"task_type is 'SEQ_CLS' \(expected CAUSAL_LM\)"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base model too"),
        ({"r": 8}, r"has rank 4 \(adapter_config\.json says 8\)"),
        ({"lora_alpha": "much"}, r"lora_alpha is 'much' \(expected a number\)"),
        ({"use_dora": True}, "contradicts use_dora=True"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication is \[\[0, 1\]\], which is not merged here"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is .*not merged here"),
        ({"lora_bias": True}, "lora_bias is True, which is not merged here"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has no regular expression"),
    ],
)
def test_what_is_not_merged_exactly_is_refused(settings: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    changed(tmp_path / "adapter", **settings)
    with pytest.raises(CheckpointError, match=complaint) as refused:
        opened(base, tmp_path / "adapter")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", (4, 4), "lora_C.* is not merged here"),
        ("base_model.model.model.layers.9.self_attn.q_proj.weight", (32, 32), "it changes 'model.layers.9.*lacks"),
        ("base_model.model.vision.proj.weight", (4, 4), "it changes 'vision.proj.weight', which .* lacks"),
        (
            "base_model.model.lm_head.weight",
            (65, 32),
            r"it changes 'lm_head\.weight' of shape \[65, 32\]; .* has \[64, 32\]",
        ),
        ("base_model.model.model.norm.lora_A.weight", (4, 4), r"'model\.norm' has lora_A \(expected lora_A and lora_B"),
    ],
)
def test_no_tensor_is_left_out(name: str, shape: tuple[int, ...], complaint: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {name: torch.zeros(shape)}, file)
    with pytest.raises(CheckpointError, match=complaint):
        opened(base, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("layers.9.self_attn.q_proj", (32, 32), r"'model\.layers\.9\.self_attn\.q_proj\.weight', which .*base lacks"),
        ("layers.1.mlp.gate_proj", (64, 32), r"of shape \[64, 32\]; .*base has \[48, 32\]"),
        ("layers.1.mlp.router", (4, 32), r"'model\.layers\.1\.mlp\.router\.weight', which .*base lacks"),
    ],
)
def test_a_plan_refuses_the_adapter_of_another_model(
    name: str, shape: tuple[int, int], complaint: str, tmp_path: Path
) -> None:
    base, folder = base_of(tmp_path / "base"), tmp_path / "adapter"
    trained(base, folder, r=4, target_modules=["q_proj", "gate_proj"])
    file = folder / "adapter_model.safetensors"
    low = {f"base_model.model.model.{name}.lora_A.weight": torch.zeros(4, shape[1])}
    low[f"base_model.model.model.{name}.lora_B.weight"] = torch.zeros(shape[0], 4)
    save_file(load_file(file) | low, file)
    changed(folder, target_modules=["q_proj", "gate_proj", name.rpartition(".")[2]])
    for engine in (HuggingFace(), Megatron()):
        with pytest.raises(CheckpointError, match=f"of another model .*it changes .*{complaint}"):
            deployments.plan(engine, Model(path=str(base), peft=str(folder)), HOST)


@pytest.mark.parametrize("name", ["lora", "one_layer"])
def test_a_plan_takes_the_adapter_of_its_model(name: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES[name])
    plan = deployments.plan(HuggingFace(), Model(path=str(base), peft=str(tmp_path / "adapter")), HOST)
    assert plan["peft"]["merged_weights"]


def test_layers_without_their_part_are_refused(tmp_path: Path) -> None:
    """As of a base with fewer layers: all shapes fit, and ``peft`` merges it in silence."""
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "layers.1." not in name}, file)
    for merged in (of_megatron, of_huggingface):
        with pytest.raises(CheckpointError, match=r"in 1 of the 2 layers of .*base, and its target_modules are of all"):
            merged(base, tmp_path / "adapter")


def test_an_adapter_is_not_merged_twice(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    changed(tmp_path / "adapter", base_model_name_or_path="of/a-hub")
    model = Model(path=str(base), peft=str(tmp_path / "adapter"))
    assert convert(model, Convert(path=str(tmp_path / "made"), tokenizer=False)) == 0
    with pytest.raises(CheckpointError, match=r"made has it in its weights already.*; set model\.peft=null"):
        opened(tmp_path / "made", tmp_path / "adapter")
    trained(base, tmp_path / "second", **CASES["dora"])
    changed(tmp_path / "second", base_model_name_or_path="of/a-hub")
    assert opened(tmp_path / "made", tmp_path / "second").facts()["peft"]


def test_another_base_on_this_machine_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    changed(tmp_path / "adapter", base_model_name_or_path=str(tied(tmp_path / "other")))
    with pytest.raises(
        CheckpointError, match=r"it was trained on .*other, whose files are not those of .*base; set model.path"
    ):
        opened(base, tmp_path / "adapter")


def test_another_base_in_the_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    tied(tmp_path / "other")
    changed(tmp_path / "adapter", base_model_name_or_path="other")
    assert opened(base, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"it was trained on other, whose files are not those of"):
        opened(base, tmp_path / "adapter")


def test_a_file_of_an_adapter_and_a_pickle_are_named(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["lora"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    with pytest.raises(CheckpointError, match=rf"a file; the adapter is its folder: model\.peft={tmp_path}/adapter \("):
        opened(base, file)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which may run code: save it again"):
        opened(base, tmp_path / "adapter")


@pytest.mark.parametrize("name", ["awq", "gptq"])
def test_an_adapter_is_merged_into_a_quantised_base(name: str, tmp_path: Path) -> None:
    plain = quantized(tmp_path, name)
    expected = trained(plain, tmp_path / "adapter", **CASES["lora"])
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace(str(plain), str(tmp_path / "quantized")))
    checkpoint = opened(tmp_path / "quantized", tmp_path / "adapter")
    torch.testing.assert_close(logits(filled(checkpoint.architecture, checkpoint)), expected, atol=2e-5, rtol=0)
    assert checkpoint.facts()["quant_method"] == name
    assert checkpoint.facts()["peft"]
    model = Model(path=str(tmp_path / "quantized"), peft=str(tmp_path / "adapter"))
    assert convert(model, Convert(path=str(tmp_path / "hf"), dtype=Dtype.fp32, tokenizer=False)) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    torch.testing.assert_close(merged(TOKENS).logits, expected, atol=2e-5, rtol=0)


def test_a_run_says_what_it_served(tmp_path: Path) -> None:
    assert convert(Model(path=str(TINY)), Convert(path=str(tmp_path / "base"))) == 0
    trained(tmp_path / "base", tmp_path / "adapter", **CASES["lora"])
    arguments = ("model=checkpoint", "model.path=base", "model.peft=adapter")
    planned = launch_here(tmp_path, "mode=plan", *arguments)
    assert planned.returncode == 0, planned.stderr
    assert "type: LORA" in planned.stdout
    refused = launch_here(tmp_path, "mode=plan", *arguments, "engine=echo")
    assert (refused.returncode, refused.stderr.strip().count("\n")) == (1, 0)
    assert "model.peft=adapter: engine=echo would not merge it" in refused.stderr
