"""How a checkpoint is converted."""

from __future__ import annotations

from enum import Enum

from launcher.core.ranges import Positive
from launcher.settings.component import component
from launcher.settings.model import Dtype


class Layout(Enum):
    """The layout to convert into.

    ``hf`` is a Hugging Face folder of safetensors. ``torch_dist`` is a distributed checkpoint of megatron-core with
    Megatron-Bridge's configuration, ``nemo2`` a NeMo 2.0 folder, and ``gguf`` a folder with ``model.gguf``.
    """

    hf = "hf"
    torch_dist = "torch_dist"
    nemo2 = "nemo2"
    gguf = "gguf"


class Quantize(Enum):
    """How matrices are quantised; ``q8_0`` is that of llama.cpp: 8 bits, and a scale for 32 numbers."""

    none = "none"
    q8_0 = "q8_0"


@component("convert/convert")
class Convert:
    """What ``mode=convert`` makes of the checkpoint at ``model.path``.

    ``path`` is the folder to write: a new or empty one, or one in which the same conversion was interrupted. ``format``
    is the layout to write, and ``dtype`` the type of the weights; ``auto`` keeps the checkpoint's own. A file of
    weights has at most ``shard_gb`` GB of 10**9 bytes. ``quantize`` is for ``gguf``, whose one file ``shard_gb`` does
    not cut. Without ``tokenizer``, only weights and configuration are written.
    """

    path: str = ""
    format: Layout = Layout.hf
    dtype: Dtype = Dtype.auto
    shard_gb: Positive = 5.0
    quantize: Quantize = Quantize.none
    tokenizer: bool = True
