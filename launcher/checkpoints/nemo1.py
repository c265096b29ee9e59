"""NeMo 1 checkpoints: a ``.nemo`` archive, or its unpacked folder, with ``torch_dist`` weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.bounded import shown
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import section
from launcher.checkpoints.megatron_config import architecture
from launcher.checkpoints.nemo_archive import NemoArchive
from launcher.checkpoints.safe_yaml import read_yaml
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.checkpoints.tokenizers.stored import ADVICE, existing, gpt2
from launcher.checkpoints.torch_dist import parts, tensor_store
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "model_config.yaml", "model_weights"
NO_WEIGHTS = f"no {WEIGHTS}/metadata.json (expected torch_dist weights; convert them)"
GATED = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}
PLAIN = {"gelu": "torch.nn.functional.gelu", "squared-relu": "megatron.core.activations.squared_relu"}
RENAMED = {
    "rotary_percentage": "rotary_percent",
    "encoder_seq_length": "seq_length",
    "bias": "add_bias_linear",
}


class Nemo1Checkpoint(Checkpoint):
    """A ``.nemo`` file or folder. Of an archive, only small files are unpacked to open it; weights while they load.

    Every rank unpacks the weights for itself: unpack a large archive once (``tar xf``) and give its folder instead.
    """

    layout = "nemo1"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self._archive = NemoArchive(path, bounds) if path.is_file() else None
        self._temporary = TemporaryDirectory(prefix="nemo-") if self._archive else None
        self._root = Path(self._temporary.name) if self._temporary else path
        with self._complaints():
            self._open()

    def _open(self) -> None:
        if self._archive:
            if self._archive.has(CONFIG) and not self._archive.has(f"{WEIGHTS}/metadata.json"):
                raise CheckpointError(f"{self.path}: {NO_WEIGHTS}")
            self._archive.unpack(self._root, weights=False)
        self._file = _inside(self._root, CONFIG)
        self._config = read_yaml(self._file, self.bounds)
        folder = self._file.parent / WEIGHTS
        if not tensor_store.is_store(folder):
            raise CheckpointError(f"{self._root}: {NO_WEIGHTS}")
        inside = PurePosixPath(folder.relative_to(self._root))
        sizes = self._archive.weights(inside) if self._archive else None
        self._store = tensor_store.open_store(folder, self.bounds, sizes)
        self.architecture = architecture(configuration(self._config), self._store, self._file)
        parts.check(self._store, self.architecture)

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """Name the archive in place of the temporary folder that its files were unpacked into."""
        try:
            yield
        except CheckpointError as error:
            raise type(error)(str(error).replace(str(self._root), str(self.path))) from error

    @staticmethod
    def matches(path: Path) -> bool:
        return path.suffix == ".nemo" or (path / CONFIG).is_file()

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer whose files the archive holds."""
        with self._complaints():
            return self._tokenizer()

    def _tokenizer(self) -> Tokenizer:
        stored = section(self._config, "tokenizer", self._file)
        library, base = stored.get("library"), self._file.parent
        if library == "sentencepiece":
            return SentencePieceTokenizer(existing(stored.get("model"), base, self._file, self.bounds))
        if library == "huggingface":
            return from_folder(existing(stored.get("type"), base, self._file, self.bounds), self.bounds)
        if library == "megatron" and stored.get("merge_file"):
            return gpt2(
                *(existing(stored.get(key), base, self._file, self.bounds) for key in ("vocab_file", "merge_file"))
            )
        raise CheckpointError(f"{self._file}: tokenizer.library is {shown(library)}, which is not read here; {ADVICE}")

    def load_into(self, model: nn.Module) -> None:
        with self.reading():
            tensor_store.load_into(self._store, model)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Unpack an archive's weights beside its other files, and remove them."""
        if self._archive is None:
            yield
            return
        try:
            with self._complaints():
                self._archive.unpack(self._root, weights=True)
                yield
        finally:
            for file in self._store.folder.glob("*.distcp"):
                file.unlink()

    def parameter(self, module: str, kind: str) -> Tensor:
        return tensor_store.parameter(self._store, self.architecture, module, kind)

    def fingerprint(self) -> str:
        if self._temporary:
            return fingerprint(self.path.parent, [self.path])
        return fingerprint(self.path, [*self._store.files(), *self.path.glob("*")])


def _inside(root: Path, name: str) -> Path:
    """Return the file of this name at the root, or in the only folder that an archive may wrap around everything."""
    found = sorted([root / name, *root.glob(f"*/{name}")], key=lambda file: not file.is_file())
    if not found[0].is_file():
        raise CheckpointError(f"{root / name}: missing (expected the configuration of a NeMo model)")
    return found[0]


def configuration(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return NeMo 1's configuration under the names of megatron-core's."""
    activation = str(config.get("activation", "gelu")).removeprefix("fast-")
    norm = str(config.get("normalization", "layernorm")).lower()
    made = {key: value for key, value in config.items() if key not in ("activation", "normalization")}
    made |= {new: config[old] for old, new in RENAMED.items() if config.get(old) is not None}
    made["gated_linear_unit"] = activation in GATED
    gate = GATED.get(activation)
    made["activation_func"] = f"torch.nn.functional.{gate}" if gate else PLAIN.get(activation, activation)
    made["normalization"] = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "layernorm1p": "LayerNorm"}.get(norm, norm)
    made["layernorm_zero_centered_gamma"] = norm == "layernorm1p" or config.get("layernorm_zero_centered_gamma")
    return made
