"""What a plan refuses of a checkpoint that another program's server would read minutes later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from safetensors.numpy import save_file

from launcher.checkpoints.huggingface.safetensors_index import read_index
from launcher.core.errors import UserError
from launcher.settings.model import Parallelism
from tests.backends.presets import GPU, PRESETS, TINY, deployment, planned
from tests.checkpoints.test_huggingface import saved
from tests.running import launch_here

PART = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
READERS = ("vllm", "sglang", "trtllm", "nim", "transformers_serve")
"""The servers that read a folder of Hugging Face."""

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as a folder of Hugging Face with three parts."""
    folder = tmp_path_factory.mktemp("served") / "model"
    done = launch_here(
        folder.parent, "mode=convert", f"model.path={TINY}", f"convert.path={folder}", "convert.shard_gb=0.0005"
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "model"))


def refusal(folder: Path, backend: str, *arguments: str) -> str:
    """Plan for the server; return the only line of the refusal, empty for a plan."""
    image = ["backend.image=nim:1"] if backend == "nim" else []
    done = launch_here(
        folder.parent, "mode=plan", f"backend={backend}", "model=checkpoint", f"model.path={folder}", *image, *arguments
    )
    lines = done.stderr.splitlines()
    assert len(lines) == done.returncode, done.stderr
    return lines[0] if lines else ""


def configured(**values: object) -> Damage:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def cut(name: str, length: int = -1000) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def without(*patterns: str) -> Damage:
    def remove(folder: Path) -> None:
        for file in [file for pattern in patterns for file in folder.glob(pattern)]:
            file.unlink()

    return remove


def of_another_model(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"word{n}": 1000 + n for n in range(9)}
    file.write_text(json.dumps(content))


DAMAGES: list[tuple[str, Damage, str]] = [
    ("part missing", without(PART), f"{PART}: missing (expected a part of the weights)"),
    ("part cut short", cut(PART), f"{PART}: 492688 bytes (its header promises 493688)"),
    (
        "pointer of LFS",
        lambda folder: (folder / PART).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        f"{PART}: a pointer of Git LFS, not the weights; fetch them with git lfs pull",
    ),
    ("half a folder", without(INDEX, PART), f"{PART}: missing (expected a part of the weights)"),
    ("no weights", without("model*"), "no weights in it (expected model.safetensors, or model.safetensors.index.json"),
    ("config cut short", cut("config.json", 100), "config.json: not JSON"),
    ("other layers", configured(num_hidden_layers=5), "tensor 'model.layers.4.input_layernorm.weight' is missing"),
    ("other width", configured(intermediate_size=255), "has shape [256, 128] (the model needs [255, 128])"),
    ("other heads", configured(num_attention_heads=8), "q_proj.weight' has shape [128, 128] (the model needs [256, 12"),
    ("other vocabulary", configured(vocab_size=300), "vocab_size is 300; the stored embedding has shape [264, 128]"),
    ("no text", configured(architectures=["BertModel"]), "architectures is ['BertModel'] (expected a model that gener"),
    ("no tokenizer", without("tokenizer*"), "no tokenizer (expected tokenizer.json, tokenizer.model or vocab.json); s"),
    ("tokenizer cut short", cut("tokenizer.json"), "tokenizer.json: not JSON"),
    ("other tokenizer", of_another_model, "its tokenizer has 1009 tokens; the model's embedding has 264 rows"),
]


@pytest.mark.parametrize(("damage", "said"), [each[1:] for each in DAMAGES], ids=[each[0] for each in DAMAGES])
def test_damage_is_said_by_the_plan(damage: Damage, said: str, folder: Path) -> None:
    damage(folder)
    assert said in refusal(folder, "vllm")


def with_tensors(**shapes: tuple[int, ...]) -> Damage:
    """Add a part with other tensors; ``__`` in a name stands for a dot."""

    def add(folder: Path) -> None:
        made = {name.replace("__", "."): numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}
        save_file(made, folder / "more.safetensors")
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= dict.fromkeys(made, "more.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": index["weight_map"]}))

    return add


def with_tokenizer(name: str) -> Damage:
    def replace(folder: Path) -> None:
        without("tokenizer*")(folder)
        (folder / name).write_bytes(b"x")

    return replace


def counted_from_zero(folder: Path) -> None:
    configured(model_type="own")(folder)
    without(INDEX)(folder)
    for number in (1, 2, 3):
        (folder / f"model-{number:05}-of-00003.safetensors").rename(
            folder / f"model-{number - 1:05}-of-00003.safetensors"
        )


def both(*changes: Damage) -> Damage:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


PROJECTOR = with_tensors(model__mm_projector__weight=(2, 2))
VALID: dict[str, tuple[Damage, list[str]]] = {
    "ChatGLM": (configured(model_type="chatglm", architectures=["ChatGLMModel"]), []),
    "InternVL": (configured(model_type="internvl_chat", architectures=["InternVLChatModel"]), []),
    "NVLM": (configured(model_type="NVLM_D", architectures=["NVLM_D_Model"]), []),
    "stored rotary tables": (with_tensors(model__layers__0__self_attn__rotary_emb__cos_cached=(1, 1, 4, 8)), []),
    "a class of its own": (both(configured(architectures=["LlavaLlamaForCausalLM"]), PROJECTOR), []),
    "code of its own": (both(configured(auto_map={"AutoModelForCausalLM": "modeling_own.Own"}), PROJECTOR), []),
    "parts from 0": (counted_from_zero, []),
    "tekken": (with_tokenizer("tekken_240911.json"), []),
    "sentencepiece of Mistral": (with_tokenizer("tokenizer.model.v3"), []),
    "tokenizer of Grok": (with_tokenizer("tokenizer.tok.json"), []),
    "tokenizer of RWKV": (with_tokenizer("hf_rwkv_tokenizer.py"), []),
    "context of Command R": (configured(model_type="cohere", model_max_length=8192), ["model.context_length=8192"]),
    "scaled in some layers": (
        configured(model_type="own", rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 8}}),
        ["model.context_length=2048"],
    ),
    "changed by an argument": (
        configured(),
        ["model.context_length=4096", "backend.arguments='--hf-overrides {max_position_embeddings: 4096}'"],
    ),
    "latent attention": (
        configured(model_type="own", kv_lora_rank=512, num_attention_heads=24, num_key_value_heads=4),
        ["parallelism.tensor=6"],
    ),
}
"""Folders and settings that servers take."""


@pytest.mark.parametrize(("change", "arguments"), VALID.values(), ids=VALID)
def test_what_servers_take_is_passed_on(change: Damage, arguments: list[str], folder: Path) -> None:
    change(folder)
    assert refusal(folder, "vllm", *arguments) == ""


def test_stacked_experts_are_left_to_the_server(tmp_path: Path) -> None:
    saved("qwen3_moe", tmp_path / "model", save_original_format=False)
    assert any(name.endswith(".experts.gate_up_proj") for name in read_index(tmp_path / "model"))
    assert refusal(tmp_path / "model", "vllm", "backend.arguments=--skip-tokenizer-init") == ""


def test_heads_are_shared_by_fewer_ranks_where_sglang_is_told_so(folder: Path) -> None:
    assert "must divide the model's 4 attention heads" in refusal(folder, "sglang", "parallelism.tensor=8")
    attention = "backend.arguments='--enable-dp-attention --dp-size 4'"
    assert refusal(folder, "sglang", "parallelism.tensor=8", attention) == ""


@pytest.mark.parametrize("backend", READERS)
def test_every_server_that_reads_folders_refuses_a_half_copied_one(backend: str, folder: Path) -> None:
    assert refusal(folder, backend) == ""
    (folder / PART).unlink()
    assert f"{PART}: missing" in refusal(folder, backend)


def test_pickled_and_other_weights_are_left_to_the_server(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    assert "no weights in it" in refusal(folder, "vllm")
    assert refusal(folder, "vllm", "backend.arguments='--load-format=dummy'") == ""
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK")
    assert "pytorch_model-00002-of-00002.bin: missing" in refusal(folder, "vllm")
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(b"PK")
    assert refusal(folder, "vllm") == ""


def test_a_tokenizer_may_lie_elsewhere(folder: Path) -> None:
    own = folder.with_name("own")
    own.mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(own / file.name)
    assert refusal(folder, "vllm", f"model.tokenizer={own}") == ""
    assert refusal(folder, "vllm", "model.tokenizer=gpt2") == ""  # a hub's name
    assert refusal(folder, "vllm", "backend.arguments=--skip-tokenizer-init") == ""
    missing = refusal(folder, "vllm", "model.tokenizer=./nowhere")
    assert missing.endswith("model.tokenizer=./nowhere: no such file or folder (expected a tokenizer)")


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm", "nim"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["parallelism.tensor=3"], "parallelism.tensor=3: must divide the model's 4 attention heads; expected one of "),
        (["parallelism.pipeline=5"], "parallelism.pipeline=5: the model has 4 layers; expected at most that"),
        (["model.context_length=4096"], "model.context_length=4096: the checkpoint "),
    ],
)
def test_limits_of_the_model_are_those_of_the_server(
    backend: str, arguments: list[str], said: str, converted: Path
) -> None:
    for path in (converted, Path(TINY)):
        assert said in refusal(path, backend, *arguments, f"backend.cache={converted.parent / 'cache'}")


def test_key_value_heads_are_repeated_but_never_cut(folder: Path) -> None:
    heads = {"model_type": "own", "num_attention_heads": 24, "num_key_value_heads": 4}
    configured(**heads)(folder)
    for ranks in (1, 2, 4, 8, 12, 24):
        assert refusal(folder, "vllm", f"parallelism.tensor={ranks}") == ""
    for ranks in (3, 6):
        said = refusal(folder, "vllm", f"parallelism.tensor={ranks}")
        assert said.endswith(
            f"parallelism.tensor={ranks}: must divide the model's 4 key-value heads, or be a multiple of them; "
            "expected one of 1, 2, 4, 8, 12, 24"
        )


def test_a_longer_context_can_be_forced_where_the_server_has_a_variable_for_it(folder: Path) -> None:
    asked = ["model.context_length=4096", "backend.environment.VLLM_ALLOW_LONG_MAX_MODEL_LEN='1'"]
    assert refusal(folder, "vllm", asked[0]).endswith(
        "allows 1 to 256; backend.environment.VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 lets the server take more"
    )
    assert refusal(folder, "vllm", "model.context_length=4096", f"+{asked[1]}") == ""
    configured(rope_scaling={"rope_type": "yarn", "factor": 32})(folder)
    assert refusal(folder, "vllm", "model.context_length=4096") == ""


def test_experts_are_spread_only_of_models_that_have_them(folder: Path) -> None:
    served = deployment(folder.parent, parallelism=Parallelism(tensor=2, expert=2))
    settings: Mapping[str, Any] = {"nim": {"image": "nim:1"}}
    mixture = folder.parent / "mixture"
    mixture.mkdir()
    (mixture / "config.json").write_text('{"model_type": "qwen3_moe", "num_experts": 8, "num_attention_heads": 4}')
    dummy = "--load-format dummy --skip-tokenizer-init"
    flags = {"vllm": "--enable-expert-parallel", "sglang": "--ep-size", "trtllm": "--ep_size", "nim": "--enable-exper"}
    for name, flag in flags.items():
        with pytest.raises(UserError, match=r"parallelism.expert=2: must be 1; the model has no experts"):
            planned(PRESETS[name](**settings.get(name, {})), served, GPU)
        preset = PRESETS[name](arguments=dummy, **settings.get(name, {}))
        other = deployment(folder.parent, str(mixture), parallelism=served.parallelism)
        assert any(word.startswith(flag) for word in planned(preset, other, GPU)["command"])


def test_a_file_of_llama_cpp_is_looked_into(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    done = launch_here(
        tmp_path, "mode=convert", f"model.path={TINY}", f"convert.path={tmp_path / 'made'}", "convert.format=gguf"
    )
    assert done.returncode == 0, done.stderr
    whole = (tmp_path / "made" / "model.gguf").read_bytes()
    file.write_bytes(whole)
    assert refusal(file, "llama_cpp") == ""
    file.write_bytes(whole[:-1000])
    assert "model.gguf: " in refusal(file, "llama_cpp")
    first = tmp_path / "model-00001-of-00002.gguf"
    first.write_bytes(whole)
    assert "model-00002-of-00002.gguf: missing" in refusal(first, "llama_cpp")


def test_what_llama_cpp_takes_instead_of_a_folder_is_named(folder: Path) -> None:
    configured(model_type="gemma2", architectures=["Gemma2ForCausalLM"])(folder)
    said = refusal(folder, "llama_cpp")
    assert said.endswith("backend=llama_cpp serves a .gguf file as it is: model.path=<file>.gguf")


def test_a_path_that_cannot_become_a_folder_is_said_by_the_plan(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("")

    def said(path: str) -> str:
        return launch_here(tmp_path, "mode=plan", f"model.path={TINY}", f"convert.path={path}").stderr

    for path in ("link", "link/below"):
        assert said(path) == f"launcher: convert.path={path}: link is a link to nowhere, which is not there\n"
    assert said("file") == "launcher: convert.path=file: not a folder\n"
    assert said("file/below") == "launcher: convert.path=file/below: file is not a folder\n"
    assert said("new/below") == ""
    assert not (tmp_path / "new").exists()


def test_the_tokenizer_of_a_conversion_is_looked_for(tmp_path: Path) -> None:
    source = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    shutil.rmtree(source / "iter_0000800" / "tokenizer")
    cache = f"backend.cache={tmp_path / 'cache'}"
    assert refusal(source, "vllm", cache).endswith("set model.tokenizer to a folder")
    done = launch_here(tmp_path, "mode=plan", f"model.path={source}", "convert.path=made")
    assert done.stderr.endswith("set model.tokenizer to a folder, or convert.tokenizer=false to write none\n")
    done = launch_here(tmp_path, "mode=plan", f"model.path={source}", "convert.path=made", "convert.tokenizer=false")
    assert yaml.safe_load(done.stdout)["folder"] == "made"
