"""The same questions, asked by lm-evaluation-harness's own client, come to the same scores."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from launcher.core.types import Endpoint
from launcher.settings.evaluate import Evaluate
from launcher.tasks.multiple_choice import MultipleChoice
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch

WORDS = ("rain", "the café", "iron", "a slow river", "glass", "photosynthesis", "oak", "ten")


def items(path: Path) -> Path:
    rng = random.Random(0)
    for number in range(12):
        texts = rng.sample(WORDS, 4)
        choices = {"text": texts, "label": list("ABCD")}
        row = {"question": f"Which is {rng.choice(texts)}?", "choices": choices, "answerKey": rng.choice("ABCD")}
        with path.open("a") as file:
            file.write(json.dumps({"id": str(number), **row}) + "\n")
    return path


def by_lm_eval(endpoint: Endpoint, data: Path, folder: Path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    task = {
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / "ours.yaml").write_text(json.dumps(task))
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={"model": endpoint.model, "base_url": f"{endpoint.url}/completions", "tokenizer_backend": "remote"},
        tasks=["ours"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    return found["samples"]["ours"]


@pytest.mark.slow
async def test_likelihoods_and_scores_are_those_of_lm_eval(endpoint: Endpoint, tmp_path: Path) -> None:
    data = items(tmp_path / "items.jsonl")
    task = MultipleChoice(
        path=str(data),
        context="Question: {{question}}\nAnswer:",
        choices="choices.text",
        answer="answerKey",
        labels="choices.label",
    )
    found = await evaluate(endpoint, {"ours": task}, [], Evaluate(), tmp_path, None, Watch())
    theirs = await asyncio.to_thread(by_lm_eval, endpoint, data, tmp_path)
    ours = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(ours) == len(theirs) == 12
    for mine, other in zip(ours, sorted(theirs, key=lambda sample: sample["doc_id"]), strict=True):
        assert mine["scores"] == {"acc": other["acc"], "acc_norm": other["acc_norm"]}
        likelihoods = [float(response[0]) for response in other["filtered_resps"]]
        assert mine["prediction"]["loglikelihoods"] == pytest.approx(likelihoods, abs=1e-4)
    assert found.tasks["ours"].metrics["acc"].n == 12
