"""The flags of ready-made servers stand in the packages that they are of, which are downloaded and not installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.backends.presets import PRESETS

PACKAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "vllm": ("vllm==0.33.0", ("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py")),
    "sglang": ("sglang==0.5.23", ("sglang/srt/arg_groups/fields/",)),
    "llama_cpp": ("llama-cpp-python==0.3.36", ("llama_cpp/server/settings.py",)),
}
"""Where each package says its flags."""


@pytest.mark.soak
@pytest.mark.parametrize("name", list(PACKAGES))
def test_the_package_has_these_flags(name: str, tmp_path: Path) -> None:
    requirement, files = PACKAGES[name]
    text = "\n".join(sources(requirement, files, tmp_path))
    server = PRESETS[name].server
    assert server.version in requirement
    words = [*(word for flag in server.flags.values() for word in str(flag).split(" / ")), *server.always]
    words += server.on_gpu
    for word in words:
        if word.startswith("--"):
            assert is_there(word, text), f"{requirement} has no {word}"


def is_there(flag: str, text: str) -> bool:
    """Tell whether a source names a flag, or a field that becomes it; ``--no-x`` is the other side of ``--x``."""
    plain = flag.removeprefix("--").removeprefix("no-")
    return f'"--{plain}"' in text or re.search(rf"^ +{plain.replace('-', '_')} *:", text, re.MULTILINE) is not None


def sources(requirement: str, files: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Download a distribution and yield the text of these files."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    for path in folder.iterdir():
        for name, content in members(path):
            if name.endswith(".py") and any(part in name for part in files):
                yield content.decode()


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(".py"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".py"):
                opened = archive.extractfile(member)
                assert opened is not None
                yield member.name, opened.read()
