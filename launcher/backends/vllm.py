"""vLLM, started with the flags that the settings stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.server_program import Option, ServerProgram, Switch
from launcher.core.errors import UserError
from launcher.core.ranges import Count
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.base import Deployment
from launcher.settings.component import component

FLAGS: Mapping[str, Option | Switch] = {
    "checkpoint": Option(),
    "model": Option("--served-model-name"),
    "tokenizer": Option("--tokenizer"),
    "dtype": Option("--dtype"),
    "context_length": Option("--max-model-len"),
    "tool_calls": Option("--tool-call-parser", with_="--enable-auto-tool-choice"),
    "tensor": Option("--tensor-parallel-size"),
    "pipeline": Option("--pipeline-parallel-size"),
    "data_parallel": Option("--data-parallel-size"),
    "expert": Switch("--enable-expert-parallel"),
    "memory_fraction": Option("--gpu-memory-utilization"),
    "max_logprobs": Option("--max-logprobs"),
    "prefix_caching": Switch("--enable-prefix-caching", "--no-enable-prefix-caching"),
    "host": Option("--host"),
    "port": Option("--port"),
}
NEUTRAL = ("--generation-config", "vllm")
"""Sampling defaults of OpenAI's API; the end tokens of ``generation_config.json`` still count."""

LONGER_CONTEXT = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def check_experts(expert: int, deployment: Deployment, data_parallel: int, key: str) -> None:
    """Raise `UserError` for a number of parts of the experts that vLLM does not make: it is all ranks, or one."""
    ranks = deployment.parallelism.tensor * data_parallel
    if expert not in (1, ranks):
        raise UserError(
            f"parallelism.expert={expert}: {key} spreads experts over all ranks; expected 1 or {ranks}, which is "
            "tensor * data_parallel"
        )


@component("backend/vllm")
class VLLM(Preset):
    """Starts vLLM. A Megatron or NeMo checkpoint is converted first, into a cache.

    The settings are those of all ready-made servers; see `launcher.backends.preset.Preset`.
    """

    server: ClassVar[ServerProgram] = ServerProgram(
        name="vllm",
        program="vllm serve",
        flags=FLAGS,
        install="pip install vllm, in an environment of its own",
        tried="0.32.0, on a CPU: `make vllm`",
        distribution="vllm",
        ready_path="/health",
        always=NEUTRAL,
        environment={"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": LOOPBACK},
        longer_context=LONGER_CONTEXT,
    )

    max_logprobs: Count | None = 20

    def _cpu_variables(self, cpus: int) -> dict[str, str]:
        """Return also what keeps vLLM from binding the threads of each replica to the same CPUs."""
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} | super()._cpu_variables(cpus)

    def _check(self, deployment: Deployment, allocation: Allocation) -> None:
        super()._check(deployment, allocation)
        check_experts(deployment.parallelism.expert, deployment, self.data_parallel, self._key)
