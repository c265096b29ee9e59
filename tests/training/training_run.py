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


def hugging_face(folder: Path, shards: int = 2) -> Path:
    """Write a Hugging Face checkpoint of two files, or the first of them."""
    folder.mkdir()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    tensors = ["model.embed_tokens.weight", "model.norm.weight"]
    for name, tensor in list(zip(names, tensors, strict=True))[:shards]:
        save_file({tensor: torch.ones(16, 8)}, folder / name)
    config = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"metadata": {}, "weight_map": dict(zip(tensors, names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    return folder
