"""TensorRT-LLM's server, started with the flags that the settings stand for."""

from __future__ import annotations

from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.server_program import Option, ServerProgram
from launcher.settings.component import component


@component("backend/trtllm")
class TensorRTLLM(Preset):
    """Starts ``trtllm-serve`` of 1.0 or later. A Megatron or NeMo checkpoint is converted first, into a cache.

    It computes in the type of the weights. The settings are those of all ready-made servers; see
    `launcher.backends.preset.Preset`.
    """

    server: ClassVar[ServerProgram] = ServerProgram(
        name="tensorrt-llm",
        program="trtllm-serve serve",
        flags={
            "checkpoint": Option(),
            "tokenizer": Option("--tokenizer"),
            "context_length": Option("--max_seq_len"),
            "tensor": Option("--tp_size"),
            "pipeline": Option("--pp_size"),
            "expert": Option("--ep_size"),
            "memory_fraction": Option("--kv_cache_free_gpu_memory_fraction"),
            "host": Option("--host"),
            "port": Option("--port"),
        },
        install="pip install tensorrt-llm, in an environment of its own",
        distribution="tensorrt-llm",
        ready_path="/health",
        environment={"TRTLLM_NO_USAGE_STATS": "1"},
        note="1.0 or later; memory_fraction is that of what is free behind the weights",
    )
