"""NeMo 2.0's layout: a genuine checkpoint, written by NeMo (``write_nemo2.py``)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from launcher.checkpoints import detect
from launcher.core.errors import CheckpointError
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits, parallel_logits

GENUINE = Path(__file__).parent / "data" / "nemo2"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GENUINE, tmp_path / "nemo2"))


def expected() -> torch.Tensor:
    """Return the logits that NeMo's own model computed before it was saved."""
    stored = json.loads((GENUINE / "expected.json").read_text())
    assert stored["tokens"] == TOKENS[0].tolist()
    return torch.tensor([stored["logits"]])


def test_logits_are_those_of_nemo() -> None:
    assert detect(GENUINE).layout == "nemo2"
    torch.testing.assert_close(logits(loaded(GENUINE)), expected(), atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallelism",
    [Parallelism(tensor=2), pytest.param(Parallelism(pipeline=3), marks=pytest.mark.soak)],
    ids=["tp2", "pp3"],
)
def test_logits_are_the_same_over_ranks(parallelism: Parallelism) -> None:
    found = parallel_logits(GENUINE, parallelism)
    torch.testing.assert_close(found, expected(), atol=2e-5, rtol=0)


def test_the_architecture_is_what_nemo_was_asked_for() -> None:
    arch = detect(GENUINE).architecture
    assert (arch.num_layers, arch.hidden_size, arch.num_query_groups, arch.ffn_hidden_size) == (3, 32, 2, 48)
    assert (arch.rotary_base, arch.rotary_percent, arch.context_length) == (5000.0, 0.5, 64)
    assert (arch.qkv_bias, arch.bias, arch.tied, arch.vocab_size) == (True, False, False, 384)


def test_the_tokenizer_comes_from_the_context() -> None:
    tokenizer = detect(GENUINE).tokenizer()
    assert tokenizer.decode(tokenizer.encode("7+5=")) == "7+5="


def test_only_the_configuration_in_yaml_is_read(copy: Path) -> None:
    (copy / "context" / "io.json").write_text("this would be code to run")
    assert detect(copy).architecture == detect(GENUINE).architecture


def test_weights_may_lie_next_to_the_context(copy: Path) -> None:
    for file in (copy / "weights").iterdir():
        file.rename(copy / file.name)
    (copy / "weights").rmdir()
    assert detect(copy).architecture == detect(GENUINE).architecture


def test_what_is_missing_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "context" / "tokenizer")
    with pytest.raises(CheckpointError, match=r"its tokenizer 'tokenizer' is not here .* set model\.tokenizer"):
        detect(copy).tokenizer()
    (copy / "context" / "model.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"context/model\.yaml: missing"):
        detect(copy)


def test_an_unknown_tokenizer_is_refused(copy: Path) -> None:
    file = copy / "context" / "model.yaml"
    file.write_text(file.read_text().replace("auto_tokenizer.AutoTokenizer", "tiktoken_tokenizer.TiktokenTokenizer"))
    with pytest.raises(CheckpointError, match="the tokenizer is a TiktokenTokenizer"):
        detect(copy).tokenizer()
