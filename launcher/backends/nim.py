"""NVIDIA NIM for language models: a container, started with the flags that the settings stand for."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from launcher.backends.preset import Preset
from launcher.backends.served_checkpoint import ServedCheckpoint
from launcher.backends.server_program import Option, ServerProgram
from launcher.backends.vllm import FLAGS, LONGER_CONTEXT, NEUTRAL, check_experts
from launcher.core.errors import UserError
from launcher.core.ranges import Count, Seconds
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.component import component

INSIDE = "/opt/checkpoint"
"""Where the container sees the checkpoint."""
INNER_PORT = 8000


@component("backend/nim")
class NIM(Preset):
    """Starts the container ``image`` of NVIDIA NIM 2 with docker, and gives its vLLM the settings.

    A Megatron or NeMo checkpoint is converted first, into a cache; the container sees the folder read-only.
    ``key_env`` is the variable that holds the key of NVIDIA's registry, which the container gets by its name.
    The other settings are those of all ready-made servers; see `launcher.backends.preset.Preset`.
    """

    identity_fields: ClassVar[frozenset[str]] = Preset.identity_fields | {"image"}
    server: ClassVar[ServerProgram] = ServerProgram(
        name="nim",
        program="docker run",
        flags={name: flag for name, flag in FLAGS.items() if name not in ("checkpoint", "tokenizer", "host", "port")}
        | {"checkpoint": Option("NIM_MODEL_PATH"), "host": Option("--publish"), "port": Option("--publish")},
        install="install docker and NVIDIA's container toolkit",
        ready_path="/v1/health/ready",
        always=NEUTRAL,
        environment={"VLLM_NO_USAGE_STATS": "1", "NIM_TELEMETRY_MODE": "0"},
        note="2.0.1 or later, an image with vLLM",
        longer_context=LONGER_CONTEXT,
    )

    image: str | None = None
    key_env: str = "NGC_API_KEY"
    max_logprobs: Count | None = 20
    stop_timeout_s: Seconds = 60.0

    def _check(self, deployment: Deployment, allocation: Allocation) -> None:
        super()._check(deployment, allocation)
        check_experts(deployment.parallelism.expert, deployment, self.data_parallel, self._key)
        if self.replicas > 1:
            raise UserError(
                f"backend.replicas={self.replicas}: a container outlives its docker run, so that none can be replaced; "
                "backend.data_parallel has several models in one container"
            )
        if not self.image:
            raise UserError("backend.image: backend=nim needs the container's image, such as nvcr.io/nim/<name>:<tag>")
        if "sglang" in self.image.rsplit("/", 1)[-1]:
            raise UserError(
                f"backend.image={self.image}: serves with SGLang, and backend=nim gives it the flags of vLLM; take an "
                "image with vLLM, such as nvcr.io/nim/nvidia/vllm-model-free-nim:<tag>"
            )

    def command(self, deployment: Deployment, source: ServedCheckpoint, port: int | str, gpus: int = 0) -> list[str]:
        """Return ``docker run`` with the folder and the port, and the flags of vLLM behind ``nim-serve``."""
        values = self._values(deployment, source, port)
        inner = {name: value for name, value in values.items() if name not in ("checkpoint", "host", "port")}
        if (tokenizer := inner["tokenizer"]) is not None:
            raise UserError(f"model.tokenizer={tokenizer}: backend=nim sees only the checkpoint; put it in its folder")
        self._refuse_lost(values)
        local = Path(source.path).is_absolute()
        mount = ["--volume", f"{source.path}:{INSIDE}:ro"] if local else []
        variables = {"NIM_MODEL_PATH": INSIDE if local else f"hf://{source.path}", **self._neutral()}
        return [
            *self._program(),
            *("--rm", "--gpus", "all", "--env", self.key_env, "--publish", f"{self.host}:{port}:{INNER_PORT}"),
            *mount,
            *(word for name, value in (variables | self.environment).items() for word in ("--env", f"{name}={value}")),
            str(self.image),
            "nim-serve",
            *self.server.words(inner | dict.fromkeys(("checkpoint", "host", "port"))),
            *self._split("arguments", self.arguments),
        ]
