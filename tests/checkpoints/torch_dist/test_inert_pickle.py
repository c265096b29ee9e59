"""Pickles read without running anything that they name."""

from __future__ import annotations

import argparse
import enum
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoints.torch_dist.archive import read_arguments
from launcher.core.errors import CheckpointError


class Backend(enum.Enum):
    auto = 5


class Loud:
    def __init__(self) -> None:
        self.content = 1

    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def test_arguments_come_without_the_objects_around_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(num_layers=2, params_dtype=torch.bfloat16, backend=Backend.auto, loud=Loud(), sizes=[1])
    content = {"args": args, "optimizer": {"step": torch.ones(3)}, "shape": torch.Size([2])}
    torch.save(content, tmp_path / "common.pt")
    found = read_arguments(tmp_path / "common.pt")
    assert (found["num_layers"], found["params_dtype"], found["sizes"]) == (2, "bfloat16", [1])
    assert "never" not in capsys.readouterr().out


def test_what_arguments_hold_is_flat_and_short_to_print(tmp_path: Path) -> None:
    value: Any = "x"
    for _ in range(9):
        value = [value] * 10
    torch.save({"args": argparse.Namespace(laughs=value, nested={"a": value}, loud=Loud())}, tmp_path / "common.pt")
    found = read_arguments(tmp_path / "common.pt")
    assert repr(found) == "{'laughs': <builtins.list>, 'nested': <builtins.dict>, 'loud': <__builtin__.print>}"


def test_a_file_without_arguments_has_none(tmp_path: Path) -> None:
    torch.save({"iteration": 3}, tmp_path / "common.pt")
    assert read_arguments(tmp_path / "common.pt") == {}


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"garbage"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "common.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"common\.pt: not a file of torch\.save"):
        read_arguments(tmp_path / "common.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"common\.pt: cannot be read"):
        read_arguments(tmp_path / "common.pt")
