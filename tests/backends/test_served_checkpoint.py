"""What a ready-made server gets: a conversion that is whole, to the last bit."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.backends.llama_cpp import LlamaCpp
from launcher.backends.served_checkpoint import ServedCheckpoint, served_checkpoint
from launcher.backends.vllm import VLLM
from launcher.checkpoints import detect
from tests.backends.presets import TINY, deployment


def gotten(preset: type[VLLM | LlamaCpp], folder: Path, cache: Path) -> ServedCheckpoint:
    return served_checkpoint(deployment(folder), preset.server, cache, "cpu", "backend")


def test_a_damaged_conversion_is_found_before_it_is_served(tmp_path: Path) -> None:
    made = gotten(VLLM, tmp_path, tmp_path / "cache")
    made.convert(lambda line: None)
    file = Path(made.path) / "model.safetensors"
    whole, about = file.read_bytes(), file.stat()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    lines: list[str] = []
    gotten(VLLM, tmp_path, tmp_path / "cache").convert(lines.append)
    assert file.read_bytes() == whole
    assert lines == ["model.safetensors: 26 parameters"]
    gotten(VLLM, tmp_path, tmp_path / "cache").convert(lines.append)
    assert len(lines) == 1


def test_llama_cpp_gets_a_gguf_file(tmp_path: Path) -> None:
    made = gotten(LlamaCpp, tmp_path, tmp_path / "cache")
    made.convert(lambda line: None)
    assert Path(made.path).name == "model.gguf"
    served, source = detect(Path(made.path)), detect(Path(TINY))
    assert served.architecture.num_layers == source.architecture.num_layers
    assert served.tokenizer().encode("7+5=") == source.tokenizer().encode("7+5=")
