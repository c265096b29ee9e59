"""The model keys of a GGUF file: the supported ones, and those that may be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoints.base import NotComputed
from launcher.core.types import Json

READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.sliding_window"),
    *("rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor"),
}

OF_A_KIND: Mapping[str, set[str]] = {
    "llama": {"expert_count", "expert_used_count"},
    "qwen2moe": {
        *("expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length")
    },
    "qwen3moe": {"expert_count", "expert_used_count", "expert_feed_forward_length"},
    "gptneox": {"attention.layer_norm_epsilon", "use_parallel_residual"},
}
"""What is read in files of one architecture only."""

HARMLESS = {"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"}
"""What is only told: where a scaling began, and from which layout the tensors were converted."""

NEUTRAL: Mapping[str, tuple[Json, ...]] = {
    "attention.causal": (True,),
    "rope.scaling.attn_factor": (1.0,),
    "expert_gating_func": (1,),
    "expert_weights_scale": (1.0,),
}
"""What may be there with these values. Any other key may be 0, false or empty, which asks for nothing."""


def check(fields: Mapping[str, Json], kind: str, path: Path) -> None:
    """Raise `NotComputed` for a key of the model that would change its answers and that nothing here reads."""
    read = READ | HARMLESS | OF_A_KIND.get(kind, set())
    for name, value in fields.items():
        key = name.removeprefix(f"{kind}.")
        if key == name or key in read or value in NEUTRAL.get(key, (0, False, "", None)):
            continue
        raise NotComputed(f"{path}: {name} is {value!r:.200}, which is not computed here")
    keys, values = (fields.get(f"{kind}.attention.{side}_length") for side in ("key", "value"))
    if keys is not None and values is not None and keys != values:
        raise NotComputed(f"{path}: {kind}.attention.value_length is {values!r:.200} (expected that of keys, {keys})")
