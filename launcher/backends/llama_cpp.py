"""llama-cpp-python's server, started with the flags that the settings stand for."""

from __future__ import annotations

from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.server_program import Option, ServerProgram
from launcher.settings.component import component


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
        version="0.3.36",
        source="llama_cpp/server/settings.py of the package",
        install="pip install 'llama-cpp-python[server]', which compiles for minutes",
        distribution="llama-cpp-python",
        reads="gguf",
        answers_while_busy=False,
        note="without context_length, 2,048 tokens",
    )
