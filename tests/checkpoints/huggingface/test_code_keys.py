"""Keys of a configuration by which transformers would fetch or import code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.huggingface.code_keys import refuse_code, without_code
from launcher.core.errors import CheckpointError

FILE = Path("config.json")
ONE = "evil/kernel"


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": ONE},
        {"_attn_implementation": ONE},
        {"_attn_implementation_internal": ONE},
        {"experts_implementation": ONE},
        {"attn_implementation": {"": "sdpa", "text_config": ONE}},
        {"attn_implementation": [ONE]},
        {"text_config": {"_attn_implementation": f"paged|{ONE}"}},
        {"parts": [{"a": {"attn_implementation": ONE}}]},
        {"per_layer_config": {"0": {"attn_implementation": ONE}}},
        {"use_kernels": True},
        {"text_config": {"backbone": ONE}},
        {"custom_generate": ONE},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
    ],
)
def test_a_key_that_fetches_code_is_refused_at_any_depth(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: .* \((expected|by which)|expected none"):
        refuse_code(config, FILE)


def test_a_name_of_transformers_own_is_accepted_and_not_passed_on() -> None:
    config = {"attn_implementation": "flash_attention_2", "text_config": {"_attn_implementation": "sdpa", "a": [1]}}
    refuse_code(config, FILE)
    assert without_code(config) == {"text_config": {"a": [1]}}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_model_with_a_kernel_is_refused_before_it_is_loaded(name: str, tmp_path: Path) -> None:
    from launcher.engines.huggingface import source

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    found = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
    (tmp_path / name).write_text(json.dumps(found | {"_attn_implementation": ONE}))
    with pytest.raises(
        CheckpointError, match=rf"{name}: _attn_implementation is 'evil/kernel' \(expected one of eager"
    ):
        source.read(tmp_path)
