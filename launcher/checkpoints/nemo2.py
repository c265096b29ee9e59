"""NeMo 2.0 checkpoints: ``context/model.yaml`` and ``torch_dist`` weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import section
from launcher.checkpoints.megatron_config import architecture
from launcher.checkpoints.safe_yaml import read_yaml
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.checkpoints.tokenizers.stored import ADVICE, existing
from launcher.checkpoints.torch_dist import parts, tensor_store
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn


class Nemo2Checkpoint(Checkpoint):
    """A folder with ``context/`` and ``weights/``. ``io.json``, which names classes to call, is not read."""

    layout = "nemo2"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self._context = path / "context"
        self._file = self._context / "model.yaml"
        if not self._file.is_file():
            raise CheckpointError(f"{self._file}: missing (expected the model's configuration, as NeMo 2.0 saves it)")
        self._model = read_yaml(self._file, bounds)
        config = self._model.get("config")
        if not isinstance(config, dict):
            raise CheckpointError(f"{self._file}: no 'config' in it (expected a NeMo 2.0 language model)")
        self._store = tensor_store.open_store(path / "weights" if (path / "weights").is_dir() else path, bounds)
        self.architecture = architecture(config, self._store, self._file)
        parts.check(self._store, self.architecture)

    @staticmethod
    def matches(path: Path) -> bool:
        return (path / "context").is_dir()

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer kept in ``context/``; its class is looked up here and never imported."""
        stored = section(self._model, "tokenizer", self._file)
        kind = str(stored.get("_target_")).rsplit(".", 1)[-1]
        if kind == "AutoTokenizer":
            return from_folder(
                existing(stored.get("pretrained_model_name"), self._context, self._file, self.bounds), self.bounds
            )
        if kind == "SentencePieceTokenizer":
            return SentencePieceTokenizer(existing(stored.get("model_path"), self._context, self._file, self.bounds))
        raise CheckpointError(f"{self._file}: the tokenizer is a {kind}, which is not read here; {ADVICE}")

    def load_into(self, model: nn.Module) -> None:
        tensor_store.load_into(self._store, model)

    def parameter(self, module: str, kind: str) -> Tensor:
        return tensor_store.parameter(self._store, self.architecture, module, kind)

    def fingerprint(self) -> str:
        return fingerprint(self.path, [*self._store.files(), *self._context.rglob("*")])
