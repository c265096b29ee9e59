"""Whether the installed transformers supports a model, judged from its files."""

from __future__ import annotations

from pathlib import Path

from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import source
from launcher.settings.model import Bounds


def unsupported_reason(path: Path, bounds: Bounds | None = None) -> str | None:
    """Return why engine=huggingface cannot serve the checkpoint at ``path``; None if its files show no obstacle.

    Imports transformers, which takes seconds.
    """
    try:
        found = source.read(path, bounds)
    except CheckpointError as refused:
        return str(refused)
    known = _gguf_kinds() if found.layout == "gguf" else _kinds()
    if found.kind not in known:
        return f"the installed transformers has no causal language model '{found.kind:.200}'"
    return None


def _kinds() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _gguf_kinds() -> set[str]:
    """Return the architectures by transformers' names and by those of GGUF files, which may have a dash."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    names = set(GGUF_CONFIG_MAPPING)
    return names | {name.replace("_moe", "moe") for name in names} | {name.replace("_", "-") for name in names}
