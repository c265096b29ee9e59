"""Adapters of NeMo 2.0 and Megatron-Bridge: a distributed checkpoint that holds nothing but the adapter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from launcher.checkpoints.bounded import read_json_object, shown
from launcher.checkpoints.fields import number, positive, section
from launcher.checkpoints.iterations import latest
from launcher.checkpoints.megatron_bridge import CONFIG as RUN_CONFIG
from launcher.checkpoints.peft.changes import Adapter, Change, LowRank
from launcher.checkpoints.safe_yaml import read_yaml
from launcher.checkpoints.torch_dist.parts import HARMLESS
from launcher.checkpoints.torch_dist.tensor_store import TensorStore, open_tensors, read_whole
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

METADATA = "adapter_metadata.json"
PART = re.compile(
    r"(?:module\.)?(?P<module>decoder\.layers\.(?:\d+\.)?(?:self_attention|mlp)\.linear_\w+)\.adapter\."
    r"(?P<part>linear_in\.weight|linear_out\.weight|weight_magnitude)"
)
KINDS = {"LoRA": "LORA", "DoRA": "DORA"}
LAYERS = "decoder.layers."


def matches(folder: Path) -> bool:
    return (folder / "context").is_dir() or (folder.is_dir() and (latest(folder) / RUN_CONFIG).is_file())


def read(folder: Path, bounds: Bounds) -> Adapter:
    """Open an adapter. Raises `CheckpointError` for what is not merged exactly, and for a tensor of no known use."""
    file, settings = _settings(folder, bounds)
    kind = str(settings.get("_target_")).rsplit(".", 1)[-1]
    if kind not in KINDS:
        raise CheckpointError(f"{file}: the adapter is a {shown(kind)} (merged: {', '.join(KINDS)})")
    place = folder / "weights" if (folder / "context").is_dir() else latest(folder)
    store = TensorStore(place, open_tensors(place, bounds))
    scale = positive(settings, "alpha", file, 32.0) / number(settings, "dim", file, 32)
    changes = dict(_changes(store, scale, number(settings, "dim", file, 32), kind == "DoRA"))
    base = "not named"
    if (place / METADATA).is_file():
        base = str(read_json_object(place / METADATA, bounds).get("model_ckpt_path"))
    targets = settings.get("target_modules")
    every = isinstance(targets, list) and bool(targets) and all(re.fullmatch(r"\w+", str(name)) for name in targets)
    return Adapter(folder, "megatron", KINDS[kind], changes, base, (file, *store.files()), every_layer=every)


def _settings(folder: Path, bounds: Bounds) -> tuple[Path, Mapping[str, Json]]:
    """Return the file that describes the adapter, and its settings."""
    nemo = (folder / "context").is_dir()
    file = folder / "context" / "model.yaml" if nemo else latest(folder) / RUN_CONFIG
    key = "model_transform" if nemo else "peft"
    found = section(read_yaml(file, bounds), key, file)
    if not found:
        raise CheckpointError(f"{file}: no '{key}' in it (expected the folder of an adapter; a model is model.path)")
    return file, found


def _changes(store: TensorStore, scale: float, dim: int, dora: bool) -> Iterator[tuple[str, Change]]:
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in store.tensors:
        if found := PART.fullmatch(name):
            parts[found["module"]][found["part"]] = name
        elif not HARMLESS.search(name):
            raise CheckpointError(f"{store.folder}: tensor {shown(name)} is not merged here; answers would ignore it")
    if not parts:
        raise CheckpointError(f"{store.folder}: no tensor of an adapter in it (expected ...adapter.linear_in.weight)")
    for module, known in parts.items():
        yield from _of_module(store, module, known, scale, dim, dora)


def _of_module(
    store: TensorStore, module: str, parts: Mapping[str, str], scale: float, dim: int, dora: bool
) -> Iterator[tuple[str, Change]]:
    """Yield the change of one module, or of every layer of a stack of them."""
    wanted = {"linear_in.weight", "linear_out.weight", *(["weight_magnitude"] if dora else [])}
    if set(parts) != wanted:
        raise CheckpointError(
            f"{store.folder}: '{module}' has {', '.join(sorted(parts))} (expected {', '.join(sorted(wanted))})"
        )
    down, up = (store.tensors[parts[name]].shape for name in ("linear_in.weight", "linear_out.weight"))
    stacked = module.removeprefix(LAYERS)[0].isalpha()
    layers: list[tuple[int, ...]] = [(layer,) for layer in range(down[0])] if stacked else [()]
    if len(down) != len(up) or len(down) != 2 + stacked or down[-2] != up[-1] or down[-2] != dim:
        raise CheckpointError(
            f"{store.folder}: '{module}' has shapes {list(down)} and {list(up)} (expected rank {dim} of its settings)"
        )
    for index in layers:
        reads: dict[str, Any] = {part: partial(read_whole, store, name, index) for part, name in parts.items()}
        number = f"{index[0]}." if index else ""
        name = f"{LAYERS}{number}{module.removeprefix(LAYERS)}.weight"
        low = reads["linear_in.weight"], reads["linear_out.weight"]
        yield name, LowRank((up[-2], down[-1]), *low, scale, reads.get("weight_magnitude"))
