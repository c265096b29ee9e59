"""Reads a folder that ``launcher convert`` wrote, with NeMo itself, in the environment of ``write_nemo2.py``.

    nemo2env/bin/python -m tests.checkpoints.read_nemo2 FOLDER

NeMo makes the model and its tokenizer from ``io.json``, megatron-core fills it from ``weights/``. It prints the logits
of some tokens, which the launcher's own reader gives for the same folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from nemo.lightning import io
from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

from tests.checkpoints.write_nemo2 import TOKENS, logits, without_cuda


def main(folder: Path) -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    model = io.load_context(Path(ckpt_to_context_subdir(str(folder))), subpath="model")
    model.config.use_cpu_initialization = True
    model.config.gradient_accumulation_fusion = False
    model.configure_model()
    wanted = model.module.sharded_state_dict(prefix="module.")
    with without_cuda():
        found = dist_checkpointing.load(wanted, str(folder / "weights"), strict=StrictHandling.RAISE_UNEXPECTED)
    state = {key.removeprefix("module."): value for key, value in found.items()}
    print(model.module.load_state_dict(state, strict=False), file=sys.stderr)
    tokens = None if model.tokenizer is None else model.tokenizer.text_to_ids("7+5=")
    model.module.float()
    model.module.config.params_dtype = torch.float32
    print(json.dumps({"model": type(model).__name__, "tokens": TOKENS, "text": tokens, "logits": logits(model.module)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
