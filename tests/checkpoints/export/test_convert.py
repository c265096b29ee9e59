"""A converted checkpoint is the same model: to our readers bit by bit, and to transformers with nothing left over."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sentencepiece import SentencePieceTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.checkpoints import detect, load_tokenizer, parts
from launcher.checkpoints.base import Architecture, Checkpoint
from launcher.checkpoints.export import folder as export
from launcher.checkpoints.export import rope_factors
from launcher.checkpoints.export.folder import Wanted
from launcher.checkpoints.huggingface.safetensors_index import read_index
from launcher.checkpoints.torch_dist import tensor_store
from launcher.checkpoints.torch_dist.archive import Span
from launcher.checkpoints.torch_dist.index import Chunk, Stored
from launcher.checkpoints.torch_dist.tensor_store import TensorStore
from launcher.checkpoints.torch_dist.writer import save
from launcher.core.errors import CheckpointError, UserError
from launcher.core.tokenizer import Tokenizer
from launcher.settings.convert import Layout
from tests.checkpoints.checkpoint_models import TOKENS, architecture, built, loaded, logits
from tests.checkpoints.test_gguf import written as written_gguf
from tests.checkpoints.test_huggingface import CONFIGS, saved
from tests.checkpoints.test_megatron_lm import LLAMA
from tests.checkpoints.test_megatron_lm import written as written_lm
from tests.checkpoints.test_nemo1 import CONFIG, packed
from tests.running import launch_here

TINY = Path(__file__).parents[3] / "launcher" / "assets" / "tiny"
NEMO2 = Path(__file__).parents[1] / "data" / "nemo2"
BRIDGE_NAMES = {
    "num_query_groups": "num_query_groups",
    "norm_epsilon": "layernorm_epsilon",
    "zero_centered_gamma": "layernorm_zero_centered_gamma",
    "gated": "gated_linear_unit",
    "bias": "add_bias_linear",
    "qkv_bias": "add_qkv_bias",
    "qk_norm": "qk_layernorm",
    "position": "position_embedding_type",
    "context_length": "seq_length",
    "num_experts": "num_moe_experts",
    "experts_per_token": "moe_router_topk",
    "expert_ffn_hidden_size": "moe_ffn_hidden_size",
    "shared_expert_ffn_hidden_size": "moe_shared_expert_intermediate_size",
    "shared_expert_gate": "moe_shared_expert_gate",
}
"""Megatron-Bridge's names of an architecture's fields, where they differ."""


def bridge(folder: Path, apart: bool = False, prefix: str = "", **changes: Any) -> Path:
    """Write a Megatron-Bridge checkpoint of a random model; ``apart`` stores every layer under a name of its own."""
    arch = architecture(**changes)
    fields = {name: getattr(arch, name) for name in arch.__dataclass_fields__}
    model = {BRIDGE_NAMES.get(name, name): value for name, value in fields.items()}
    model |= {"activation_func": {"_target_": f"torch.nn.functional.{arch.activation}"}, "window_size": None}
    model |= {"moe_router_pre_softmax": not arch.normalize_expert_weights, "rope_scaling": False}
    if arch.sliding_window:
        model["window_size"] = [arch.sliding_window - 1, 0]
    made: Any = built(arch)

    class Named:
        def sharded_state_dict(self, prefix: str) -> Any:
            return made.sharded_state_dict(prefix=prefix, metadata={"non_homogeneous_layers": True} if apart else None)

    save(Named(), folder, torch.float32, prefix)  # type: ignore[arg-type]
    (folder / "run_config.yaml").write_text(yaml.safe_dump({"model": model}))
    return folder


def converted(
    source: Path, target: Path, dtype: str = "auto", shard_gb: float = 5.0, layout: Layout = Layout.hf
) -> Checkpoint:
    """Convert without a tokenizer, and open what came of it."""
    wanted = Wanted(layout, dtype, shard_gb)
    export.carry_out(export.prepare(detect(source), target, wanted, "none"), None, lambda line: None)
    return detect(target)


def of_transformers(folder: Path, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    """Return transformers' logits, from a folder with nothing missing or unexpected."""
    loaded_with: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    model, info = loaded_with
    assert not any(info.values()), info
    with torch.no_grad():
        found: torch.Tensor = model.eval()(tokens).logits
    return found


MEGATRON: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_untied": {"tied": False, "kv_channels": 16},
    "llama_biased": {"bias": True, "qkv_bias": True},
    "layers_apart": {"apart": True, "tied": False},
    "qwen2": {"qkv_bias": True},
    "qwen2_window": {"qkv_bias": True, "sliding_window": 4},
    "qwen3": {"qk_norm": True},
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_experts": 4, "experts_per_token": 2},
    "qwen2_moe": {
        **{"num_experts": 4, "experts_per_token": 2, "expert_ffn_hidden_size": 24, "qkv_bias": True},
        **{"shared_expert_ffn_hidden_size": 40, "shared_expert_gate": True, "normalize_expert_weights": False},
    },
    "qwen3_moe": {"num_experts": 4, "experts_per_token": 2, "qk_norm": True, "expert_ffn_hidden_size": 24},
    "experts_apart": {"num_experts": 4, "experts_per_token": 2, "apart": True},
    "gpt_neox": {
        **{"gated": False, "bias": True, "qkv_bias": True, "activation": "gelu", "normalization": "LayerNorm"},
        **{"num_query_groups": 4, "rotary_percent": 0.5, "tied": False},
    },
}
EXACT = {"gpt_neox", "mixtral", "qwen2_moe", "qwen3_moe", "experts_apart"}
"""Models that transformers computes in another order than megatron-core, so that only rounding may differ."""


@pytest.mark.parametrize("name", list(MEGATRON))
def test_a_megatron_checkpoint_is_the_same_model_afterwards(name: str, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **MEGATRON[name])
    opened = converted(source, tmp_path / "hf")
    assert opened.layout == "huggingface"
    expected = logits(loaded(source))
    assert torch.equal(logits(loaded(tmp_path / "hf")), expected)
    torch.testing.assert_close(of_transformers(tmp_path / "hf"), expected, atol=1e-5, rtol=0)


QUICK = {"llama3", "llama_biased", "mistral", "qwen2_moe", "qwen3_moe_raw", "gpt_neox_serial"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.soak) for n in CONFIGS])
def test_a_folder_of_transformers_is_the_same_model_afterwards(name: str, tmp_path: Path) -> None:
    expected = saved(name, tmp_path / "source")
    converted(tmp_path / "source", tmp_path / "hf")
    assert torch.equal(of_transformers(tmp_path / "hf"), expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_gguf_file_is_the_same_model_afterwards(kind: str, tmp_path: Path) -> None:
    source = written_gguf(tmp_path / "model.gguf", kind)
    converted(source, tmp_path / "hf")
    expected = logits(loaded(source))
    assert torch.equal(logits(loaded(tmp_path / "hf")), expected)
    torch.testing.assert_close(of_transformers(tmp_path / "hf"), expected, atol=1e-5, rtol=0)


FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_the_rotary_factors_of_llama_3_become_its_scaling(tmp_path: Path) -> None:
    arch = architecture(rotary_base=500000.0, rope_scaling=FACTORS | {"rope_type": "llama3"})
    factors = rope_factors.divisors(arch)
    assert {factors[0], factors[-1]} == {1.0, 8.0}
    extra = {"rope_freqs.weight": factors}
    source = written_gguf(tmp_path / "model.gguf", extra=extra, add_rope_freq_base=500000.0)
    converted(source, tmp_path / "hf")
    scaling = json.loads((tmp_path / "hf" / "config.json").read_text())["rope_scaling"]
    assert scaling == FACTORS | {"rope_type": "llama3"}
    torch.testing.assert_close(of_transformers(tmp_path / "hf"), logits(loaded(source)), atol=1e-5, rtol=0)


def test_other_rotary_factors_are_refused(tmp_path: Path) -> None:
    source = written_gguf(tmp_path / "model.gguf", extra={"rope_freqs.weight": [1.0, 2.0, 2.5, 3.0]})
    with pytest.raises(CheckpointError, match=r"cannot have rope_factors=\(1.0, 2.0, 2.5, 3.0\)"):
        converted(source, tmp_path / "hf")


@pytest.mark.parametrize(
    "changes",
    [
        {"rotary_interleaved": True, "qk_norm": True},
        {"rotary_interleaved": True, "qkv_bias": True},
        {"zero_centered_gamma": True},
        {"zero_centered_gamma": True, "qk_norm": True, "tied": False},
    ],
    ids=["interleaved", "interleaved_biases", "zero_centered", "zero_centered_heads"],
)
def test_what_is_stored_in_another_way_is_changed(changes: dict[str, Any], tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **changes)
    converted(source, tmp_path / "hf")
    torch.testing.assert_close(of_transformers(tmp_path / "hf"), logits(loaded(source)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"position": "learned_absolute"}, "position='learned_absolute'"),
        ({"activation": "relu", "gated": False}, "gated=False"),
        ({"normalization": "LayerNorm"}, "the closest, llama, cannot have normalization='LayerNorm'"),
        ({"rotary_percent": 0.5}, "rotary_percent=0.5"),
        ({"bias": True, "qk_norm": True}, "qk_norm=True"),
        (
            MEGATRON["qwen2_moe"] | {"shared_expert_gate": False},
            "qwen2_moe, cannot have shared_expert_gate=False",
        ),
    ],
)
def test_what_no_class_expresses_is_refused_before_anything_is_written(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    source = bridge(tmp_path / "source", **changes)
    with pytest.raises(CheckpointError, match=complaint) as refused:
        converted(source, tmp_path / "hf")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "hf").exists()


def test_every_layout_of_megatron_is_the_same_model_afterwards(tmp_path: Path) -> None:
    written_lm(tmp_path / "megatron_lm", LLAMA)
    nemo = {"normalization": "rmsnorm", "rotary_percentage": 1.0, "share_embeddings_and_output_weights": True}
    save(built(architecture()), tmp_path / "unpacked" / "model_weights", torch.float32, "model.")
    (tmp_path / "unpacked" / "model_config.yaml").write_text(yaml.safe_dump(CONFIG | nemo))
    packed(tmp_path / "unpacked", tmp_path / "nemo1.nemo")
    bridge(tmp_path / "nemo2" / "weights", prefix="module.")
    (tmp_path / "nemo2" / "context").mkdir()
    config = yaml.safe_load((tmp_path / "nemo2" / "weights" / "run_config.yaml").read_text())["model"]
    (tmp_path / "nemo2" / "context" / "model.yaml").write_text(yaml.safe_dump({"config": config}))
    for name in ("megatron_lm", "nemo1.nemo", "nemo2"):
        source, target = tmp_path / name, tmp_path / f"{name}-hf"
        assert detect(source).layout == name.removesuffix(".nemo")
        converted(source, target)
        assert torch.equal(logits(loaded(target)), logits(loaded(source)))


def test_parameters_are_those_that_an_engine_loads() -> None:
    """NeMo wrote this one: each layer is a part of its own."""
    checkpoint, model = detect(NEMO2), loaded(NEMO2)
    for module, kind in parts.parameters(checkpoint.architecture):
        assert torch.equal(checkpoint.parameter(module, kind).float(), model.get_parameter(f"{module}.{kind}"))


def test_a_parameter_is_put_together_of_the_parts_of_ranks(tmp_path: Path) -> None:
    arch = architecture(num_layers=3)
    whole = torch.randn(3, *parts.shape(arch, "decoder.layers.0.mlp.linear_fc2", "weight"))
    chunks = []
    for layer, columns in itertools.product(range(3), (slice(0, 20), slice(20, 48))):
        piece = whole[layer : layer + 1, :, columns].clone()
        file = tmp_path / f"{layer}-{columns.start}.distcp"
        torch.save(piece, file)
        chunks.append(Chunk((layer, 0, columns.start), tuple(piece.shape), file.name, Span(0, file.stat().st_size)))
    names = {"decoder.layers.mlp.linear_fc2.weight": Stored(tuple(whole.shape), "float32", tuple(chunks))}
    embedding = Stored((64, 32), "float32")
    store = TensorStore(tmp_path, {"embedding.word_embeddings.weight": embedding, **names})
    for layer in range(3):
        found = tensor_store.parameter(store, arch, f"decoder.layers.{layer}.mlp.linear_fc2", "weight")
        assert torch.equal(found, whole[layer])


def test_norms_are_not_rounded(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", zero_centered_gamma=True)
    with pytest.raises(CheckpointError, match=r"bf16 would round 1 \+ weight; expected convert\.dtype=fp32"):
        converted(source, tmp_path / "hf", "bf16")


def test_the_type_is_a_choice(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source")
    opened = converted(source, tmp_path / "hf", "bf16")
    assert opened.architecture.dtype == "bf16"
    rounded = {name: p.bfloat16().float() for name, p in loaded(source).named_parameters()}
    assert all(torch.equal(p, rounded[name]) for name, p in loaded(tmp_path / "hf").named_parameters())


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_is_none_is_warned_of(number: float, tmp_path: Path) -> None:
    saved("llama", tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    model.model.norm.weight.data[3] = number
    model.save_pretrained(tmp_path / "source")
    conversion = export.prepare(detect(tmp_path / "source"), tmp_path / "made", Wanted(Layout.hf), "none")
    lines: list[str] = []
    export.carry_out(conversion, None, lines.append)
    (line,) = [line for line in lines if "warning" in line]
    assert line == "warning: decoder.final_layernorm.weight holds numbers that are infinite or none (NaN)"


def test_a_number_too_large_for_the_type_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    model.model.norm.weight.data[0] = 1e5
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"final_layernorm\.weight holds 1e\+05, more than fp16 can hold"):
        converted(tmp_path / "source", tmp_path / "hf", "fp16")


def test_a_small_share_of_gigabytes_makes_many_files(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", tied=False)
    converted(source, tmp_path / "hf", shard_gb=5e-6)
    assert len({entry.file for entry in read_index(tmp_path / "hf").values()}) > 5
    assert not list((tmp_path / "hf").glob("*.partial"))
    torch.testing.assert_close(of_transformers(tmp_path / "hf"), logits(loaded(source)), atol=1e-5, rtol=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


KILLED = """
import os, sys
from pathlib import Path
from launcher.checkpoints import detect
from launcher.checkpoints.export import folder
from launcher.checkpoints.export.folder import Wanted
conversion = folder.prepare(detect(Path(sys.argv[1])), Path(sys.argv[2]), Wanted(dtype="fp32", shard_gb=2e-4), None)
end = lambda line: os.kill(os.getpid(), 9) if "model-00002" in line else None
folder.carry_out(conversion, None, end)
"""


def test_a_killed_conversion_continues(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(TINY), str(tmp_path / "hf")],
        env=os.environ | {"PYTHONPATH": str(TINY.parents[2])},
    )
    assert killed.returncode == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "hf").glob("model-0000[12]*.safetensors")}
    assert len(before) == 2
    (tmp_path / "hf" / "model-00003-of-00013.safetensors.partial").write_bytes(b"half")
    settings = ("mode=convert", "convert.dtype=fp32", "convert.shard_gb=2e-4")
    done = launch_here(tmp_path, *settings, "convert.path=hf")
    assert done.returncode == 0, done.stderr
    assert "2 of 13 files of weights are there" in done.stderr
    assert {name: (tmp_path / "hf" / name).stat().st_mtime_ns for name in before} == before
    assert launch_here(tmp_path, *settings, "convert.path=other").returncode == 0
    assert contents(tmp_path / "hf") == contents(tmp_path / "other")


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    arguments = ("mode=convert", "convert.path=hf")
    assert launch_here(tmp_path, *arguments).returncode == 0
    whole = contents(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").write_bytes(whole["model.safetensors"][:-1] + b"\0")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    assert launch_here(tmp_path, *arguments).returncode == 0
    assert contents(tmp_path / "hf") == whole


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "notes.txt").write_text("mine")
    refused = launch_here(tmp_path, "mode=convert", "convert.path=hf")
    assert (refused.returncode, refused.stderr.strip().count("\n")) == (1, 0)
    assert "convert.path=hf: not empty, and not of a conversion; choose a new folder" in refused.stderr
    assert contents(tmp_path / "hf") == {"notes.txt": b"mine"}


@pytest.mark.parametrize("folder", ["source/hf", "source/new/hf"])
def test_a_folder_inside_the_source_is_refused(folder: str, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "source")
    before = sorted((tmp_path / "source").rglob("*"))
    refused = launch_here(tmp_path, "convert", "source", folder)
    assert (refused.returncode, refused.stderr.strip().count("\n")) == (1, 0)
    assert f"convert.path={folder}: inside model.path=source, which would change" in refused.stderr
    assert sorted((tmp_path / "source").rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    refused = launch_here(tmp_path, "convert", "tiny", "/proc/converted")
    assert (refused.returncode, refused.stderr.strip().count("\n")) == (1, 0)
    assert "/proc/converted: cannot be written" in refused.stderr


def test_another_conversion_does_not_continue(tmp_path: Path) -> None:
    assert launch_here(tmp_path, "mode=convert", "convert.path=hf").returncode == 0
    whole = contents(tmp_path / "hf")
    refused = launch_here(tmp_path, "mode=convert", "convert.path=hf", "convert.dtype=fp32")
    assert "convert.path=hf: holds the conversion with dtype=bf16, not fp32" in refused.stderr
    assert refused.returncode == 1
    assert contents(tmp_path / "hf") == whole


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    conversion = export.prepare(detect(TINY), tmp_path / "hf", Wanted(shard_gb=2e-4), "none")

    def again() -> None:
        export.carry_out(conversion, None, print)

    with pytest.raises(UserError, match="another process is converting into it"):
        export.carry_out(conversion, None, lambda line: again())


@pytest.mark.parametrize("kind", ["bytes", "nemo2", "sentencepiece", "sentencepiece_alone"])
def test_the_tokenizer_is_the_same(kind: str, tmp_path: Path) -> None:
    source = tokenizer_source(kind, tmp_path)
    bridge(tmp_path / "model", vocab_size=512)
    done = launch_here(tmp_path, "convert", "model", "hf", f"model.tokenizer={source}")
    assert done.returncode == 0, done.stderr
    assert_same(load_tokenizer(source), tmp_path / "hf")


def tokenizer_source(kind: str, folder: Path) -> Path:
    if kind == "bytes":
        return TINY / "iter_0000800" / "tokenizer"
    if kind == "nemo2":
        return next(NEMO2.rglob("tokenizer.json"))
    file = sentencepiece_file(folder / "sp")
    if kind == "sentencepiece_alone":
        return file
    config = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    (file.parent / "tokenizer_config.json").write_text(json.dumps(config))
    return file.parent


def sentencepiece_file(folder: Path) -> Path:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog", "hello hello world"] * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder / "tokenizer.model"


def assert_same(tokenizer: Tokenizer, folder: Path) -> None:
    """Compare a tokenizer with what our reader loads from a folder, and transformers.

    For a SentencePiece model, transformers wants a newer protobuf than Triton's client allows.
    """
    again = load_tokenizer(folder)
    theirs = AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").is_file() else again
    for text in ("the capital of france is ", "  two  spaces\n", "naïve 🙂 7+5=", ""):
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        assert theirs.encode(text) == ids
        assert again.decode(ids) == tokenizer.decode(ids)
    assert (again.eos_ids, again.bos_id, again.vocab_size) == (
        tokenizer.eos_ids,
        tokenizer.bos_id,
        tokenizer.vocab_size,
    )
    assert again.info() == tokenizer.info()


def test_a_model_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    bridge(tmp_path / "source")
    arguments = ("mode=convert", "model=checkpoint", "model.path=source", "convert.path=hf")
    refused = launch_here(tmp_path, *arguments)
    assert refused.returncode == 1
    assert "set model.tokenizer to a folder, or convert.tokenizer=false to write none" in refused.stderr
    assert not (tmp_path / "hf").exists()
    assert launch_here(tmp_path, *arguments, "convert.tokenizer=false").returncode == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"] is None


def test_the_command_and_its_plan(tmp_path: Path) -> None:
    planned = launch_here(tmp_path, "convert", "tiny", "hf", "--plan", "convert.dtype=fp32")
    assert planned.returncode == 0, planned.stderr
    plan = yaml.safe_load(planned.stdout)
    assert (plan["model_type"], plan["dtype"], plan["files"]) == ("llama", "fp32", ["model.safetensors"])
    assert not (tmp_path / "hf").exists()
    assert launch_here(tmp_path, "convert", "tiny", "hf").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_every_class_that_is_read_is_written() -> None:
    from launcher.checkpoints.export.huggingface import CLASSES
    from launcher.checkpoints.huggingface.layout import NAMES

    assert set(CLASSES) == set(NAMES)
    assert isinstance(architecture(), Architecture)
