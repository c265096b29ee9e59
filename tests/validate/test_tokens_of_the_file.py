"""The certificate notices a server whose token ids are not those of the checkpoint's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from launcher.api.app import create_app
from launcher.asgi.server import bind, server_log, serving
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer, from_folder
from launcher.checkpoints.tokenizers.templated import TemplatedTokenizer
from launcher.core.types import Check, Endpoint
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.checkpoints.tokenizer_inputs import backend, tokenizer_folder

NAME = "tokens of the file"
OTHERS = [name for name in certificate.NAMES if name != NAME]


async def checked(
    folder: Path, tokenizer: TemplatedTokenizer, vocabulary: Path | None, is_builtin: bool = True
) -> Check:
    runner = EchoAsyncEngine(Echo(), Model("echo"))
    runner.tokenizer = tokenizer  # of the echo engine only what tokenizes is asked
    app = create_app(runner)
    with bind("127.0.0.1", 0) as bound, server_log(folder / "log") as log, serving(app, bound, log, 2.0):
        endpoint = Endpoint(
            f"http://127.0.0.1:{bound.getsockname()[1]}/v1", "echo", "inline", "echo", is_builtin=is_builtin
        )
        checks = await certificate.validate(endpoint, Validate(skip=OTHERS), frozenset(Capability), vocabulary)
    return next(check for check in checks if check.name == NAME)


@pytest.mark.parametrize("pipeline", ["byte_level", "yi", "llama2", "metaspace"])
async def test_a_server_of_the_file_holds(pipeline: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "m", pipeline)
    for path in (folder, folder.parent, folder / "tokenizer.json"):
        check = await checked(tmp_path, from_folder(folder), path)
        assert check.ok, check.detail
        assert "texts as by tokenizer.json" in check.detail


@pytest.mark.parametrize(
    ("pipeline", "cls"), [("yi", "LlamaTokenizer"), ("byte_level", "GPT2Tokenizer"), ("llama2", "GemmaTokenizer")]
)
async def test_a_tokenizer_that_transformers_rebuilds_is_found(pipeline: str, cls: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "m", pipeline, config={"tokenizer_class": cls})
    rebuilt = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    check = await checked(tmp_path, HuggingFaceTokenizer(rebuilt, "rebuilt"), folder)
    assert check.ok is False
    assert f"differs from {folder / 'tokenizer.json'} at token" in check.detail


@pytest.mark.parametrize("change", ["normalizer", "no BOS", "a special token is text"])
async def test_any_other_difference_is_found(change: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "m", "llama2")
    spec = json.loads(backend("llama2").to_str())
    if change == "no BOS":
        spec["post_processor"] = None
    if change == "a special token is text":
        spec["added_tokens"] = [added for added in spec["added_tokens"] if added["content"] != "</s>"]
    other = Tokenizer.from_str(json.dumps(spec))
    if change == "normalizer":
        other.normalizer = normalizers.Sequence([normalizers.NFD(), other.normalizer])
    check = await checked(tmp_path, HuggingFaceTokenizer(other, "other"), folder)
    assert check.ok is False


async def test_without_a_file_it_does_not_apply(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "m")
    served = from_folder(folder)
    assert (await checked(tmp_path, served, None)).ok is None
    (tmp_path / "empty").mkdir()
    assert "no tokenizer.json" in (await checked(tmp_path, served, tmp_path / "empty")).detail
    tokenizer_folder(tmp_path / "two" / "a")
    tokenizer_folder(tmp_path / "two" / "b", "llama2")
    assert "several tokenizers" in (await checked(tmp_path, served, tmp_path / "two")).detail


async def test_a_server_of_another_program_that_says_its_tokens_is_asked(tmp_path: Path) -> None:
    folder, other = tokenizer_folder(tmp_path / "m"), tokenizer_folder(tmp_path / "other", "llama2")
    check = await checked(tmp_path, from_folder(folder), folder, is_builtin=False)
    assert check.ok, check.detail
    check = await checked(tmp_path, from_folder(folder), other, is_builtin=False)
    assert check.ok is False
    assert f"differs from {other / 'tokenizer.json'} at token" in check.detail
