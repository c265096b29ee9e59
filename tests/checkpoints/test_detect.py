"""Which layout a path has, and what is said of a path that has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.checkpoints import detect, load_tokenizer
from launcher.core.errors import CheckpointError

TINY = Path(__file__).parents[2] / "launcher" / "assets" / "tiny"


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing: no such file or folder \(expected a NeMo 2\.0"):
        detect(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="expected a tokenizer"):
        load_tokenizer(tmp_path / "nothing")


def test_a_foreign_folder_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(CheckpointError, match="not a checkpoint of a known layout"):
            detect(path)


def test_what_was_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.gguf").touch()
    with pytest.raises(CheckpointError, match=r"it holds model\.gguf: model\.path=.*/made/model\.gguf$"):
        detect(tmp_path / "made")
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=f"its folder is one: model.path={tmp_path}$"):
        detect(tmp_path / "config.json")


def test_a_conversion_that_did_not_end_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "conversion.json").write_text("{}")
    (tmp_path / "model.gguf.partial").touch()
    with pytest.raises(CheckpointError, match=r"holds a conversion that did not end: repeat its launcher convert$"):
        detect(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model_config.yaml", "metadata.json", "run_config.yaml"])
def test_a_lonely_mark_of_a_layout_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        detect(tmp_path)


def test_every_complaint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run_config.yaml").write_text("a: [1\nb: {")
    with pytest.raises(CheckpointError) as caught:
        detect(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_loaded_from_a_folder_or_its_file() -> None:
    folder = next(TINY.glob("iter_*")) / "tokenizer"
    for path in (folder, folder / "tokenizer.json"):
        assert load_tokenizer(path).encode("7+5=") == list(b"7+5=")
