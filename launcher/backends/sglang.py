"""SGLang, started with the flags that the settings stand for."""

from __future__ import annotations

from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.server_program import Option, ServerProgram, Switch
from launcher.settings.component import component


@component("backend/sglang")
class SGLang(Preset):
    """Starts SGLang. A Megatron or NeMo checkpoint is converted first, into a cache.

    The settings are those of all ready-made servers; see `launcher.backends.preset.Preset`.
    """

    server: ClassVar[ServerProgram] = ServerProgram(
        name="sglang",
        program="python -m sglang.launch_server",
        flags={
            "checkpoint": Option("--model-path"),
            "model": Option("--served-model-name"),
            "tokenizer": Option("--tokenizer-path"),
            "dtype": Option("--dtype"),
            "context_length": Option("--context-length"),
            "tensor": Option("--tp-size"),
            "pipeline": Option("--pp-size"),
            "data_parallel": Option("--dp-size"),
            "expert": Option("--ep-size"),
            "memory_fraction": Option("--mem-fraction-static"),
            "prefix_caching": Switch(off="--disable-radix-cache"),
            "host": Option("--host"),
            "port": Option("--port"),
        },
        install="pip install sglang, in an environment of its own",
        distribution="sglang",
        ready_path="/health",
        always=("--sampling-defaults", "openai"),
        note="context parallelism needs flags for each kind of model: `backend.arguments`",
        longer_context="SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN",
    )
