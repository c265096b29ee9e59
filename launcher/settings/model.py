"""What is loaded, how it is spread over processes, and how it is sped up."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from launcher.core.ranges import Count, Range, Seconds
from launcher.settings.component import component

MOST = 10**6
"""The largest bound: no file is larger."""

Bound = Annotated[int, Range(1, MOST)]


@dataclass
class Bounds:
    """Bounds on what reading a checkpoint may cost; a file that exceeds one is refused.

    ``metadata_mb`` is how much is read into memory of one file that describes the model (JSON, YAML, pickle, header),
    in MB of 10**6 bytes. ``unpacked_ratio`` is how many times its own size an archive may become when it is unpacked.
    """

    metadata_mb: Bound = 64
    unpacked_ratio: Bound = 20


class ToolCallParser(Enum):
    """The form in which a model writes calls of tools, with vLLM's names; ``auto`` finds it in the chat template."""

    auto = "auto"
    hermes = "hermes"
    llama3_json = "llama3_json"
    mistral = "mistral"
    pythonic = "pythonic"
    qwen3_coder = "qwen3_coder"
    glm45 = "glm45"
    glm47 = "glm47"
    deepseek_v3 = "deepseek_v3"
    deepseek_v31 = "deepseek_v31"
    deepseek_v32 = "deepseek_v32"
    deepseek_v4 = "deepseek_v4"
    kimi_k2 = "kimi_k2"
    granite = "granite"
    none = "none"

    @property
    def asked(self) -> str | None:
        """Return the form to tell another program's server; None for ``auto`` and ``none``, which it decides."""
        return None if self in (ToolCallParser.auto, ToolCallParser.none) else self.value


@component("model/model")
class Model:
    """A checkpoint and the name under which it is served.

    ``name`` is the model's name in requests. ``path`` is a file or folder, or ``package:<python package>/<file>``;
    empty for engines that need no weights. ``tokenizer`` is a folder or file when the checkpoint does not bring its
    own. ``peft`` is the folder of a LoRA, DoRA or IA3 adapter of peft, NeMo 2.0 or Megatron-Bridge. It is merged into
    the weights when they are read. ``context_length`` in tokens, when it should be less than what the checkpoint
    says. A chat template may compute for ``chat_template_timeout_s`` seconds for one conversation, and write
    ``chat_template_max_mb`` MB beyond its messages. ``tool_call_parser`` is the form of the model's tool calls.
    ``hermes`` is also that of Qwen 2.5 and 3, ``qwen3_coder`` also that of Qwen 3.5; ``none`` refuses tools, and
    ``auto`` finds the form in the chat template.
    """

    name: str = "model"
    path: str = ""
    tokenizer: str | None = None
    peft: str | None = None
    context_length: Count | None = None
    chat_template_timeout_s: Seconds = 1.0
    chat_template_max_mb: Annotated[float, Range(above=0, most=MOST)] = 1.0
    tool_call_parser: ToolCallParser = ToolCallParser.auto
    bounds: Bounds = field(default_factory=Bounds)


@component("parallelism/parallelism")
class Parallelism:
    """How one instance of the model is spread over processes: ``tensor * pipeline * context`` of them.

    ``tensor`` processes split each layer, ``pipeline`` is the number of stages of layers, and ``context`` splits each
    sequence. ``expert`` splits the experts of a mixture over the tensor-parallel processes, so it must divide
    ``tensor``.
    """

    tensor: Count = 1
    pipeline: Count = 1
    context: Count = 1
    expert: Count = 1

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context


class Dtype(Enum):
    """The floating point type of weights and compute; ``auto`` is fp32 on CPU and the checkpoint's own on GPU."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@component("optimizations/optimizations")
class Optimizations:
    """Requested optimizations; which are active is decided before the model loads, and recorded with the reason.

    ``dtype`` is the type of the weights. ``auto`` takes the checkpoint's on a GPU, and fp32 on a CPU. ``cuda_graphs``
    replays decode steps that a GPU has recorded. ``flash_decode`` decodes by a kernel over the paged cache,
    ``flash_attention`` reads prompts by fused attention. ``prefix_caching`` computes a shared beginning of prompts
    once.

    ``batch_invariant`` makes answers bit for bit independent of the other requests in the batch. It computes one
    sequence after the other, which is slower.
    """

    dtype: Dtype = Dtype.auto
    cuda_graphs: bool = False
    flash_decode: bool = False
    flash_attention: bool = False
    prefix_caching: bool = True
    batch_invariant: bool = False


@dataclass(frozen=True)
class OptimizationStatus:
    """One optimization as resolved: asked for or not, active or not, and why not."""

    name: str
    asked: bool
    active: bool
    reason: str = ""
