"""Every file of every layout, damaged in every plain way: it still loads, or one line names the checkpoint's file."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoints import base, detect
from launcher.checkpoints.safe_yaml import read_yaml
from launcher.core.errors import CheckpointError
from tests.checkpoints import test_gguf, test_huggingface, test_megatron_lm, test_nemo1
from tests.checkpoints.checkpoint_models import TOKENS, filled, logits

ASSETS = Path(__file__).parents[2] / "launcher" / "assets"
NEMO2 = Path(__file__).parent / "data" / "nemo2"
READERS = "".join(file.read_text() for file in Path(base.__file__).parent.glob("*.py"))
NOT_READ = ("provenance.json", "expected.json", "io.json")


def copied(source: Path) -> Callable[[Path], Any]:
    return lambda folder: shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_READ))


def huggingface(folder: Path) -> None:
    test_huggingface.saved("llama", folder, max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NEMO2 / "context" / "tokenizer" / name, folder / name)


def archive(folder: Path) -> None:
    test_nemo1.written(folder / "unpacked")
    test_nemo1.packed(folder / "unpacked", folder / "model.nemo")
    shutil.rmtree(folder / "unpacked")


def gguf(folder: Path) -> None:
    folder.mkdir()
    test_gguf.written(folder / "model.gguf")


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "megatron_bridge": copied(ASSETS / "tiny"),
    "nemo2": copied(NEMO2),
    "megatron_lm": lambda folder: test_megatron_lm.written(folder, test_megatron_lm.LLAMA),
    "nemo1": test_nemo1.written,
    "nemo1_archive": archive,
    "huggingface": huggingface,
    "huggingface_moe": lambda folder: test_huggingface.saved("qwen3_moe", folder),
    "gguf": gguf,
}


@pytest.fixture(scope="module", params=list(LAYOUTS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    LAYOUTS[request.param](folder)
    return folder


def target(folder: Path) -> Path:
    """The archive or file in the folder where the checkpoint is one, else the folder."""
    return next((folder / name for name in ("model.nemo", "model.gguf") if (folder / name).exists()), folder)


def load(path: Path) -> torch.Tensor:
    checkpoint = detect(path)
    return logits(filled(checkpoint.architecture, checkpoint), TOKENS[:, :4])


def open_tokenizer(path: Path) -> None:
    detect(path).tokenizer()


def complaint(path: Path, *steps: Callable[[Path], Any]) -> str | None:
    """Run the steps; return the complaint of the first that has one, after checking that it is one good line."""
    for step in steps:
        try:
            step(path)
        except CheckpointError as error:
            text = str(error)
            assert "\n" not in text
            assert str(path) in text
            return text
    return None


def damages(content: bytes) -> Iterator[tuple[str, bytes | None]]:
    rng = random.Random(1)
    yield "removed", None
    yield "empty", b""
    yield "half", content[: len(content) // 2]
    yield "cut", content[:-1]
    yield "noise", rng.randbytes(len(content))
    yield "zeros", bytes(len(content))
    for _ in range(2):
        spotted = bytearray(content)
        for _ in range(20):
            spotted[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
        yield "spots", bytes(spotted)


def test_whole_ones_load(whole: Path) -> None:
    assert torch.isfinite(load(target(whole))).all()


def test_damaged_files_are_refused_in_one_line(whole: Path, tmp_path: Path) -> None:
    refused = 0
    for file in sorted(f.relative_to(whole) for f in whole.rglob("*") if f.is_file()):
        for kind, content in damages((whole / file).read_bytes()):
            damaged = tmp_path / f"{kind}{refused}"
            shutil.copytree(whole, damaged)
            (damaged / file).unlink()
            if content is not None:
                (damaged / file).write_bytes(content)
            path = damaged / file if target(whole) == whole / file else damaged
            refused += complaint(path, open_tokenizer, load) is not None
            shutil.rmtree(damaged)
    assert refused > 5


def settings(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value in nested mappings whose key some reader knows."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if f'"{key}"' in READERS:
            yield (*above, key)
        yield from settings(value, (*above, key))


def changed(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    made = copy.deepcopy(tree)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


WRONG: tuple[object, ...] = ("x", -1, 1.5, 10**7, [{}], {"a": []})


def test_wrong_values_are_refused_in_one_line(whole: Path) -> None:
    for file in sorted(whole.rglob("*")):
        if file.suffix not in (".json", ".yaml") or file.name.startswith("tokenizer"):
            continue
        before = file.read_bytes()
        tree = json.loads(before) if file.suffix == ".json" else read_yaml(file)
        for path in settings(tree):
            for value in WRONG:
                file.write_text(json.dumps(changed(tree, path, value)))  # which is YAML too
                complaint(target(whole), open_tokenizer if "token" in str(path) else detect)
        file.write_bytes(before)
