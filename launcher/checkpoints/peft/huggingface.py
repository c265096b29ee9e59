"""Adapters of Hugging Face's library ``peft``: LoRA, DoRA and IA3, with what was trained as a whole."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from launcher.checkpoints.bounded import read_json_object, shown
from launcher.checkpoints.fields import number
from launcher.checkpoints.file_names import ADAPTER
from launcher.checkpoints.huggingface.safetensors_index import Entry, read_file, read_tensor
from launcher.checkpoints.peft.changes import Adapter, Change, LowRank, Read, Replaced, Scaled
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l)(\.weight)?"
)
WHOLE = re.compile(r"(?P<module>.+?)(\.modules_to_save)?(\.base_layer)?\.(?P<kind>weight|bias)")
KINDS = ("LORA", "IA3")
ENDS = ("embed_tokens", "lm_head", "embed_in", "embed_out", "wte")
"""The last names of embeddings and output layers."""

READ = {
    *(
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "fan_in_fan_out",
        "modules_to_save",
    ),
    *(
        "bias",
        "target_modules",
        "ensure_weight_tying",
        "feedforward_modules",
        "init_lora_weights",
        "peft_type",
        "task_type",
    ),
}
TOLD = {
    *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "exclude_modules"),
    *("lora_dropout", "layers_to_transform", "layers_pattern", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "runtime_config", "qalora_group_size", "init_ia3_weights"),
    "megatron_core",
}
"""What only says how the adapter was made: the stored tensors are the result."""

ELSEWHERE = "merge it with peft's merge_and_unload and save the result"

NOTHING: tuple[Json, ...] = (None, "", [])
"""Values of a setting that names no layers; layer 0 is one."""

INITIALIZED = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin the training that leave the base model as it is; others take a part of it away."""


def matches(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def read(folder: Path, bounds: Bounds) -> Adapter:
    """Open an adapter. Raises `CheckpointError` for what is not merged exactly, and for a tensor of no known use."""
    file = folder / ADAPTER
    config = read_json_object(file, bounds)
    _refuse(config, file)
    if not (folder / WEIGHTS).is_file():
        pickled = f"; {PICKLED} is a pickle, which may run code: save it again" if (folder / PICKLED).is_file() else ""
        raise CheckpointError(f"{folder / WEIGHTS}: missing (expected the adapter's weights as safetensors){pickled}")
    entries = read_file(folder / WEIGHTS, bounds)
    changes = dict(_changes(entries, config, folder))
    kind = "DORA" if config.get("use_dora") else str(config["peft_type"])
    saved = {name.rsplit(".", 2)[-2] for name, change in changes.items() if isinstance(change, Replaced)}
    apart = not config.get("ensure_weight_tying")
    untied = apart and bool(saved & set(ENDS) & set(map(_last, config.get("modules_to_save") or ())))
    base = str(config.get("base_model_name_or_path") or "not named")
    files = (file, folder / WEIGHTS)
    return Adapter(folder, "huggingface", kind, changes, base, files, untied, _is_of_every_layer(config))


def _is_of_every_layer(config: Mapping[str, Json]) -> bool:
    """Tell whether the settings name modules only, no layers and no patterns that may mean layers."""
    targets = config.get("target_modules")
    if any(config.get(key) not in NOTHING for key in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return False
    named = [*targets, *(config.get("modules_to_save") or ())] if isinstance(targets, list) else []
    return bool(named) and not any(re.search(r"(^|\.)\d+(\.|$)", str(name)) for name in named)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _refuse(config: Mapping[str, Json], file: Path) -> None:
    """Raise `CheckpointError` for a setting that changes answers in a way that is not merged here."""
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in KINDS:
        raise CheckpointError(f"{file}: peft_type is {shown(kind)} (merged: {', '.join(KINDS)})")
    if task not in ("CAUSAL_LM", None):
        raise CheckpointError(f"{file}: task_type is {shown(task)} (expected CAUSAL_LM)")
    if config.get("init_lora_weights") not in INITIALIZED:
        raise CheckpointError(
            f"{file}: init_lora_weights is {shown(config['init_lora_weights'])}, which changes the base model too "
            f"({ELSEWHERE})"
        )
    for key, value in config.items():
        if key not in READ | TOLD and value not in (None, False, "", [], {}):
            raise CheckpointError(f"{file}: {key} is {shown(value)}, which is not merged here ({ELSEWHERE})")


def _changes(entries: Mapping[str, Entry], config: Mapping[str, Json], folder: Path) -> Iterator[tuple[str, Change]]:
    """Yield every weight that changes; each stored tensor has a part in it."""
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in entries:
        module, part = _place(name, folder)
        if part in parts[module]:
            raise CheckpointError(f"{folder / WEIGHTS}: tensor {shown(name)} is there twice under other names")
        parts[module][part] = name
    readers = {name: partial(read_tensor, entry, name) for name, entry in entries.items()}
    for module, found in parts.items():
        made = _Module(module, found, entries, readers, config, folder)
        yield from made.changes()


def _place(name: str, folder: Path) -> tuple[str, str]:
    """Return the module of the base model that a tensor belongs to, and which part of it the tensor is."""
    plain = name.removeprefix(PREFIX)
    if found := PART.fullmatch(plain):
        return found["module"], found["part"]
    if (found := WHOLE.fullmatch(plain)) and ".lora_" not in plain:
        return found["module"], found["kind"]
    raise CheckpointError(f"{folder / WEIGHTS}: tensor {shown(name)} is not merged here; answers would ignore it")


class _Module:
    """The tensors of an adapter for one module of its base model."""

    def __init__(
        self,
        name: str,
        parts: Mapping[str, str],
        entries: Mapping[str, Entry],
        readers: Mapping[str, Read],
        config: Mapping[str, Json],
        folder: Path,
    ) -> None:
        self._name, self._parts, self._config, self._folder = name, parts, config, folder
        self._shapes = {part: entries[stored].shape for part, stored in parts.items()}
        self._reads = {part: readers[stored] for part, stored in parts.items()}

    def changes(self) -> Iterator[tuple[str, Change]]:
        kinds = set(self._parts)
        alone = {"bias"} if kinds & {"lora_A", "lora_embedding_A"} else {"weight", "bias"}
        for kind in sorted(kinds & alone):
            yield f"{self._name}.{kind}", Replaced(self._shapes[kind], self._reads[kind])
        rest = kinds - {"bias", "weight"}
        if rest - {"lora_magnitude_vector"} == {"lora_A", "lora_B"}:
            yield f"{self._name}.weight", self._low_rank()
        elif rest == {"lora_embedding_A", "lora_embedding_B"}:
            yield f"{self._name}.weight", self._embedding()
        elif rest == {"ia3_l"} and "weight" not in kinds:
            yield from self._scaled()
        elif rest:
            raise self._wrong(f"has {', '.join(sorted(kinds))} (expected lora_A and lora_B, or ia3_l)")

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._folder / WEIGHTS}: '{self._name:.200}' {what}")

    def _low_rank(self) -> LowRank:
        down, up = self._shapes["lora_A"], self._shapes["lora_B"]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise self._wrong(
                f"has lora_A of shape {list(down)} and lora_B of {list(up)} (expected [r, in] and [out, r])"
            )
        magnitude = self._reads.get("lora_magnitude_vector")
        if bool(self._config.get("use_dora")) != (magnitude is not None):
            raise self._wrong(f"contradicts use_dora={shown(self._config.get('use_dora'))} of {ADAPTER}")
        reads, shape = (self._reads["lora_A"], self._reads["lora_B"]), (up[0], down[1])
        return LowRank(shape, *reads, self._scale(down[0]), magnitude, saved=self._saved(shape))

    def _embedding(self) -> LowRank:
        down, up = self._shapes["lora_embedding_A"], self._shapes["lora_embedding_B"]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise self._wrong(f"has lora_embedding_A of shape {list(down)} and lora_embedding_B of {list(up)}")
        reads = self._reads["lora_embedding_A"], self._reads["lora_embedding_B"]
        shape = (down[1], up[0])
        return LowRank(shape, *reads, self._scale(down[0]), transposed=True, saved=self._saved(shape))

    def _saved(self, shape: tuple[int, int]) -> Read | None:
        """Return the weight that the adapter brings along, as `peft` does for embeddings and output layers."""
        if self._shapes.get("weight", shape) != shape:
            raise self._wrong(f"has a weight of shape {list(self._shapes['weight'])} (expected {list(shape)})")
        return self._reads.get("weight")

    def _scale(self, rank: int) -> float:
        file = self._folder / ADAPTER
        wanted = self._patterned("rank_pattern", number(self._config, "r", file))
        if rank != wanted:
            raise self._wrong(f"has rank {rank} ({ADAPTER} says {shown(wanted)})")
        alpha = self._patterned("alpha_pattern", self._config.get("lora_alpha"))
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise CheckpointError(f"{file}: lora_alpha is {shown(alpha)} (expected a number)")
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _patterned(self, key: str, default: Any) -> Any:
        """Return a setting of this module: ``peft`` takes the first pattern that the end of its name matches."""
        patterns = self._config.get(key) or {}
        try:
            return next(
                (x for pattern, x in patterns.items() if re.match(rf"(.*\.)?({pattern})$", self._name)), default
            )
        except re.error as error:
            raise CheckpointError(f"{self._folder / ADAPTER}: {key} has no regular expression: {error}") from None

    def _scaled(self) -> Iterator[tuple[str, Change]]:
        """Yield the weight, and the bias where rows are multiplied; `adapted` drops a bias that the model lacks."""
        shape = self._shapes["ia3_l"]
        if len(shape) != 2 or 1 not in shape:
            raise self._wrong(f"has ia3_l of shape {list(shape)} (expected [out, 1] or [1, in])")
        rows = shape[1] == 1
        yield f"{self._name}.weight", Scaled((shape[0], 0) if rows else (0, shape[1]), self._reads["ia3_l"])
        if rows:
            yield f"{self._name}.bias", Scaled((shape[0],), self._reads["ia3_l"])
