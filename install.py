"""Create ``.venv`` with what the given extras need, choosing a CPU build of torch where there is no GPU.

Usage: ``python3 install.py [extra ...]``. Safe to repeat: nothing is installed while pyproject.toml, the extras and
pip's constraints (``PIP_CONSTRAINT``, which CI sets) stay the same. It uses only the standard library, because nothing
else is installed yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TORCH = "torch==2.13.0"
NEEDS_TORCH = {"megatron", "all"}


def main(extras: list[str]) -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"install.py: Python 3.11 or newer is needed, this is {platform.python_version()} ({sys.executable})")
    stamp = VENV / "installed.json"
    wanted = _done(stamp) | set(extras)
    files = [ROOT / "pyproject.toml", *map(Path, os.environ.get("PIP_CONSTRAINT", "").split())]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
    state: dict[str, object] = {"pyproject": digest, "extras": sorted(wanted)}
    if _state(stamp) != state:
        _install(wanted)
        stamp.write_text(json.dumps(state))
    _compile()


def _install(wanted: set[str]) -> None:
    if not PYTHON.exists():
        _say(f"creating {VENV.name} with Python {platform.python_version()}")
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    if wanted & NEEDS_TORCH and not _installed("torch"):
        _install_torch()
    _say(f"installing the launcher with extras: {', '.join(sorted(wanted)) or 'none'}")
    _pip("install", "--editable", f"{ROOT}[{','.join(sorted(wanted))}]" if wanted else str(ROOT))


def _compile() -> None:
    """Write the bytecode of changed modules; with ``PYTHONDONTWRITEBYTECODE``, each process would compile them."""
    _quiet(str(PYTHON), "-m", "compileall", "-q", str(ROOT / "launcher"))


def _state(stamp: Path) -> dict[str, object]:
    return json.loads(stamp.read_text()) if stamp.exists() and PYTHON.exists() else {}


def _done(stamp: Path) -> set[str]:
    """Extras that are there already: a later call for fewer of them takes nothing away."""
    extras = _state(stamp).get("extras", [])
    return set(extras) if isinstance(extras, list) else set()


def _install_torch() -> None:
    """Install the default torch where a GPU (or macOS) wants it, otherwise a build without CUDA packages."""
    if sys.platform != "linux" or _has_gpu():
        _say(f"installing {TORCH}")
        _pip("install", TORCH)
    elif _index_has_cpu_build():
        _say(f"installing {TORCH}: no GPU found, and the package index offers a CPU build")
        _pip("install", TORCH)
    else:
        _say(f"installing {TORCH}: no GPU found, taking PyTorch's own CPU build by way of uv")
        _pip("install", "uv")
        _run(str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON), "--torch-backend", "cpu", TORCH)


def _has_gpu() -> bool:
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


def _index_has_cpu_build() -> bool:
    """Ask pip which torch it would take: a CPU build requires no package of NVIDIA's."""
    ask = [str(PYTHON), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--report", "-", TORCH]
    answer = subprocess.run(ask, capture_output=True, text=True)
    if answer.returncode != 0:
        return False
    metadata = json.loads(answer.stdout)["install"][0]["metadata"]
    needs = " ".join(metadata.get("requires_dist", [])).lower()
    return "+cpu" in metadata["version"] or not ("nvidia" in needs or "cuda" in needs)


def _installed(package: str) -> bool:
    return _quiet(str(PYTHON), "-m", "pip", "show", "--quiet", package)


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _pip(*arguments: str) -> None:
    _run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, env=os.environ | {"PIP_PROGRESS_BAR": os.environ.get("PIP_PROGRESS_BAR", "on")})
    if done.returncode != 0:
        sys.exit(f"install.py: this failed with status {done.returncode}: {' '.join(command)}")


def _say(line: str) -> None:
    print(f"== {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
