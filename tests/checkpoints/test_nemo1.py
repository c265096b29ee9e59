"""NeMo 1's layout: a ``.nemo`` archive and its unpacked folder."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launcher.checkpoints import detect
from launcher.checkpoints.nemo1 import configuration
from launcher.checkpoints.torch_dist.writer import save
from launcher.core.errors import CheckpointError
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import architecture, built, filled, loaded, logits, parallel_logits

CONFIG = {
    "mcore_gpt": True,
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "encoder_seq_length": 32,
    "normalization": "layernorm1p",
    "layernorm_epsilon": 1e-5,
    "activation": "fast-swiglu",
    "bias": False,
    "position_embedding_type": "rope",
    "rotary_percentage": 0.5,
    "share_embeddings_and_output_weights": False,
    "tokenizer": {"library": "megatron", "type": "GPT2BPETokenizer", "vocab_file": None, "merge_file": None},
    "target": "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel",
}
MODEL = {"normalization": "LayerNorm", "zero_centered_gamma": True, "rotary_percent": 0.5, "tied": False}


def written(folder: Path, **changes: Any) -> Any:
    """Write an unpacked NeMo checkpoint and return its model."""
    model = built(architecture(**MODEL))
    save(model, folder / "model_weights", torch.float32, "model.")
    (folder / "model_config.yaml").write_text(yaml.safe_dump(CONFIG | changes))
    return model


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=f"./{file.name}")
    return archive


def test_an_archive_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    model = written(tmp_path / "unpacked")
    archive = packed(tmp_path / "unpacked", tmp_path / "model.nemo")
    for path in (tmp_path / "unpacked", archive):
        checkpoint = detect(path)
        assert checkpoint.layout == "nemo1"
        assert checkpoint.architecture == architecture(**MODEL)
        assert torch.equal(logits(loaded(path)), logits(model))


@pytest.mark.slow
def test_logits_are_the_same_over_ranks(tmp_path: Path) -> None:
    expected = logits(written(tmp_path / "unpacked"))
    archive = packed(tmp_path / "unpacked", tmp_path / "model.nemo")
    found = parallel_logits(archive, Parallelism(tensor=2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_nothing_stays_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "unpacked")
    archive = packed(tmp_path / "unpacked", tmp_path / "model.nemo")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    checkpoint = detect(archive)
    assert not list(scratch.rglob("*.distcp")), "opening unpacks no weights"
    filled(checkpoint.architecture, checkpoint)
    assert not list(scratch.rglob("*.distcp"))
    del checkpoint
    assert not list(scratch.iterdir())


def test_activation_and_norm_have_names_of_their_own() -> None:
    read = configuration({"activation": "squared-relu", "normalization": "rmsnorm", "bias": True})
    assert read["activation_func"] == "megatron.core.activations.squared_relu"
    assert (read["normalization"], read["gated_linear_unit"], read["add_bias_linear"]) == ("RMSNorm", False, True)
    assert configuration({"activation": "geglu"})["activation_func"] == "torch.nn.functional.gelu"


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.nemo"
    file.write_bytes(b"not a tar")
    with pytest.raises(CheckpointError, match=r"model\.nemo: not a whole \.nemo archive"):
        detect(file)


def test_an_archive_cut_short_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "unpacked")
    archive = packed(tmp_path / "unpacked", tmp_path / "model.nemo")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="model"):
        detect(archive)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme").write_text("x")
    with pytest.raises(CheckpointError, match=r"model_config\.yaml: missing"):
        detect(packed(tmp_path / "other", tmp_path / "model.nemo"))


def test_weights_of_one_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "model_weights.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="expected torch_dist weights"):
        detect(tmp_path)


def test_a_tokenizer_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    written(tmp_path, tokenizer={"library": "sentencepiece", "model": "nemo:abc_tokenizer.model"})
    with pytest.raises(CheckpointError, match=r"'abc_tokenizer\.model' is not here .* set model\.tokenizer"):
        detect(tmp_path).tokenizer()
