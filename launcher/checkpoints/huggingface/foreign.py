"""What can be seen of a folder before another program loads it: whether all files are there, and whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.checkpoints.base import Damaged
from launcher.checkpoints.bounded import check_length, holds, read_json_object
from launcher.checkpoints.fields import as_list
from launcher.checkpoints.huggingface.safetensors_index import INDEX, SINGLE, read_file, read_index
from launcher.checkpoints.tokenizers.huggingface import NO_TOKENIZER
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>safetensors|bin|gguf)")
"""One of the files that ``save_pretrained``, or llama.cpp, splits weights into."""

PICKLED = ("*.bin", "*.pt", "*.pth")
TOKENIZERS = (
    "tokenizer.json", "*.tok.json", "*.model", "tokenizer.model.*", "vocab.json", "*vocab*.txt", "merges.txt",
    "tekken*.json", "*.tiktoken", "*tokeniz*.py",
)  # fmt: skip
"""The files of which any makes a tokenizer for one server or another."""

NOT_GENERATING = re.compile(
    r".*(SequenceClassification|TokenClassification|MaskedLM|QuestionAnswering)"
    r"|\w*(BERT|Bert|Roberta|Deberta|MPNet|Electra|CLIP|Siglip|ViT)\w*Model"
    r"|(Llama|Mistral|Mixtral|Gemma\d?|Phi3?|Qwen[23](Moe)?|GPTNeoX)Model"
)
"""Classes of models that generate no text: classifiers, encoders, and decoders without an output layer.

Others whose names end with Model do generate text, such as ``ChatGLMModel`` and ``InternVLChatModel``.
"""


def read_config(folder: Path, bounds: Bounds) -> Mapping[str, Json]:
    """Return ``config.json``. Raises `CheckpointError` if it is damaged, or of a model that generates no text."""
    file = folder / "config.json"
    values = read_json_object(file, bounds)
    kinds = as_list(values, "architectures", file)
    if not kinds and not values.get("model_type"):
        raise CheckpointError(f"{file}: model_type is missing (expected the configuration of a model)")
    if kinds and all(NOT_GENERATING.fullmatch(str(kind)) for kind in kinds):
        raise CheckpointError(f"{file}: architectures is {kinds!r:.200} (expected a model that generates text)")
    return values


def check_weights(folder: Path, bounds: Bounds) -> None:
    """Raise `CheckpointError` for weights that are missing, cut short or damaged, by names and headers alone.

    Servers read pickles too, of which only the missing parts are seen.
    """
    if (folder / INDEX).is_file() or (folder / SINGLE).is_file():
        read_index(folder, bounds)
        return
    found = sorted(folder.glob("*.safetensors"))
    pickled = sorted(file for pattern in PICKLED for file in folder.glob(pattern))
    if not found and not pickled:
        raise Damaged(f"{folder}: no weights in it (expected {SINGLE}, or {INDEX} and its parts)")
    refuse_missing_parts(found or pickled)
    for file in found:
        read_file(file, bounds)


def refuse_missing_parts(files: Sequence[Path]) -> None:
    """Raise `Damaged` for a part that others of its folder promise; some programs count them from 0."""
    found = {file.name for file in files}
    for part in filter(None, (PART.fullmatch(file.name) for file in files)):
        stem, count, kind = part.group("stem", "count", "kind")
        first = 0 if f"{stem}-{0:05}-of-{count}.{kind}" in found else 1
        for number in range(first, min(int(count), 10**4) + first):
            other = files[0].parent / f"{stem}-{number:05}-of-{count}.{kind}"
            if not other.is_file():
                raise Damaged(f"{other}: missing (expected a part of the weights)")


def check_tokenizer(path: Path, bounds: Bounds, rows: int | None = None) -> None:
    """Raise `CheckpointError` for a folder or file without a tokenizer, or with one that cannot be meant.

    ``rows`` are those of the model's embedding, where they are known. A file of another name has a form that only the
    server knows.
    """
    if path.is_file():
        check_length(path, bounds)
    elif not any(next(path.glob(pattern), None) for pattern in TOKENIZERS):
        raise CheckpointError(f"{path}: {NO_TOKENIZER}")
    file = path if path.name == "tokenizer.json" else path / "tokenizer.json"
    if holds(file.is_file):
        _check_json(file, bounds, rows)


def _check_json(file: Path, bounds: Bounds, rows: int | None) -> None:
    """Read a ``tokenizer.json``; its own tokens, without those that were added, must have a row each."""
    values = read_json_object(file, bounds)
    model = values.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(listed, dict | list):
        raise CheckpointError(f"{file}: no vocabulary in it (expected a tokenizer of Hugging Face's library)")
    added = {token.get("id") for token in values.get("added_tokens") or () if isinstance(token, dict)}
    ids = range(len(listed)) if isinstance(listed, list) else listed.values()
    size = 1 + max((token for token in ids if isinstance(token, int) and token not in added), default=-1)
    if rows is not None and size > rows:
        raise CheckpointError(f"{file}: its tokenizer has {size} tokens; the model's embedding has {rows} rows")
