"""Every language model of the installed transformers is served with its own logits, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from launcher.core.errors import CheckpointError
from launcher.engines.base import GenerationRequest
from launcher.engines.huggingface import HuggingFace
from launcher.settings.model import Model
from tests.engines import deployments
from tests.engines.answers import Answer, request, together
from tests.engines.huggingface.huggingface_models import FLAT, HOST, SEQUENTIAL, SIZES, byte_tokenizer

NUMBERS = torch.Generator().manual_seed(1)
PROMPTS = [torch.randint(3, 250, (length,), generator=NUMBERS).tolist() for length in (3, 20, 45, 70)]
MOST_PARAMETERS = 20_000_000
END = 256
"""The end of a text, which is not generated here. Words after it may be."""

KNOWN_SIZES: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_experts_per_tok", "num_kv_heads", "num_global_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "decoder_layers"), 3),
    **dict.fromkeys(("n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("n_embd", "d_model", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("ffn_dim", "decoder_ffn_dim", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("head_dim", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("global_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size"), 10),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim", "index_topk", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("n_positions", "max_seq_len"), 128),
    **{"vocab_size_per_layer_input": SIZES["vocab_size"], "num_kv_shared_layers": 0},
}
"""Sizes that a class gets if it has them."""

LATENT = {"num_key_value_heads": 4, "head_dim": None}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), LATENT),
    **dict.fromkeys(("glm_moe_dsa", "minicpm3", "sarvam_mla", "youtu"), LATENT),
    "cwm": {"bos_token_id": 1},
    "falcon": {"head_dim": None},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "modernbert-decoder": dict.fromkeys(("pad_token_id", "bos_token_id", "sep_token_id", "cls_token_id"), 1),
}
"""Further values; None leaves one out."""

REFUSED = {
    *("axk2", "bailing_hybrid", "bamba", "bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text"),
    *("deepseek_v32", "deepseek_v4", "dory", "electra", "ernie", "falcon_h1", "falcon_mamba", "glm_moe_dsa"),
    *("granitemoehybrid", "hy_v4", "inkling_text", "jamba", "kimi_linear", "lara_mini", "lfm2", "lfm2_moe", "lfm3"),
    *("longcat_flash", "mamba", "megatron-bert", "minimax", "nemotron_h", "olmo_hybrid", "openai-gpt"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "rwkv", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""What sees later tokens, keeps another state than keys and values, or fails at these sizes."""

NOT_MADE = {
    *(
        "blt",
        "emu3",
        "fuyu",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gemma4_assistant",
        "gemma4_unified",
        "gemma4_unified_assistant",
    ),
    *("git", "got_ocr2", "llama4", "mllama", "moss_transcribe_diarize", "phi4_multimodal", "qwen3_5", "qwen3_5_moe"),
    *("cohere_compass_text", "dbrx", "dots3_note", "dots3_note_text", "inkling2_loop_text", "inkling2_text", "mamba2"),
    *(
        "musicgen",
        "musicgen_melody",
        "prophetnet",
        "qwen4_exp",
        "reformer",
        "xlnet",
        "xlstm",
        "zamba",
        "zamba2",
        "zaya",
    ),
}
"""Models of several parts, and those whose classes take none of these sizes."""


def tiny(kind: str) -> Any:
    """Return a random model of a kind, whose norms and biases count as well."""
    known = CONFIG_MAPPING[kind]()
    values = SIZES | {name: size for name, size in KNOWN_SIZES.items() if _has(known, name) and name not in SIZES}
    values |= (FLAT | SEQUENTIAL).get(kind, {}) | OWN.get(kind, {})
    config = CONFIG_MAPPING[kind](
        **{name: value for name, value in values.items() if value is not None or name in SIZES}
    )
    with torch.device("meta"):
        size = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    assert size < MOST_PARAMETERS, f"{kind} is made too large"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_((0.15 if parameter.ndim > 1 else 0.1) * noise)
    return model.eval()


def _has(config: Any, name: str) -> bool:
    try:
        return hasattr(config, name)
    except Exception:  # some classes have it layer by layer, and raise an error of their own
        return False


@torch.no_grad()
def check(model: Any, prompt: list[int], found: Answer) -> None:
    """Compare an answer with one pass over all of it, without a cache."""
    tokens = [*prompt, *found.ids]
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0, :-1].log_softmax(-1)
    expected = logits.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    assert found.logprobs[1:] == pytest.approx(expected, abs=1e-4)
    best = logits[len(prompt) - 1 :, :END].amax(-1).tolist()
    assert all(chosen > most - 1e-4 for chosen, most in zip(expected[len(prompt) - 1 :], best, strict=True))


@pytest.mark.soak
@pytest.mark.parametrize("kind", sorted(set(CLASSES) - NOT_MADE))
async def test_it_is_served_as_transformers_computes_it_or_refused(kind: str, tmp_path: Path) -> None:
    tiny(kind).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    requests = [
        request(str(n), prompt, max_tokens=12, prompt_logprobs=0, logprobs=0) for n, prompt in enumerate(PROMPTS)
    ]
    if kind in REFUSED:
        with pytest.raises(CheckpointError, match=r"^[^\n]*$"):
            await _served(tmp_path, requests)
        return
    answers = await _served(tmp_path, requests)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    for prompt, found in zip(PROMPTS, answers, strict=True):
        check(model, prompt, found)


async def _served(folder: Path, requests: Sequence[GenerationRequest]) -> list[Answer]:
    with deployments.load(HuggingFace(), Model(path=str(folder)), HOST) as runner:
        return await together(runner, requests)
