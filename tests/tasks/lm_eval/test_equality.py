"""The same tasks, asked by lm-evaluation-harness's own client, come to the same numbers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from launcher.core.types import Endpoint, TaskResult
from launcher.settings.evaluate import Evaluate
from launcher.tasks.lm_eval import metrics, results
from launcher.tasks.lm_eval.task import LmEval
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch
from tests.tasks.lm_eval.conftest import BY_CODE, TASKS

CHAT: dict[str, Any] = {"chat": True, "fewshot_as_multiturn": True, "system_instruction": "Answer."}


def by_lm_eval(server: Endpoint, folder: Path, name: str, *, chat: bool = False, **settings: Any) -> dict[str, Any]:
    """Evaluate a task, or a group, with lm-eval's own client."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    path = "chat/completions" if chat else "completions"
    arguments = {"model": server.model, "base_url": f"{server.url}/{path}", "max_length": 256}
    found = lm_eval.simple_evaluate(
        model="local-chat-completions" if chat else "local-completions",
        model_args=arguments if chat else arguments | {"tokenizer_backend": "remote"},
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=results.BOOTSTRAPS,
        **settings,
    )
    assert found is not None
    return found


async def by_us(server: Endpoint, folder: Path, tasks: dict[str, LmEval]) -> dict[str, TaskResult]:
    found = await evaluate(server, tasks, [], Evaluate(concurrency=4), folder, None, Watch())
    return dict(found.tasks)


def written(folder: Path) -> dict[str, Any]:
    """Return the results in lm-eval's format."""
    [file] = folder.glob("lm_eval/*/results_*.json")
    return dict(json.loads(file.read_text()))


def samples(folder: Path) -> list[dict[str, Any]]:
    [file] = folder.glob("lm_eval/*/samples_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_equal(ours: TaskResult, official: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare the aggregates of a task: in our results, in those of lm-eval's format, and those of lm-eval's client."""
    numbers = {key: value for key, value in theirs.items() if "," in key}
    assert numbers
    assert {key: official[key] for key in numbers} == numbers
    for key, value in numbers.items():
        metric, _, filter_name = key.partition(",")
        if not metric.endswith("_stderr"):
            assert ours.metrics[metrics.name_of(metric, filter_name)].value == value, key


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*(name for name in TASKS if name != "votes"), *BY_CODE])
async def test_aggregates_and_rows_are_those_of_lm_eval(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path, kind: str
) -> None:
    name = f"local_{kind}"
    task = LmEval(task=name, include_path=str(lm_eval_tasks))
    ours = await by_us(server, tmp_path, {"t": task})
    results.write(tmp_path, {"t": task}, [], server)
    theirs = await asyncio.to_thread(by_lm_eval, server, lm_eval_tasks, name)
    assert ours["t"].coverage["scored"] == 12
    assert_equal(ours["t"], written(tmp_path)["results"][name], theirs["results"][name])
    rows = {(row["filter"], row["doc_id"]): row for row in samples(tmp_path)}
    for row in theirs["samples"][name]:
        mine = rows[row["filter"], row["doc_id"]]
        for key in ("doc_hash", "prompt_hash", "target_hash", "metrics"):
            assert mine[key] == row[key], key
        assert mine["filtered_resps"] == json.loads(json.dumps(_texts(row["filtered_resps"])))
    assert len(rows) == len(theirs["samples"][name])


def _texts(value: Any) -> Any:
    """Return a value as lm-eval writes it: every number as text."""
    if isinstance(value, list | tuple):
        return [_texts(inner) for inner in value]
    return str(value)


@pytest.mark.slow
async def test_a_group_is_aggregated_as_by_lm_eval(server: Endpoint, lm_eval_tasks: Path, tmp_path: Path) -> None:
    tasks = {
        f"lm_eval_local_{name}": LmEval(task=f"local_{name}", include_path=str(lm_eval_tasks), overrides=overrides)
        for name, overrides in (("choices", {}), ("inputs", {"num_fewshot": 0}))
    }
    await by_us(server, tmp_path, tasks)
    results.write(tmp_path, tasks, ["lm_eval_local_group"], server)
    theirs = await asyncio.to_thread(by_lm_eval, server, lm_eval_tasks, "local_group")
    assert written(tmp_path)["groups"] == theirs["groups"]


@pytest.mark.slow
async def test_chat_with_examples_as_turns(server: Endpoint, lm_eval_tasks: Path, tmp_path: Path) -> None:
    task = LmEval(task="local_texts", include_path=str(lm_eval_tasks), num_fewshot=1, **CHAT)
    ours = await by_us(server, tmp_path, {"t": task})
    results.write(tmp_path, {"t": task}, [], server)
    theirs = await asyncio.to_thread(
        by_lm_eval,
        server,
        lm_eval_tasks,
        "local_texts",
        chat=True,
        num_fewshot=1,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        system_instruction="Answer.",
    )
    assert_equal(ours["t"], written(tmp_path)["results"]["local_texts"], theirs["results"]["local_texts"])
    sent = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])["request"]["body"]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]


@pytest.mark.slow
async def test_repeats_are_different_draws_and_voted_on(server: Endpoint, lm_eval_tasks: Path, tmp_path: Path) -> None:
    """lm-eval sends one seed for all repeats, so that a server which honours it draws one answer three times."""
    ours = await by_us(server, tmp_path, {"t": LmEval(task="local_votes", include_path=str(lm_eval_tasks))})
    assert {"exact_match,maj", "exact_match,first"} <= ours["t"].metrics.keys()
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    seeds = [[request["body"]["seed"] for request in row["request"]] for row in rows]
    assert seeds == [[1234, 1235, 1236]] * 12
    texts = [{response["choices"][0]["text"] for response in row["response"]} for row in rows]
    assert sum(len(found) > 1 for found in texts) >= 4
