"""``transformers serve``, started with the flags that the settings stand for."""

from __future__ import annotations

from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.server_program import Option, ServerProgram
from launcher.settings.component import component


@component("backend/transformers_serve")
class TransformersServe(Preset):
    """Starts ``transformers serve``. A Megatron or NeMo checkpoint is converted first, into a cache.

    It returns no log-probabilities of a prompt, so that only tasks that generate text can be scored. The settings are
    those of all ready-made servers; see `launcher.backends.preset.Preset`.
    """

    server: ClassVar[ServerProgram] = ServerProgram(
        name="transformers",
        program="transformers serve",
        flags={
            "checkpoint": Option(),
            "dtype": Option("--dtype"),
            "host": Option("--host"),
            "port": Option("--port"),
        },
        install="pip install 'transformers[serving]'",
        tried="5.24.0, on a CPU: in the tests",
        distribution="transformers",
        ready_path="/health",
        environment={"HF_HUB_OFFLINE": "1"},
        note="no log-probabilities of prompts: only tasks that generate",
    )
