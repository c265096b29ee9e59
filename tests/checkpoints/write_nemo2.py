"""Writes the NeMo 2.0 checkpoint in ``data/nemo2`` with NeMo itself, on a CPU, in an environment of its own.

    python3.11 -m venv nemo2env
    nemo2env/bin/pip install "torch==2.13.0" "nemo_toolkit[llm]==2.7.3" "pyarrow<21" "datasets<4" \
        "nemo_run==0.7.0" "leptonai<0.27"
    nemo2env/bin/python tests/checkpoints/write_nemo2.py launcher/assets/tiny/iter_0000800/tokenizer

The model has random weights. ``expected.json`` holds its logits, computed by the model that NeMo built, before it was
saved. Model, trainer, weights and context are all NeMo's own code. Two things are changed. Two calls to CUDA by
megatron-core's writer and attention return a value without CUDA. torch's metadata forgets this machine's folder.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import nemo.lightning as nl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface import AutoTokenizer
from nemo.lightning.ckpt_utils import ckpt_to_context_subdir
from nemo.lightning.io.pl import MegatronCheckpointIO, TrainerContext

OUT = Path(__file__).parent / "data" / "nemo2"
TOKENS = [5, 17, 3, 60, 42, 8, 11, 29, 50, 1, 33, 7]


@contextlib.contextmanager
def without_cuda() -> Iterator[None]:
    with (
        mock.patch.object(torch.cuda, "synchronize", return_value=None),
        mock.patch.object(torch.cuda, "current_device", return_value=torch.device("cpu")),
    ):
        yield


def main(tokenizer: Path) -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    torch.manual_seed(20)
    model = made(tokenizer)
    shutil.rmtree(OUT, ignore_errors=True)
    save(model)
    expected = {"tokens": TOKENS, "logits": logits(model.module)}
    (OUT / "expected.json").write_text(json.dumps(expected) + "\n")


def made(tokenizer: Path) -> llm.GPTModel:
    """Build the model as a NeMo recipe does, in the shape of a small Llama with biased attention."""
    config = llm.GPTConfig(
        num_layers=3,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=True,
        position_embedding_type="rope",
        rotary_base=5000,
        rotary_percent=0.5,
        seq_length=64,
        share_embeddings_and_output_weights=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        init_method_std=0.2,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        cross_entropy_loss_fusion=False,
        apply_rope_fusion=False,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
    )
    model = llm.GPTModel(config, tokenizer=AutoTokenizer(str(tokenizer)))
    model.configure_model()
    for parameter in model.module.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def save(model: llm.GPTModel) -> None:
    """Save weights and context as NeMo's checkpoint callback does."""
    trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=nl.MegatronStrategy(), logger=False, max_steps=1)
    trainer.strategy._lightning_module = model
    model.trainer = trainer
    state = {"epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.4.0"}
    state |= model.module.sharded_state_dict(prefix="module.")
    with without_cuda():
        MegatronCheckpointIO(parallel_save=False).save_checkpoint(state, str(OUT))
    forget_the_machine(OUT / "weights" / ".metadata")
    context = TrainerContext(model=model, trainer=trainer, extra={})
    context.io_dump(ckpt_to_context_subdir(str(OUT)), yaml_attrs=["model"])


def forget_the_machine(metadata: Path) -> None:
    """Take the folder's absolute name out of torch's metadata; nothing reads it."""
    known = pickle.loads(metadata.read_bytes())
    known.storage_meta.checkpoint_id = "weights"
    metadata.write_bytes(pickle.dumps(known))


@torch.no_grad()
def logits(module: torch.nn.Module) -> list[list[float]]:
    """Return the logits [length, vocabulary] of the model that NeMo built."""
    length = len(TOKENS)
    hidden = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
    with without_cuda():
        out = module.eval()(torch.tensor([TOKENS]), torch.arange(length)[None], hidden)
    return out[0].float().tolist()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
