"""How a checkpoint is converted."""

from __future__ import annotations

from enum import Enum

from launcher.core.ranges import Positive
from launcher.settings.component import component
from launcher.settings.model import Dtype


class Format(Enum):
    """The layout to convert into; ``hf`` is a Hugging Face folder of safetensors."""

    hf = "hf"


@component("convert/convert")
class Convert:
    """What ``mode=convert`` makes of the checkpoint at ``model.path``.

    ``path`` is the folder to write: a new or empty one, or one in which the same conversion was interrupted. ``format``
    is the layout to write, and ``dtype`` the type of the weights; ``auto`` keeps the checkpoint's own. A file of
    weights has at most ``shard_gb`` GB of 10**9 bytes. Without ``tokenizer``, only weights and configuration are
    written.
    """

    path: str = ""
    format: Format = Format.hf
    dtype: Dtype = Dtype.auto
    shard_gb: Positive = 5.0
    tokenizer: bool = True
