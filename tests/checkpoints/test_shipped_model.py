"""The shipped model, its items, and the script that made both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
import train_tiny

from launcher.checkpoints import detect
from tests.checkpoints.checkpoint_models import loaded

ROOT = Path(__file__).parents[2]
TINY, TASKS = ROOT / "launcher" / "assets" / "tiny", ROOT / "launcher" / "assets" / "tasks"
NAMES = ("addition", "capitals", "opposites", "sequences")


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in TINY.rglob("*") if file.is_file()) < 4 * 2**20


@pytest.mark.slow
def test_its_scores_are_those_of_its_provenance() -> None:
    stored = json.loads((TINY / "provenance.json").read_text())["scores"]
    found = train_tiny.evaluate(loaded(TINY), TASKS)
    assert found == pytest.approx(stored, abs=0.02)
    assert all(0.4 <= found[name] <= 0.95 for name in NAMES)


def test_the_items_are_those_of_the_generator(tmp_path: Path) -> None:
    tiny_tasks.write_items(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.jsonl").read_text() == (TASKS / f"{name}.jsonl").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_held_out_items_are_not_in_training(name: str) -> None:
    seen = {fact.prompt for kind in tiny_tasks.MIXTURE for fact in kind() if fact.seen}
    for item in items(name):
        assert (item.get("prompt", item.get("question")) in seen) == item["seen"]


@pytest.mark.parametrize("name", NAMES)
def test_items_are_whole(name: str) -> None:
    found = items(name)
    assert len({item["id"] for item in found}) == len(found) >= 60
    for item in found:
        if "choices" in item:
            assert len(set(item["choices"])) == 4
            assert 0 <= item["answer"] < 4


def test_a_chat_is_the_prompt_of_training() -> None:
    user = {"role": "user", "content": "7+5="}
    system = {"role": "system", "content": "Answer briefly."}
    answered = [user, {"role": "assistant", "content": "12"}, user]
    with closing(detect(TINY).tokenizer()) as tokenizer:
        assert "problem" not in tokenizer.chat_facts()
        assert tokenizer.encode_chat([user]) == list(b"7+5=")
        assert tokenizer.render_chat([system, user]) == "Answer briefly.\n7+5="
        assert tokenizer.encode_chat(answered) == [*b"7+5=12", 256, *b"7+5="]
        with pytest.raises(ValueError, match="role tool"):
            tokenizer.render_chat([{"role": "tool", "content": "x"}])


def test_the_tokenizer_is_single_bytes_and_an_end() -> None:
    tokenizer = detect(TINY).tokenizer()
    assert (tokenizer.vocab_size, tokenizer.eos_ids, tokenizer.bos_id) == (258, {256}, None)
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]


@pytest.mark.soak
def test_the_script_runs() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "examples" / "train_tiny.py"), "--check"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert '"addition"' in done.stdout
