"""Files of every format, changed at random: each loads, or one line names it, at bounded cost and running nothing."""

from __future__ import annotations

import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.checkpoints import detect
from launcher.checkpoints.huggingface.safetensors_index import read_index, read_tensor
from launcher.checkpoints.torch_dist.archive import read_tensor as read_part
from launcher.core.errors import CheckpointError
from tests.checkpoints import test_gguf, test_huggingface, test_megatron_lm
from tests.checkpoints.hostile import ASSETS, MEMORY, STEP, bounded, tiny
from tests.fuzzing import examples

NEMO2 = Path(__file__).parent / "data" / "nemo2"
EXAMPLES = examples(50)


@dataclass(frozen=True)
class Target:
    """A file of a checkpoint that is changed, and how all of the checkpoint is read."""

    root: Path
    file: str
    read: Callable[[Path], Any]
    path: str = ""


def parts(folder: Path) -> None:
    """Open a distributed checkpoint and read every tensor of it."""
    store = detect(folder)._store  # type: ignore[attr-defined]
    for stored in store.tensors.values():
        for chunk in stored.chunks:
            read_part(store.folder / chunk.file, chunk.span, stored.dtype, chunk.sizes)


def safetensors(folder: Path) -> None:
    detect(folder)
    for name, entry in read_index(folder).items():
        read_tensor(entry, name)


def gguf(file: Path) -> None:
    checkpoint: Any = detect(file)
    for name in checkpoint._tensors:
        checkpoint._read(name)
    checkpoint.tokenizer()


def packed(folder: Path, archive: Path, mode: Any) -> None:
    with tarfile.open(archive, mode) as tar:
        for file in sorted(folder.rglob("*")):
            tar.add(file, arcname=f"./{file.relative_to(folder)}", recursive=False)


VOCABULARY: dict[str, Any] = {
    "add_tokenizer_model": "gpt2",
    "add_tokenizer_pre": "gpt-2",
    "add_token_list": ["<end>", "AB", *map(chr, range(33, 95))],
    "add_token_types": [3] + [1] * 63,
    "add_token_merges": ["A B"],
    "add_eos_token_id": 0,
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """Return small whole checkpoints of every layout, and the files of them that are changed."""
    root = tmp_path_factory.mktemp("targets")
    tiny(root / "bridge")
    shutil.copytree(NEMO2, root / "nemo2", ignore=shutil.ignore_patterns("expected.json", "io.json"))
    test_megatron_lm.written(root / "lm", test_megatron_lm.LLAMA)
    test_huggingface.saved("llama", root / "hf")
    (root / "gguf").mkdir()
    test_gguf.written(root / "gguf" / "model.gguf", **VOCABULARY)
    from tests.checkpoints import test_nemo1

    test_nemo1.written(root / "unpacked")
    for name, mode in (("tar", "w:"), ("targz", "w:gz")):
        (root / name).mkdir()
        packed(root / "unpacked", root / name / "model.nemo", mode)
    lm = next(file for file in (root / "lm").rglob("common.pt")).relative_to(root / "lm")
    return {
        "index": Target(root / "bridge", f"{STEP}/.metadata", parts),
        "index_with_objects": Target(root / "nemo2", "weights/.metadata", parts),
        "tensors": Target(root / "bridge", f"{STEP}/__0_0.distcp", parts),
        "arguments": Target(root / "lm", str(lm), parts),
        "description": Target(root / "bridge", f"{STEP}/metadata.json", parts),
        "run_config": Target(root / "bridge", f"{STEP}/run_config.yaml", parts),
        "model_yaml": Target(root / "nemo2", "context/model.yaml", parts),
        "config": Target(root / "hf", "config.json", safetensors),
        "safetensors": Target(root / "hf", "model.safetensors", safetensors),
        "gguf": Target(root / "gguf", "model.gguf", gguf, "model.gguf"),
        "tar": Target(root / "tar", "model.nemo", detect, "model.nemo"),
        "targz": Target(root / "targz", "model.nemo", detect, "model.nemo"),
    }


NUMBERS = [0, 1, 255, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
WORDS = [b"os", b"system", b"os.system", b"builtins", b"\x80\x04", b"\x8c\x09os.system\x93", b"1e9999", b"NaN", b"null"]
WORDS += [b"99999999999", b"[" * 3000, b'{"a":' * 3000, b"}" * 1000, b"((((", b"\x96" + b"\xff" * 8, b"&a [*a, *a]"]

changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 2**20), st.integers(0, 255)),
        st.tuples(st.just("number"), st.integers(0, 2**20), st.sampled_from(NUMBERS)),
        st.tuples(st.just("word"), st.integers(0, 2**20), st.sampled_from(WORDS)),
        st.tuples(st.just("insert"), st.integers(0, 2**20), st.sampled_from(WORDS)),
        st.tuples(st.just("repeat"), st.integers(0, 2**20), st.integers(1, 300)),
        st.tuples(st.just("cut"), st.integers(0, 2**20), st.integers(1, 5000)),
    ),
    min_size=1,
    max_size=6,
)
"""Changes as kind, place and value; most places are near to a beginning or an end, where the formats are."""


def changed(content: bytes, wanted: list[tuple[str, int, Any]]) -> bytes:
    made = bytearray(content)
    for kind, where, value in wanted:
        reach = len(made) if where % 3 else min(len(made), 2000)
        place = where % max(1, reach) if where % 2 else max(0, len(made) - 1 - where % max(1, reach))
        if kind == "flip":
            made[place : place + 1] = bytes([value])
        elif kind == "number":
            made[place : place + 8] = struct.pack("<Q", value)
        elif kind == "word":
            made[place : place + len(value)] = value
        elif kind == "insert":
            made[place:place] = value
        elif kind == "repeat":
            made[place:place] = made[place : place + value]
        else:
            del made[place : place + value]
    return bytes(made)


KINDS = [
    "index", "index_with_objects", "tensors", "arguments", "description", "run_config", "model_yaml", "config",
    "safetensors", "gguf", "tar", "targz",
]  # fmt: skip


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_loads_or_is_refused_in_one_line(kind: str, targets: dict[str, Target], tmp_path: Path) -> None:
    target = targets[kind]
    folder = tmp_path / "changed"
    shutil.copytree(target.root, folder)
    whole = (folder / target.file).read_bytes()
    target.read(folder / target.path)  # imports what is imported once, and shows that the whole one is read

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changes)
    def hold(wanted: list[tuple[str, int, Any]]) -> None:
        (folder / target.file).write_bytes(changed(whole, wanted))
        with bounded():
            try:
                target.read(folder / target.path)
            except CheckpointError as error:
                text = str(error)
                assert str(folder) in text
                assert "\n" not in text
                assert len(text) < 1000

    hold()


def test_the_watch_sees_a_pickle_that_is_believed() -> None:
    """Otherwise the tests above would prove nothing."""
    import pickle

    with pytest.raises(AssertionError), bounded():
        pickle.loads((ASSETS / "tiny" / STEP / ".metadata").read_bytes())
    with pytest.raises(MemoryError), bounded():
        bytearray(2 * MEMORY)
