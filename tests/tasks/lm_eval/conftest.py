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
CODE = '''
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask, Task


class Mixed(ConfigurableTask):
    """As squadv2: a text and a log-likelihood for each document, with a bound of its own."""

    def __init__(self, config):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc, ctx, chat_template=None, apply_chat_template=False, **kwargs):
        text = (ctx, {"until": ["\\n"], "max_gen_toks": 5})
        return [
            Instance("generate_until", doc, text, 0, **kwargs),
            Instance("loglikelihood", doc, (ctx, doc["answer"]), 0, **kwargs),
        ]

    def process_results(self, doc, results):
        (text, (likelihood, _)) = results
        return {"length": len(text), "likelihood": likelihood, "exact_match": float(doc["answer"] in text)}

    def aggregation(self):
        return {"exact_match": mean, "length": mean, "likelihood": mean}

    def higher_is_better(self):
        return {"exact_match": True, "length": False, "likelihood": True}


class Plain(Task):
    """A task that has no YAML keys at all: the data are part of the class."""

    OUTPUT_TYPE = "generate_until"
    VERSION = 0

    def __init__(self):
        super().__init__()

    def download(self, *args, **kwargs):
        self.rows = [{"question": f"{n}+{n}", "answer": str(2 * n)} for n in range(2, 14)]

    def has_training_docs(self):
        return False

    def has_validation_docs(self):
        return False

    def has_test_docs(self):
        return True

    def test_docs(self):
        return self.rows

    def doc_to_text(self, doc):
        return f"{doc['question']}="

    def doc_to_target(self, doc):
        return doc["answer"]

    def construct_requests(self, doc, ctx, chat_template=None, apply_chat_template=False, **kwargs):
        return Instance("generate_until", doc, (ctx, {"until": ["\\n"], "max_gen_toks": 4}), 0, **kwargs)

    def process_results(self, doc, results):
        return {"starts": float(results[0][:1].isdigit())}

    def aggregation(self):
        return {"starts": mean}

    def higher_is_better(self):
        return {"starts": True}


def pass_at_k(references, predictions, k):
    """As humaneval's: the metrics that it gives are others than the one that the YAML names."""
    [tries] = predictions
    passed = [text.strip() > "3" for text in tries]
    return {f"pass@{n}": float(any(passed[:n])) for n in k}


def more(doc, results):
    return {"exact_match": float(results[0] == doc["answer"]), "length": len(results[0])}
'''
BY_CODE = {
    "mixed": "task: local_mixed\nclass: !function own_code.Mixed\n",
    "plain": "task: local_plain\nclass: !function own_code.Plain\n",
    "passes": """
task: local_passes
repeats: 3
metric_list:
  - {metric: !function own_code.pass_at_k, aggregation: mean, higher_is_better: true, k: [1, 3]}
filter_list:
  - {name: three, filter: [{function: take_first_k, k: 3}]}
""",
    "majority": """
task: local_majority
repeats: 3
filter_list:
  - {name: maj@2, filter: [{function: take_first_k, k: 2}, {function: majority_vote}, {function: take_first}]}
  - {name: maj@3, filter: [{function: take_first_k, k: 3}, {function: majority_vote}, {function: take_first}]}
""",
    "more": "task: local_more\nprocess_results: !function own_code.more\n",
}
"""YAML files with code of their own, over the rest of ``texts.yaml``."""


@pytest.fixture(autouse=True)
def few_bootstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval draws with a seed, so that its standard errors equal ours with any number of draws."""
    monkeypatch.setattr("launcher.tasks.lm_eval.results.BOOTSTRAPS", 20)


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
    (folder / "own_code.py").write_text(CODE)
    texts = json.loads((folder / "texts.yaml").read_text())
    shared = {**texts, "num_fewshot": 0, "filter_list": None, "metric_list": GENERATION["metric_list"]}
    (folder / "greedy_yaml").write_text(json.dumps({key: value for key, value in shared.items() if key != "task"}))
    for name, text in BY_CODE.items():
        (folder / f"{name}.yaml").write_text(text if name == "plain" else f"include: greedy_yaml\n{text}")
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
