"""Small tokenizers, and folders and GGUF files that carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

CORPUS = [
    "A small boat crossed the wide river at dawn. ", "We count 15 apples, 96 pears and 2024 plums. ",
    "for i in range(3):\n    print(i)\n\n", "What is the capital of France? ", "naïve café ",
] * 10  # fmt: skip
TEXTS = (
    "In 2024 we count 15 apples", " In 2024 we", "for i in range(3):\n    print(i)\n\n\nwhat's", "naïve 世界 🙂  x",
    " ", "", "a\r\n\tb", "I'LL 12345678", "x" * 50,
)  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIAL = {
    "byte_level": {"bos_token": "<|begin|>", "eos_token": "<|end|>"},
    "byte_level_gpt2": {"eos_token": "<|end|>"},
    "yi": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "metaspace": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
PIPELINES = tuple(SPECIAL)


@cache
def spec(pipeline: str) -> str:
    """Return a ``tokenizer.json``: the pipelines of Llama 3, GPT-2, Yi, Llama 2, and its newer form."""
    return (_byte_level(pipeline == "byte_level") if "byte" in pipeline else _sentencepiece(pipeline)).to_str()


def backend(pipeline: str) -> Tokenizer:
    return Tokenizer.from_str(spec(pipeline))


def _byte_level(llama3: bool) -> Tokenizer:
    made, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if llama3 else level
    made.decoder = decoders.ByteLevel()
    special, alphabet = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    if llama3:
        made.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return made


def _sentencepiece(kind: str) -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    first = [normalizers.Prepend("▁")] if kind == "llama2" else []
    if kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()]
        )
    else:
        made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
        strip = [decoders.Strip(" ", 1, 0)] if first else []
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=special, initial_alphabet=["▁"], show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    found = json.loads(made.to_str())
    found["added_tokens"] = [added for added in found["added_tokens"] if not added["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(found))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def tokenizer_folder(
    folder: Path,
    pipeline: str = "byte_level",
    *,
    config: Mapping[str, Any] | None = None,
    made: Tokenizer | None = None,
) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; ``config`` changes or (with None) removes keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (made or backend(pipeline)).save(str(folder / "tokenizer.json"))
    named: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML}
    named |= {**SPECIAL[pipeline], **(config or {})}
    kept = {key: value for key, value in named.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder


def model_folder(
    folder: Path,
    pipeline: str = "byte_level",
    *,
    kind: str = "llama",
    config: Mapping[str, Any] | None = None,
    made: Tokenizer | None = None,
    rows: int | None = None,
) -> Path:
    """Write a tiny random model with its tokenizer."""
    tokenizer = made or backend(pipeline)
    torch.manual_seed(3)
    sizes = {
        "vocab_size": rows or tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": None, "eos_token_id": tokenizer.token_to_id(SPECIAL[pipeline]["eos_token"]),
        "pad_token_id": None,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    return tokenizer_folder(folder, pipeline, config=config, made=tokenizer)


def gguf_file(file: Path, vocabulary: Mapping[str, Any]) -> Path:
    """Write a tiny Llama with a vocabulary: ``tokens``, ``types``, ``merges`` or ``scores``, and other fields."""
    size, random = len(vocabulary["tokens"]), np.random.default_rng(3)
    writer = GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(size)
    for key, value in vocabulary.items():
        _add(writer, key, value)
    shapes: dict[str, Sequence[int]] = {
        "token_embd.weight": (size, 32), "output_norm.weight": (32,), "output.weight": (size, 32),
        "blk.0.attn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (48, 32), "blk.0.ffn_up.weight": (48, 32), "blk.0.ffn_down.weight": (32, 48),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    lists = {"tokens": "token_list", "types": "token_types", "merges": "token_merges", "scores": "token_scores"}
    names = {"model": "tokenizer_model", "pre": "tokenizer_pre", "chat_template": "chat_template"}
    if key in lists or key in names:
        getattr(writer, f"add_{lists.get(key) or names[key]}")(value)
    elif isinstance(value, bool):
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    else:
        writer.add_uint32(f"tokenizer.ggml.{key}", value)


def gguf_vocabulary(pipeline: str, **fields: Any) -> dict[str, Any]:
    """Return what llama.cpp's converter writes of a tokenizer, with ``fields`` besides."""
    found = json.loads(spec(pipeline))
    known = {token: piece for piece, token in found["model"]["vocab"].items()}
    special = {added["id"] for added in found["added_tokens"]}
    tokens = [known[i] for i in range(len(known))]
    made: dict[str, Any] = {"tokens": tokens, "types": [3 if i in special else 1 for i in range(len(tokens))]}
    if "byte" in pipeline:
        made |= {"model": "gpt2", "pre": "llama-bpe", "merges": [" ".join(pair) for pair in found["model"]["merges"]]}
        return made | {"bos_token_id": 0, "eos_token_id": 1} | fields
    order = {"".join(pair): -float(i) for i, pair in enumerate(found["model"]["merges"])}
    made["types"] = [_sentencepiece_type(i, piece, i in special) for i, piece in enumerate(tokens)]
    return made | {"model": "llama", "scores": [order.get(piece, -1e6) for piece in tokens]} | fields


def _sentencepiece_type(token: int, piece: str, special: bool) -> int:
    return 2 if token == 0 else 6 if piece.startswith("<0x") else 3 if special else 1
