"""No code of a checkpoint runs: not while it is opened, planned, loaded or served."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from launcher.checkpoints import detect
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import loading, source
from tests.checkpoints import test_huggingface
from tests.checkpoints.checkpoint_models import loaded
from tests.checkpoints.hostile import ASSETS, EXPLOITS, HARMLESS, STEP, Command, dotted, tiny

ROOT = Path(__file__).parents[2]


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launch.py", "model=checkpoint", f"model.path={folder / 'model'}", *overrides]
    command += [f"hydra.run.dir={folder / 'run'}", "tasks=[capitals]", "evaluate.limit=2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", EXPLOITS)
def test_no_exploit_runs_its_command(kind: str, tmp_path: Path) -> None:
    iteration, trace = tiny(tmp_path / "model"), tmp_path / "executed"
    EXPLOITS[kind](iteration / ".metadata", trace)
    if kind in HARMLESS:
        loaded(tmp_path / "model")
    else:
        with pytest.raises(CheckpointError, match=STEP) as refused:
            loaded(tmp_path / "model")
        assert "\n" not in str(refused.value)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["dotted", "as_object"])
def test_the_program_refuses_an_exploit_in_one_line(kind: str, tmp_path: Path) -> None:
    iteration, trace = tiny(tmp_path / "model"), tmp_path / "executed"
    EXPLOITS[kind](iteration / ".metadata", trace)
    ended = launch(tmp_path)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert f"{tmp_path / 'model' / STEP}" in ended.stderr
    assert not trace.exists()


def test_the_exploits_work_where_torch_reads_the_index(tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    iteration, trace = tiny(tmp_path / "model"), tmp_path / "executed"
    dotted(iteration / ".metadata", trace)
    pickle.loads((iteration / ".metadata").read_bytes())
    assert trace.exists()


def test_a_tensor_of_another_class_is_refused(tmp_path: Path) -> None:
    """torch's own safe loader allows more classes than a tensor's; here a tensor is all that is read."""
    iteration = tiny(tmp_path / "model")
    index = pickle.loads((iteration / ".metadata").read_bytes())
    place, info = next((p, i) for p, i in index.storage_data.items() if p.fqn == "decoder.final_layernorm.weight")
    data = iteration / info.relative_path
    info.offset = data.stat().st_size
    with data.open("ab") as stream:
        torch.save(torch.nn.Parameter(torch.ones(128, dtype=torch.bfloat16)), stream)
        stream.seek(0, 2)
        info.length = stream.tell() - info.offset
    (iteration / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match=r"distcp: .*'torch\._utils\._rebuild_parameter', which is not allowed"):
        loaded(tmp_path / "model")
    assert place.fqn in str(index.storage_data)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_optim_rng.pt"])
def test_pickled_weights_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    torch.save(Command(tmp_path / "executed"), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing"):
        detect(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("engine", ["megatron", "huggingface"])
def test_code_that_comes_with_a_model_never_runs(engine: str, tmp_path: Path) -> None:
    """`auto_map` names classes in files of the folder, which transformers would import if it trusted them."""
    model, trace = tmp_path / "model", tmp_path / "executed"
    config = test_huggingface.CONFIGS["llama"]()
    config.vocab_size, config.max_position_embeddings = 264, 512
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "tiny" / STEP / "tokenizer" / name, model / name)
    code = f"open({str(trace)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    (model / "custom.py").write_text(code)
    named = {"AutoConfig": "custom.C", "AutoModelForCausalLM": "custom.M", "AutoTokenizer": ["custom.M", "custom.M"]}
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((model / name).read_text()) | {"auto_map": named}
        (model / name).write_text(json.dumps(content))
    if engine == "megatron":
        loaded(model)
        detect(model).tokenizer()
    else:
        found = source.read(model)
        loading.load(found, torch.float32, torch.device("cpu"))
        found.tokenizer()
    assert not trace.exists()
