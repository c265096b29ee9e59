"""Checkpoints of several layouts, as training runs leave them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from launcher.checkpoints.iterations import TRACKER

ROOT = Path(__file__).parents[2]
TINY = ROOT / "launcher/assets/tiny/iter_0000800"
NEMO = ROOT / "tests/checkpoints/data/nemo2"


def iteration(run: Path, number: int, tracker: int | None = None) -> Path:
    """Write a Megatron-Bridge checkpoint; ``tracker`` is what the run says of its newest one."""
    folder = run / f"iter_{number:07d}"
    shutil.copytree(TINY, folder)
    if tracker is not None:
        (run / TRACKER).write_text(f"{tracker}\n")
    return folder


def nemo(run: Path, name: str) -> Path:
    """Write a NeMo 2.0 checkpoint, with the file beside it that says that it is not finished."""
    (run / f"{name}-unfinished").touch()
    return Path(shutil.copytree(NEMO, run / name))


LAYER = {
    **{f"model.layers.0.{name}_layernorm.weight": (8,) for name in ("input", "post_attention")},
    **{f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": (16, 8) for name in ("gate", "up")},
    "model.layers.0.mlp.down_proj.weight": (8, 16),
}
"""The tensors of a Llama's only layer, with their shapes."""


def hugging_face(folder: Path, shards: int = 2) -> Path:
    """Write a Hugging Face checkpoint of two files, or the first of them."""
    folder.mkdir()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    parts: list[dict[str, tuple[int, ...]]] = [
        {"model.embed_tokens.weight": (16, 8)},
        {"model.norm.weight": (8,), **LAYER},
    ]
    for name, part in list(zip(names, parts, strict=True))[:shards]:
        save_file({tensor: torch.ones(shape) for tensor, shape in part.items()}, folder / name)
    config = {
        "model_type": "llama",
        "vocab_size": 16,
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    weights = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    return folder
