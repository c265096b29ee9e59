"""Megatron-Bridge's layout: the checkpoint that ships with the launcher, and damaged copies of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from launcher.checkpoints import detect
from launcher.core.errors import CheckpointError
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits, parallel_logits

TINY = Path(__file__).parents[2] / "launcher" / "assets" / "tiny"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "run"))


def iteration(run: Path) -> Path:
    return next(run.glob("iter_*"))


def test_it_is_detected_from_the_run_and_from_an_iteration() -> None:
    whole, one = detect(TINY), detect(iteration(TINY))
    assert whole.layout == one.layout == "megatron_bridge"
    assert whole.architecture == one.architecture
    assert (whole.architecture.num_layers, whole.architecture.vocab_size, whole.architecture.dtype) == (4, 264, "bf16")


def test_opening_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from launcher.checkpoints import detect;"
        f"detect(Path({str(TINY)!r})).fingerprint(); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallelism",
    [
        pytest.param(Parallelism(tensor=2), marks=pytest.mark.soak),
        pytest.param(Parallelism(pipeline=2), marks=pytest.mark.soak),
        Parallelism(tensor=2, pipeline=2),
    ],
    ids=["tp2", "pp2", "tp2-pp2"],
)
def test_logits_are_the_same_over_ranks(parallelism: Parallelism) -> None:
    expected = logits(loaded(TINY), TOKENS)
    torch.testing.assert_close(parallel_logits(TINY, parallelism), expected, atol=1e-4, rtol=0)


def named(run: Path, folder: str) -> None:
    """Let the configuration name a tokenizer."""
    file = iteration(run) / "run_config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(config | {"tokenizer": {"tokenizer_model": folder}}))


def test_a_folder_that_the_configuration_names_is_not_read_beside_a_tokenizer(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    named(copy, str(tmp_path / "elsewhere"))
    before = detect(copy).fingerprint()
    (tmp_path / "elsewhere" / "tokenizer.json").write_text("{}")
    assert detect(copy).fingerprint() == before


def test_of_a_named_folder_only_the_tokenizer_counts(copy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.move(iteration(copy) / "tokenizer", tmp_path / "elsewhere"))
    named(copy, str(folder))
    assert detect(copy).tokenizer().encode("hello")
    before = detect(copy).fingerprint()
    (folder / "deep").mkdir()
    (folder / "deep" / "tokenizer.json").write_text("{}")
    (folder / "large.bin").write_text("x")
    assert detect(copy).fingerprint() == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert detect(copy).fingerprint() != before


@pytest.mark.parametrize("folder", ["/" + "a" * 5000, "/" + "a/" * 2500, "/proc/1/cwd/x", "relative", "a\0b"])
def test_a_folder_that_cannot_be_is_told_in_one_line(folder: str, copy: Path) -> None:
    shutil.rmtree(iteration(copy) / "tokenizer")
    named(copy, folder)
    checkpoint = detect(copy)
    assert checkpoint.fingerprint()
    with pytest.raises(CheckpointError, match=r"tokenizer: missing \(the run used .*set model\.tokenizer") as refused:
        checkpoint.tokenizer()
    assert len(str(refused.value)) < 600


def test_the_newest_iteration_is_the_one_that_the_tracker_names(copy: Path) -> None:
    shutil.copytree(iteration(copy), copy / "iter_0000900")
    (copy / "latest_checkpointed_iteration.txt").write_text("900")
    (copy / "iter_0000900" / "run_config.yaml").write_text("model: 1")
    with pytest.raises(CheckpointError, match=r"iter_0000900/run_config\.yaml: no 'model'"):
        detect(copy)


@pytest.mark.parametrize(
    ("text", "complaint"), [("soon", "holds 'soon'"), ("7", r"iter_0000007: missing \(expected the checkpoint")]
)
def test_a_wrong_tracker_is_refused(text: str, complaint: str, copy: Path) -> None:
    (copy / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(CheckpointError, match=complaint):
        detect(copy)


def test_classes_in_the_configuration_are_not_called(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = iteration(copy) / "run_config.yaml"
    evil = "evil: !!python/object/apply:builtins.print ['this must never run']\n"
    file.write_text(evil + file.read_text())
    assert detect(copy).architecture == detect(TINY).architecture
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(("text", "complaint"), [("a: [", "not YAML"), ("- 1", "holds no mapping")])
def test_a_damaged_configuration_is_refused(text: str, complaint: str, copy: Path) -> None:
    (iteration(copy) / "run_config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=rf"run_config\.yaml: {complaint}"):
        detect(copy)


def test_a_missing_tokenizer_says_what_to_do(copy: Path) -> None:
    shutil.rmtree(iteration(copy) / "tokenizer")
    with pytest.raises(CheckpointError, match=r"tokenizer: missing .* set model\.tokenizer"):
        detect(copy).tokenizer()


def test_the_fingerprint_follows_weights_and_tokenizer(copy: Path) -> None:
    first = detect(copy).fingerprint()
    assert first == detect(TINY).fingerprint()
    file = iteration(copy) / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text().replace("system", "sistem"))
    second = detect(copy).fingerprint()
    data = next(iteration(copy).glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    assert len({first, second, detect(copy).fingerprint()}) == 3
