"""llama-cpp-python's server, started with the flags that the settings stand for."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.served_checkpoint import ServedCheckpoint
from launcher.backends.server_program import Option, ServerProgram
from launcher.engines.base import Deployment
from launcher.settings.component import component

MODULE = ["-m", "llama_cpp.server"]
NEUTRAL = Path(__file__).with_name("llama_cpp_server.py")
"""Starts the same server with neutral sampling: it has no flag for that."""


@component("backend/llama_cpp")
class LlamaCpp(Preset):
    """Starts llama-cpp-python's server for a ``.gguf`` file. It computes in the type of the file, in one process.

    The settings are those of all ready-made servers; see `launcher.backends.preset.Preset`.
    """

    server: ClassVar[ServerProgram] = ServerProgram(
        name="llama-cpp-python",
        program="python -m llama_cpp.server",
        flags={
            "checkpoint": Option("--model"),
            "model": Option("--model_alias"),
            "context_length": Option("--n_ctx"),
            "host": Option("--host"),
            "port": Option("--port"),
        },
        install="pip install 'llama-cpp-python[server]', which compiles for minutes",
        tried="0.3.36, on a CPU: `make soak`",
        distribution="llama-cpp-python",
        reads="gguf",
        always=("--interrupt_requests", "false"),
        on_gpu=("--n_gpu_layers", "-1"),
        answers_while_busy=False,
        note="without context_length, 2,048 tokens",
    )

    def command(self, deployment: Deployment, source: ServedCheckpoint, port: int | str, gpus: int = 0) -> list[str]:
        """Return the command, of which a module of Python is started by `NEUTRAL`."""
        program, *rest = super().command(deployment, source, port, gpus)
        return [program, str(NEUTRAL), *rest[2:]] if rest[:2] == MODULE else [program, *rest]
