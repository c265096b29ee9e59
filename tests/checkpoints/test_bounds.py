"""What a file claims is compared with what it holds, before anything of that size is made."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from launcher.checkpoints import detect, load_tokenizer
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import source
from launcher.settings.model import Bounds
from tests.checkpoints import test_huggingface, test_megatron_lm
from tests.checkpoints.hostile import bounded, tiny
from tests.checkpoints.test_nothing_is_executed import launch

DEEP = "[" * 100_000 + "]" * 100_000


def bridge(folder: Path, **changes: Any) -> Path:
    """Write a Megatron-Bridge checkpoint that says other things of its model."""
    file = tiny(folder / "model") / "run_config.yaml"
    config = yaml.safe_load(file.read_text())
    config["model"] |= changes
    file.write_text(yaml.safe_dump(config))
    return folder / "model"


def llama(folder: Path, **changes: Any) -> Path:
    """Write a Hugging Face folder that says other things of its model."""
    test_huggingface.saved("llama", folder / "model")
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder / "model"


def arguments(folder: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a Megatron-LM checkpoint whose ``common.pt`` holds this pickle."""
    test_megatron_lm.written(folder / "model", test_megatron_lm.LLAMA)
    file = next((folder / "model").rglob("common.pt"))
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("common/data.pkl", pickled)
    return folder / "model"


def gguf(folder: Path, *parts: bytes) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", 3) + b"".join(parts))
    return file


def gguf_array(folder: Path, kind: int, count: int) -> Path:
    key = b"tokenizer.ggml.tokens"
    head = struct.pack("<QQQ", 0, 1, len(key)) + key + struct.pack("<IIQ", 9, kind, count)
    return gguf(folder, head, bytes(64))


def nemo(folder: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Path:
    """Write a compressed archive with one member of so many zeros, or of another kind."""
    file = folder / "model.nemo"
    with gzip.open(file, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w:") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        member.size = size
        tar.addfile(member, io.BytesIO(bytes(size)) if kind == tarfile.REGTYPE else None)
    return file


def nemo_long_names(folder: Path) -> Path:
    """Write an archive of names that each are for the next name."""
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1
    file = folder / "model.nemo"
    file.write_bytes((member.tobuf() + b"b".ljust(512, b"\0")) * 3000)
    return file


def bridge_tokenizer(folder: Path, named: str) -> Path:
    """Write a Megatron-Bridge checkpoint without a tokenizer, whose configuration names one."""
    made = tiny(folder / "model")
    file = made / "run_config.yaml"
    config = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key != "tokenizer"}
    file.write_text(f"{yaml.safe_dump(config)}\ntokenizer: {{tokenizer_model: {named}}}\n")
    shutil.rmtree(made / "tokenizer")
    return folder / "model"


def data_file(folder: Path, name: str) -> Path:
    """Write a Megatron-Bridge checkpoint whose index names such a file of data."""
    file = tiny(folder / "model") / ".metadata"
    index = pickle.loads(file.read_bytes())
    next(iter(index.storage_data.values())).relative_path = name
    file.write_bytes(pickle.dumps(index))
    return folder / "model"


def safetensors(folder: Path, header: bytes, data: bytes = b"") -> Path:
    made = llama(folder)
    (made / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return made


def json_file(folder: Path, name: str, text: str) -> Path:
    made = tiny(folder / "model") if name == "metadata.json" else llama(folder)
    (made / name).write_text(text)
    return folder / "model"


def laughs(levels: int) -> bytes:
    """Return a pickle of arguments in which a list holds a list ten times, and so on: 10 ** levels in all."""
    value: Any = "x"
    for _ in range(levels):
        value = [value] * 10
    return pickle.dumps({"args": argparse.Namespace(num_layers=value, hidden_size=value)}, protocol=2)


def yaml_laughs(folder: Path, extra: str) -> Path:
    file = tiny(folder / "model") / "run_config.yaml"
    file.write_text(f"{extra}\n{file.read_text()}")
    return folder / "model"


def entry(shape: list[int], end: int) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(12))
MERGES = "\n".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" if n else "m0: &m0 {a: 1}" for n in range(12)
)

HOSTILE: dict[str, Callable[[Path], Path]] = {
    "layers": lambda f: bridge(f, num_layers=10**9),
    "layers_of_hf": lambda f: llama(f, num_hidden_layers=10**9),
    "heads": lambda f: bridge(f, num_attention_heads=10**9, num_query_groups=10**9),
    "ffn": lambda f: bridge(f, ffn_hidden_size=10**12),
    "ffn_of_hf": lambda f: llama(f, intermediate_size=10**12),
    "experts": lambda f: bridge(f, num_moe_experts=10**9, moe_ffn_hidden_size=128),
    "seq_length": lambda f: bridge(f, seq_length=99999999999),
    "positions_of_hf": lambda f: llama(f, max_position_embeddings=99999999999),
    "huge_number": lambda f: bridge(f, num_layers=10**4000),
    "infinite_base": lambda f: bridge(f, rotary_base=float("inf")),
    "pickle_of_zeros": lambda f: arguments(f, b"\x80\x02" + b"}" * 100_000_000 + b".", zipfile.ZIP_DEFLATED),
    "pickle_of_dicts": lambda f: arguments(f, b"\x80\x02" + b"}" * 1_000_000 + b"."),
    "pickle_of_sets": lambda f: arguments(f, b"\x80\x04" + b"\x8f" * 1_000_000 + b"."),
    "pickle_of_marks": lambda f: arguments(f, b"\x80\x02" + b"(" * 1_000_000 + b"."),
    "pickle_of_memos": lambda f: arguments(f, b"\x80\x04N" + b"\x94" * 1_000_000 + b"."),
    "pickle_of_deep_tuples": lambda f: arguments(f, b"\x80\x02)" + b"\x85" * 1_000_000 + b"}h\0s."),
    "pickle_of_a_deep_key": lambda f: arguments(f, b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns."),
    "pickle_that_laughs": lambda f: arguments(f, laughs(9)),
    "pickle_of_long_text": lambda f: arguments(f, b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."),
    "pickle_of_a_long_number": lambda f: arguments(f, b"\x80\x02\x8b" + struct.pack("<I", 2**20) + bytes(2**20) + b"."),
    "gguf_strings": lambda f: gguf_array(f, 8, 2**40),
    "gguf_bytes": lambda f: gguf_array(f, 0, 2**40),
    "gguf_arrays": lambda f: gguf_array(f, 9, 2**40),
    "gguf_keys": lambda f: gguf(f, struct.pack("<QQ", 0, 2**60), bytes(100)),
    "gguf_tensors": lambda f: gguf(f, struct.pack("<QQ", 2**60, 0), bytes(100)),
    "gguf_text": lambda f: gguf(f, struct.pack("<QQQ", 0, 1, 2**62), bytes(100)),
    "nemo_bomb": lambda f: nemo(f, "model_config.yaml", 100_000_000),
    "nemo_weights_bomb": lambda f: nemo(f, "model_weights/__0_0.distcp", 100_000_000),
    "nemo_link": lambda f: nemo(f, "model_config.yaml", 0, tarfile.SYMTYPE),
    "nemo_hard_link": lambda f: nemo(f, "model_config.yaml", 0, tarfile.LNKTYPE),
    "nemo_device": lambda f: nemo(f, "model_config.yaml", 0, tarfile.FIFOTYPE),
    "nemo_deep": lambda f: nemo(f, "d/" * 1500 + "f", 10),
    "nemo_long_names": nemo_long_names,
    "nemo_outside": lambda f: nemo(f, "../outside", 10),
    "nemo_absolute": lambda f: nemo(f, "/tmp/outside", 10),
    "deep_config": lambda f: json_file(f, "config.json", DEEP),
    "deep_metadata": lambda f: json_file(f, "metadata.json", DEEP),
    "deep_index": lambda f: json_file(f, "model.safetensors.index.json", DEEP),
    "deep_yaml": lambda f: yaml_laughs(f, f"deep: {DEEP[:900]}{DEEP[-900:]}"),
    "yaml_aliases": lambda f: yaml_laughs(f, ALIASES),
    "yaml_merges": lambda f: yaml_laughs(f, MERGES),
    "yaml_base_60": lambda f: yaml_laughs(f, "x: 1" + ":00" * 1_000_000),
    "yaml_base_60_fraction": lambda f: yaml_laughs(f, "x: !!float 1" + ":00" * 1_000_000 + ".5"),
    "yaml_base_2": lambda f: bridge_tokenizer(f, "0b" + "1" * 20_000),
    "yaml_itself": lambda f: yaml_laughs(f, "itself: &a [*a]"),
    "deep_header": lambda f: safetensors(f, DEEP.encode()),
    "empty_header": lambda f: safetensors(f, b"{}"),
    "no_header": lambda f: safetensors(f, b""),
    "list_header": lambda f: safetensors(f, b"[]"),
    "shape_beyond_bytes": lambda f: safetensors(f, entry([2**40, 2**40], 8), bytes(8)),
    "negative_shape": lambda f: safetensors(f, entry([-1, -2], 8), bytes(8)),
    "many_axes": lambda f: safetensors(f, entry([2**48 - 1] * 200_000, 4), bytes(4)),
    "many_axes_of_nothing": lambda f: safetensors(f, entry([0] * 200_000, 4), bytes(4)),
    "offsets_beyond_all": lambda f: safetensors(f, entry([1], 10**4000), bytes(4)),
    "long_part": lambda f: json_file(f, "model.safetensors.index.json", json.dumps({"weight_map": {"a": "a" * 300}})),
    "long_data_file": lambda f: data_file(f, "a" * 300),
    "bytes_beyond_file": lambda f: safetensors(f, entry([2**40], 2**42), bytes(8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_costs_more_than_its_size_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = HOSTILE[kind](tmp_path)
    with bounded(), pytest.raises(CheckpointError) as refused:
        detect(path).tokenizer()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize(
    "kind", ["layers_of_hf", "ffn_of_hf", "positions_of_hf", "deep_config", "deep_header", "gguf_strings"]
)
def test_the_huggingface_engine_refuses_them_too(kind: str, tmp_path: Path) -> None:
    path = HOSTILE[kind](tmp_path)
    with bounded(), pytest.raises(CheckpointError, match="model") as refused:
        source.read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json"])
def test_a_long_tokenizer_is_refused_unread(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(10**10)
    with bounded(), pytest.raises(CheckpointError, match=rf"{name}: 10000000000 bytes of metadata"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("word", ["9" * 5000, "\u0663", "", "0" * 10**6, "-1"])
def test_a_tracker_of_no_iteration_is_refused(word: str, tmp_path: Path) -> None:
    tiny(tmp_path / "model")
    (tmp_path / "model" / "latest_checkpointed_iteration.txt").write_text(word, encoding="utf-8")
    with bounded(), pytest.raises(CheckpointError, match="expected an iteration number"):
        detect(tmp_path / "model")


@pytest.mark.parametrize("overrides", [["mode=plan"], ["engine=huggingface"], []])
def test_the_program_ends_with_one_line(overrides: list[str], tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=10**9)
    ended = launch(tmp_path, *overrides)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert str(tmp_path / "model") in ended.stderr


def test_the_bounds_are_settings(tmp_path: Path) -> None:
    made = llama(tmp_path)
    file = made / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"note": "x" * 2_000_000}))
    assert detect(made).layout == "huggingface"
    with pytest.raises(
        CheckpointError, match=r"config\.json: .* bytes of metadata \(expected at most 1 MB, model\.bounds"
    ):
        detect(made, Bounds(metadata_mb=1))


def test_a_large_sparse_archive_of_weights_is_listed_and_not_read(tmp_path: Path) -> None:
    """A plain tar of 140 GB is one that people have: its size is no reason to refuse it."""
    file = tmp_path / "model.nemo"
    with tarfile.open(file, "w:") as tar:
        tar.addfile(tarfile.TarInfo("model_config.yaml"), io.BytesIO())
        member = tarfile.TarInfo("model_weights/__0_0.distcp")
        member.size = 140 * 10**9
        tar.addfile(member)
        end = tar.offset + member.size
    with file.open("r+b") as stream:
        stream.truncate(end + 10240)
    with bounded(), pytest.raises(CheckpointError, match=r"no model_weights/metadata\.json"):
        detect(file)


def test_two_tensors_over_each_other_are_refused(tmp_path: Path) -> None:
    made = llama(tmp_path)
    file = made / "model.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, file)
    file.write_bytes(file.read_bytes().replace(b'"data_offsets":[16,32]', b'"data_offsets":[0,16] '))
    with pytest.raises(CheckpointError, match="does not fit its bytes"):
        detect(made)


def test_parts_that_leave_numbers_out_are_refused(tmp_path: Path) -> None:
    """torch would leave the memory of the model as it was found."""
    iteration = tiny(tmp_path / "model")
    index = pickle.loads((iteration / ".metadata").read_bytes())
    index.state_dict_metadata["embedding.word_embeddings.weight"].chunks.clear()
    (iteration / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match="do not cover its shape"):
        detect(tmp_path / "model")
