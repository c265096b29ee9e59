"""A NeMo 2.0 folder: ``weights/`` as megatron-core's writer makes them, and ``context/`` as NeMo's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from launcher.checkpoints.export import fiddle
from launcher.checkpoints.export.fiddle import Call, Name
from launcher.checkpoints.export.megatron import is_llama3
from launcher.checkpoints.export.torch_dist import TorchDistFolder, tokenizer_files
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

MODELS = "nemo.collections.llm.gpt.model"
TOKENIZER = "nemo.collections.common.tokenizers.huggingface.auto_tokenizer"
FOLDER = "nemo_tokenizer"
"""The tokenizer's folder in ``context/``."""


class Nemo2Folder(TorchDistFolder):
    """``convert.format=nemo2``."""

    within = "weights/"
    prefix = "module."
    common: Mapping[str, Json] = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.4.0"}

    def small_files(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
        yield from self._weights_index()
        for name, text in tokenizer_files(tokenizer):
            yield f"context/{FOLDER}/{name}", text
        model = self._model(tokenizer)
        trainer = Call("nemo.lightning.io.pl", "TrainerContext", {"model": model, "trainer": _trainer(), "extra": {}})
        yield "context/io.json", json.dumps(fiddle.serialized(trainer)).encode()
        yield "context/model.yaml", yaml.safe_dump(_as_yaml(model)).encode()

    def _model(self, tokenizer: Tokenizer | None) -> Call:
        """Return NeMo's model, as it is called to be made."""
        kind, config = ("LlamaModel", "Llama31Config") if is_llama3(self.config) else ("GPTModel", "GPTConfig")
        module = f"{MODELS}.llama" if is_llama3(self.config) else f"{MODELS}.base"
        made: dict[str, Any] = {"config": Call(module, config, {key: _named(x) for key, x in self.config.items()})}
        if tokenizer is not None:
            made["tokenizer"] = Call(TOKENIZER, "AutoTokenizer", {"pretrained_model_name": FOLDER})
        return Call(module, kind, made)


def _trainer() -> Call:
    strategy = Call("nemo.lightning.pytorch.strategies.megatron_strategy", "MegatronStrategy", {})
    arguments = {"accelerator": "cpu", "strategy": strategy, "devices": 1, "logger": False, "max_steps": 1}
    return Call("nemo.lightning.pytorch.trainer", "Trainer", arguments)


def _named(value: Json) -> Any:
    """Return what OmegaConf's ``_target_`` names as a name, and every other value as it is."""
    if isinstance(value, dict) and "_target_" in value:
        return Name(*str(value["_target_"]).rsplit(".", 1))
    return value


def _as_yaml(value: Any) -> Any:
    if isinstance(value, Call):
        return {"_target_": f"{value.module}.{value.name}"} | {key: _as_yaml(x) for key, x in value.arguments.items()}
    if isinstance(value, Name):
        return {"_target_": f"{value.module}.{value.name}", "_call_": False}
    return value
