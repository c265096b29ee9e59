"""Megatron-Bridge checkpoints: ``iter_XXXXXXX/`` folders with a ``run_config.yaml`` and ``torch_dist`` weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.bounded import holds, shown
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
    from torch import Tensor, nn

CONFIG = "run_config.yaml"
TOKENIZER_FILES = (
    "*token*",
    "*config.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)


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
        folder = self._own if self._own.is_dir() else self._named()
        if folder:
            return from_folder(folder, self.bounds)
        named = section(self._config, "tokenizer", self._file).get("tokenizer_model")
        raise CheckpointError(
            f"{self._own}: missing (the run used {shown(named or 'none')}); set model.tokenizer to a folder"
        )

    def load_into(self, model: nn.Module) -> None:
        tensor_store.load_into(self._store, model)

    def parameter(self, module: str, kind: str) -> Tensor:
        return tensor_store.parameter(self._store, self.architecture, module, kind)

    def fingerprint(self) -> str:
        return fingerprint(self.path, [*self._store.files(), self._file, *self._tokenizer_files()])

    @property
    def _own(self) -> Path:
        return self._folder / "tokenizer"

    def _named(self) -> Path | None:
        """Return the local folder that the run was configured with, if it is here."""
        named = section(self._config, "tokenizer", self._file).get("tokenizer_model")
        folder = Path(named) if isinstance(named, str) else Path()
        return folder if folder.is_absolute() and holds(folder.is_dir) else None

    def _tokenizer_files(self) -> Iterator[Path]:
        """Yield the files of the tokenizer in use; a folder elsewhere may hold anything else besides them."""
        if self._own.is_dir():
            yield from self._own.rglob("*")
        elif folder := self._named():
            for pattern in TOKENIZER_FILES:
                yield from folder.glob(pattern)


def _with_transformer(model: dict[str, Json]) -> dict[str, Json]:
    """Lift the fields of a nested ``transformer`` config, where newer builders keep them, to the top."""
    nested = model.get("transformer")
    return {**model, **nested} if isinstance(nested, dict) else model
