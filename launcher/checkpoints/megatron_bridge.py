"""Megatron-Bridge checkpoints: ``iter_XXXXXXX/`` folders with a ``run_config.yaml`` and ``torch_dist`` weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import section
from launcher.checkpoints.iterations import latest
from launcher.checkpoints.megatron_config import architecture
from launcher.checkpoints.safe_yaml import read_yaml
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.checkpoints.torch_dist import parts, tensor_store
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import nn

CONFIG = "run_config.yaml"


class MegatronBridgeCheckpoint(Checkpoint):
    """One iteration of a Megatron-Bridge run; ``path`` is the run's folder or that of an iteration."""

    layout = "megatron_bridge"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self._folder = latest(path)
        self._file = self._folder / CONFIG
        self._config = read_yaml(self._file, bounds)
        model = self._config.get("model")
        if not isinstance(model, dict):
            raise CheckpointError(f"{self._file}: no 'model' in it (expected Megatron-Bridge's run configuration)")
        self._store = tensor_store.open_store(self._folder, bounds)
        self.architecture = architecture(_with_transformer(model), self._store, self._file)
        parts.check(self._store, self.architecture)

    @staticmethod
    def matches(path: Path) -> bool:
        return path.is_dir() and (latest(path) / CONFIG).is_file()

    def tokenizer(self) -> Tokenizer:
        """Load ``tokenizer/`` of the iteration, else the local folder that the run was configured with."""
        for folder in self._tokenizer_folders():
            if folder.is_dir():
                return from_folder(folder, self.bounds)
        named = section(self._config, "tokenizer", self._file).get("tokenizer_model")
        raise CheckpointError(
            f"{self._folder / 'tokenizer'}: missing (the run used {named or 'none'!r}); set model.tokenizer to a folder"
        )

    def load_into(self, model: nn.Module) -> None:
        tensor_store.load_into(self._store, model)

    def fingerprint(self) -> str:
        files = [*self._store.files(), self._file]
        for folder in self._tokenizer_folders():
            files += [file for file in folder.rglob("*") if file.is_file()]
        return fingerprint(self.path, files)

    def _tokenizer_folders(self) -> Iterator[Path]:
        yield self._folder / "tokenizer"
        named = section(self._config, "tokenizer", self._file).get("tokenizer_model")
        if named and Path(str(named)).is_absolute():
            yield Path(str(named))


def _with_transformer(model: dict[str, Json]) -> dict[str, Json]:
    """Lift the fields of a nested ``transformer`` config, where newer builders keep them, to the top."""
    nested = model.get("transformer")
    return {**model, **nested} if isinstance(nested, dict) else model
