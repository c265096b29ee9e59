"""Checkpoints, one module or package per layout on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.bounded import check_length
from launcher.checkpoints.missing import missing, unknown
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.settings.model import Bounds

EXPECTED = "a NeMo 2.0, Megatron-Bridge, Megatron-LM or Hugging Face folder, a .nemo archive or a .gguf file"


def detect(path: Path, bounds: Bounds | None = None) -> Checkpoint:
    """Open the checkpoint at ``path``, in any layout. Reads metadata only, within ``bounds``.

    Raises `CheckpointError` with the file and what was expected. The path may be missing, damaged, partial or of no
    known layout, or it may claim more than its files hold.
    """
    if not path.exists():
        raise CheckpointError(missing(path, EXPECTED))
    for layout in _layouts():
        if layout.matches(path):
            return layout(path, bounds or Bounds())
    raise CheckpointError(unknown(path, EXPECTED))


def open_model(path: Path, bounds: Bounds | None = None, peft: str | None = None) -> Checkpoint:
    """Open a checkpoint as `detect` does, with the adapter in the folder ``peft`` merged into it."""
    base = detect(path, bounds)
    if peft is None:
        return base
    from launcher.checkpoints.peft.adapted import AdaptedCheckpoint
    from launcher.checkpoints.peft.opening import open_adapter

    return AdaptedCheckpoint(base, open_adapter(peft, base.bounds, path))


class Layout(Protocol):
    """A class of checkpoints: says whether a path looks like one of its own, and opens it."""

    @staticmethod
    def matches(path: Path) -> bool: ...

    def __call__(self, path: Path, bounds: Bounds) -> Checkpoint: ...


def _layouts() -> list[Layout]:
    """Return the layouts, the most particular first: Megatron-LM's mark is part of others too."""
    from launcher.checkpoints.gguf.layout import GGUFCheckpoint
    from launcher.checkpoints.huggingface.layout import HuggingFaceCheckpoint
    from launcher.checkpoints.megatron_bridge import MegatronBridgeCheckpoint
    from launcher.checkpoints.megatron_lm import MegatronLMCheckpoint
    from launcher.checkpoints.nemo1 import Nemo1Checkpoint
    from launcher.checkpoints.nemo2 import Nemo2Checkpoint

    return [
        Nemo2Checkpoint,
        MegatronBridgeCheckpoint,
        Nemo1Checkpoint,
        HuggingFaceCheckpoint,
        GGUFCheckpoint,
        MegatronLMCheckpoint,
    ]


def load_tokenizer(path: Path, bounds: Bounds | None = None) -> Tokenizer:
    """Load a tokenizer from a folder, or a ``tokenizer.json``, ``.model`` (SentencePiece) or ``.gguf`` file.

    Raises `CheckpointError` if there is none.
    """
    from launcher.checkpoints.tokenizers.huggingface import from_file, from_folder
    from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer

    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder (expected a tokenizer)")
    if path.suffix == ".gguf":
        return detect(path, bounds).tokenizer()
    if path.suffix == ".model":
        check_length(path, bounds)
        return SentencePieceTokenizer(path)
    return from_folder(path, bounds) if path.is_dir() else from_file(path, bounds)
