"""Prints how many bytes a stage keeps resident, and how many are estimated; a module to run with ``python -m``."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace

import psutil

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.claims import parameters
from launcher.engines.megatron import layout
from launcher.engines.runtime.dtypes import BYTES
from tests.engines.megatron.tiny_models import TINY, worker_config


def anonymous() -> int:
    """Return the resident bytes of this process that no file backs."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def main(*, tied: bool) -> None:
    with worker_config().stage(0):  # what is loaded and made once is not of the model
        pass
    shape: Architecture = replace(TINY, vocab_size=65536, hidden_size=512, ffn_hidden_size=1024, tied=tied)
    config = worker_config(shape)
    before = anonymous()
    with config.stage(0) as stage:
        cache = (
            config.num_blocks
            * config.block_size
            * layout.cache_bytes_per_token(shape, config.parallelism, config.dtype)
        )
        for layer in stage._model.decoder.layers:
            layer.self_attention.cache.fill_(1)  # zeros are not resident before they are written
        grown = anonymous() - before
    packed = layout.packed_output_bytes(shape, config.parallelism, config.dtype, config.device)
    estimate = parameters(shape) * BYTES[config.dtype] + cache + packed
    print(json.dumps({"grown": grown, "estimate": estimate, "packed": packed}))


if __name__ == "__main__":
    main(tied=sys.argv[1] == "tied")
