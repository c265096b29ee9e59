"""Tasks of lm-eval of every kind over small local data, and a server of the launcher's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.core.types import Endpoint

ROOT = Path(__file__).parent.parent.parent.parent
NUMBERS = [f"{n}+{n + 3}" for n in range(2, 14)]
GENERATION = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}=",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
TASKS: dict[str, dict] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}=",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "num_fewshot": 2,
        "fewshot_split": "test",
        "metric_list": [{"metric": m} for m in ("acc", "acc_norm", "acc_mutual_info", "mcc", "brier_score")],
    },
    "inputs": {  # as winogrande: one context for each choice
        "output_type": "multiple_choice",
        "doc_to_text": "label",
        "doc_to_choice": "{{[question ~ ' a ', question ~ ' the ']}}",
        "doc_to_target": "={{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "texts": {
        **GENERATION,
        "filter_list": [
            {
                "name": "strict",
                "filter": [{"function": "regex", "regex_pattern": "^(\\d+)$"}, {"function": "take_first"}],
            },
            {
                "name": "flexible",
                "filter": [{"function": "regex", "regex_pattern": "(\\d)"}, {"function": "take_first"}],
            },
        ],
        "metric_list": [
            *GENERATION["metric_list"],
            {"metric": "bleu", "aggregation": "bleu", "higher_is_better": True},
        ],
        "num_fewshot": 3,
        "fewshot_split": "test",
    },
    "votes": {
        **GENERATION,
        "repeats": 3,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": True, "temperature": 1.5},
        "filter_list": [
            {"name": "maj", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
            {"name": "first", "filter": [{"function": "take_first"}]},
        ],
    },
    "ends": {  # as lambada
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}=",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc"},
        ],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}


@pytest.fixture(autouse=True)
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep lm-eval's own evaluation, to compare with, from forking this process, which has threads."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.fixture(scope="session")
def lm_eval_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of YAML files: `TASKS`, and a group over two of them."""
    folder = tmp_path_factory.mktemp("lm_eval_tasks")
    data = folder / "items.jsonl"
    with data.open("w") as file:
        for n, question in enumerate(NUMBERS):
            right = 2 * int(question.split("+")[0]) + 3
            choices = [str(right + shift) for shift in (0, 1, 10, -2)]
            moved = choices[n % 4 :] + choices[: n % 4]
            page = f"{question}={right} the café " * (9 * (n + 1))
            row = {"question": question, "answer": str(right), "choices": moved, "label": moved.index(str(right))}
            file.write(json.dumps({**row, "page": page if n % 4 == 0 else f" {question}"}) + "\n")
    for name, task in TASKS.items():
        source = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        whole = {
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_kwargs": source,
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(whole))
    group = {"group": "local_group", "task": ["local_choices", {"task": "local_inputs", "num_fewshot": 0}]}
    metrics = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    (folder / "group.yaml").write_text(json.dumps(group | metrics))
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The tiny model of the package, served by ``mode=serve``."""
    folder = tmp_path_factory.mktemp("served")
    line = [sys.executable, str(ROOT / "launch.py"), "mode=serve", f"hydra.run.dir={folder}", "tasks=[capitals]"]
    line.append("optimizations.batch_invariant=true")  # lm-eval sends one prompt at a time
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 240
        while not (folder / "endpoint.json").exists():
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        found = json.loads((folder / "endpoint.json").read_text())
        yield Endpoint(found["url"], found["model"], "inline", "megatron")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
