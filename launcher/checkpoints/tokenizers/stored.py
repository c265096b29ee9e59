"""Find the tokenizer that a NeMo or Megatron configuration names among the checkpoint's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoints.bounded import check_length, holds, shown
from launcher.checkpoints.tokenizers.guard import opening
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer, from_folder
from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.checkpoints.tokenizers.templated import Names
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

ADVICE = "set model.tokenizer to a folder with tokenizer.json"


def megatron_tokenizer(arguments: Mapping[str, Json], base: Path, source: Path, bounds: Bounds) -> Tokenizer:
    """Return the tokenizer that Megatron's arguments name by ``tokenizer_type`` and its files.

    Paths are those of the machine that trained; a file of the same name in ``base`` is taken where they do not exist.
    Raises `CheckpointError` naming ``source`` for a type that needs more than files.
    """
    kind = arguments.get("tokenizer_type")
    if kind == "HuggingFaceTokenizer":
        return from_folder(existing(arguments.get("tokenizer_model"), base, source, bounds), bounds)
    if kind in ("SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer"):
        file = existing(arguments.get("tokenizer_model"), base, source, bounds)
        return SentencePieceTokenizer(file, add_bos=kind == "Llama2Tokenizer")
    if kind == "GPT2BPETokenizer":
        return gpt2(*(existing(arguments.get(key), base, source, bounds) for key in ("vocab_file", "merge_file")))
    raise CheckpointError(f"{source}: tokenizer_type is {shown(kind)}, which names no file; {ADVICE}")


def existing(name: Json, base: Path, source: Path, bounds: Bounds) -> Path:
    """Return the file or folder called ``name``: in ``base``, or where an absolute path says; files within bounds."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise CheckpointError(f"{source}: names no tokenizer file; {ADVICE}")
    text = name.removeprefix("nemo:")
    path = Path(text)
    candidates = [base / path.name, path] if path.is_absolute() else [base / path, base / path.name]
    for candidate in candidates:
        if holds(candidate.exists):
            if not candidate.is_dir():
                check_length(candidate, bounds)
            return candidate
    raise CheckpointError(f"{source}: its tokenizer {shown(text)} is not here (looked in {base}); {ADVICE}")


def gpt2(vocab: Path, merges: Path) -> Tokenizer:
    """Return the GPT-2 tokenizer made of a ``vocab.json`` and a ``merges.txt``."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer

    with opening(f"{vocab} with {merges.name}"):
        backend = ByteLevelBPETokenizer.from_file(str(vocab), str(merges))._tokenizer
    end = "<|endoftext|>"
    if backend.token_to_id(end) is not None:
        backend.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return HuggingFaceTokenizer(backend, str(vocab), Names({"eos_token": end, "bos_token": end}))
