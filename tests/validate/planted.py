"""Engines whose batched, cached path has one error that their plain forward pass has not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.engines.megatron import Megatron

Plant = Callable[[Any], None]
"""Puts an error into a stage of the Megatron engine."""


def engine(plant: Plant) -> Megatron:
    """Return an engine that is sound but for what ``plant`` does to its stage once it is loaded."""
    made = Megatron()
    load = made.load

    @contextmanager
    def broken(*given: Any) -> Iterator[Any]:
        with load(*given) as runner:
            plant(runner._executor._stage)  # type: ignore[attr-defined]
            yield runner

    made.load = broken  # type: ignore[method-assign, assignment]
    return made


def perturbed(share: float) -> Plant:
    """Change each weight of one matrix of one layer at random, by ``share`` of itself (root mean square)."""

    def plant(stage: Any) -> None:
        import torch

        weight = stage._model.decoder.layers[1].mlp.linear_fc2.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
        sound, wrong = weight.data, weight.data * (1 + share * noise)
        compute = stage.compute

        def computing(plan: Any) -> Any:
            weight.data = wrong
            try:
                return compute(plan)
            finally:
                weight.data = sound

        stage.compute = computing

    return plant


def another_theta(stage: Any) -> None:
    """Turn by the angles of a rotary base that is a tenth too large."""
    import torch

    from launcher.engines.runtime.paged import Rope

    layout, table = stage._metadata_builder, stage._model.rotary_pos_emb.table
    half = table.shape[1] // 2
    slower = 1.1 ** -(torch.arange(half) / half)
    stage._metadata_builder = replace(layout, rope=Rope.of(table * torch.cat((slower, slower)), False, layout.dtype))


def off_by_one_block(stage: Any) -> None:
    """Read and write each sequence's second block where its first one is."""
    compute = stage.compute

    def computing(plan: Any) -> Any:
        chunks = [c._replace(blocks=[c.blocks[0], *c.blocks[:-1]]) for c in plan.chunks]
        return compute(replace(plan, chunks=chunks))

    stage.compute = computing


def noisy(stage: Any) -> None:
    """Add noise to the logits of every pass that is not computed in the wider type."""
    import torch

    plain = stage.plain
    generator = torch.Generator().manual_seed(0)

    def passing(tokens: Any, exact: bool = False) -> Any:
        logits = plain(tokens, exact)
        return logits if exact else logits + 3 * torch.randn(logits.shape, generator=generator).to(logits)

    stage.plain = passing


def near_ties(folder: Path) -> Path:
    """Write a random model of transformers whose logits hardly differ, with a tokenizer of one token per byte."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"vocab_size": 264, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = LlamaConfig(**sizes, **heads, bos_token_id=None, eos_token_id=256, initializer_range=0.02)
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(folder)
    return folder
