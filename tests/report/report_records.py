"""Realistic run folders for the report's tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from launcher.core.records import to_line
from launcher.core.types import (
    NOT_ASKED,
    Check,
    Direction,
    Endpoint,
    Interval,
    MetricResult,
    Record,
    Report,
    Status,
    TaskResult,
)
from launcher.report import page, results

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

RUN = {
    "config": {
        "model": {"name": "tiny-gpt", "path": "package:launcher/tiny"},
        "backend": {"host": "127.0.0.1", "port": 0},
        "tasks": {"addition": {"path": "addition.jsonl", "limit": None}},
    },
    "overrides": ["engine=megatron", "tasks=[addition,facts]"],
    "versions": {"python": "3.11.14", "torch": "2.13.0", "megatron-core": "0.16.1"},
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "checkpoint": {"fingerprint": "sha256:" + "ab" * 32, "layout": "megatron_lm"},
}

CHECKS = (
    Check("reachable", True, "answers at http://127.0.0.1:8123/v1", 0.004),
    Check("model listed", True, "tiny-gpt is the only model", 0.002),
    Check("chat", None, "the model has no chat template", 0.0),
    Check("greedy repeats", True, "8 of 8 prompts gave the same tokens twice", 0.81),
)


def record(number: int, status: Status = Status.scored, right: bool = True, **changes: Any) -> Record:
    """A chat sample with everything that a server answers."""
    answer = str(number + 7 if right else number + 8)
    scored = status is Status.scored
    values: dict[str, Any] = {
        "task": "addition",
        "id": str(number),
        "repeat": 0,
        "requests": (
            {
                "path": "/v1/chat/completions",
                "body": {
                    "model": "tiny-gpt",
                    "messages": [
                        {"role": "system", "content": "Answer with a number."},
                        {"role": "user", "content": f"What is {number} plus 7?"},
                    ],
                    "max_tokens": 16,
                    "temperature": 0.0,
                },
            },
        ),
        "responses": (
            {
                "id": f"chatcmpl-{number}",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
            },
        ),
        "prediction": answer if scored else None,
        "target": str(number + 7),
        "scores": {"exact_match": float(right)} if scored else {},
        "status": status,
        "usage": {"prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23},
        "latency_s": 0.05 + (number * 37 % 101) / 500,
        "reason": None if scored else f"{status.value}: see the log",
    }
    return Record(**(values | changes))


def choice(number: int, right: bool) -> Record:
    """A multiple-choice sample: one completions request with a list of prompts, echo and log-probabilities."""
    texts = ["Paris", "Rome", "Oslo"]
    prompts = [f"Question {number}: the capital of France is {text}" for text in texts]
    choices = [
        {"index": index, "text": f"{prompt}.", "logprobs": {"token_logprobs": [None, -1.5, -0.25 - index, -2.0]}}
        for index, prompt in enumerate(prompts)
    ]
    best = 0 if right else 2
    likelihoods = [-1.75, -2.75, -3.75] if right else [-3.75, -2.75, -1.75]
    body = {"prompt": prompts, "max_tokens": 1, "echo": True, "logprobs": 1}
    return record(
        number,
        task="facts",
        requests=({"path": "/v1/completions", "body": body},),
        responses=({"choices": choices},),
        prediction={"index": best, "text": texts[best], "index_norm": best, "loglikelihoods": likelihoods},
        target={"index": 0, "text": "Paris", "choices": texts},
        scores={"acc": float(right), "acc_norm": 1.0},
    )


def mixed(count: int, seed: int = 0) -> list[Record]:
    """``count`` samples of one task, about three in four right, some of every other status."""
    random = Random(seed)
    statuses = random.choices(list(Status), weights=[94, 2, 1, 2, 1], k=count)
    return [
        record(number, status, right=random.random() < 0.75, latency_s=random.lognormvariate(-1, 0.9))
        for number, status in enumerate(statuses)
    ]


def hostile() -> list[Record]:
    """What a model, an item or a server may say to break the page."""
    texts = [
        HOSTILE,
        "<!--<script>",
        "]]>&lt;b&gt; & ${7*7} {{ 7*7 }}",
        "\u202eright to left\u202c שלום עולם مرحبا بالعالم",
        "👩‍👩‍👧‍👦 🏳️‍🌈 \u2028 \u2029 \x00 \x1b[31m",
        "half a pair \ud83d",
        "long " * 200_000,
        "",
    ]
    rows = [
        record(
            number,
            id=f"{number} {text[:40]}",
            prediction=text,
            target=text,
            reason=text[:500],
            responses=({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]},),
        )
        for number, text in enumerate(texts)
    ]
    return [*rows, record(99, Status.failed, responses=(HOSTILE,), usage=None, latency_s=0.0, reason=HOSTILE)]


def write_samples(folder: Path, records: Iterable[Record]) -> None:
    """Write ``samples.jsonl`` as an evaluation does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_bytes(b"".join(map(to_line, records)))


def task_results(records: list[Record], unreached: int = 0) -> dict[str, TaskResult]:
    """Results of the records' tasks, with normal intervals."""
    tasks = dict.fromkeys(row.task for row in records)
    return {task: _task_result([row for row in records if row.task == task], unreached) for task in tasks}


def report(records: list[Record] | None = None, **changes: Any) -> Report:
    """The report of a run that asked ``records``."""
    values: dict[str, Any] = {
        "status": "ok",
        "run": RUN,
        "endpoint": Endpoint("http://127.0.0.1:8123/v1", "tiny-gpt", "inline", "megatron", api_key="sk-secret"),
        "engine": {"dtype": "fp32", "parameters": 812_544, "kv_cache": {"blocks": 128, "block_size": 16}},
        "tasks": {} if "tasks" in changes else task_results(records or []),
        "throughput": {
            "requests_per_s": 41.27,
            "generated_tokens_per_s": 812.4,
            "prompt_tokens_per_s": 5301.9,
            "latency_s": {"p50": 0.148, "p90": 0.231, "p99": 0.25},
            "generated_tokens": 4_812,
            "prompt_tokens": 31_400,
        },
        "timings": {"serve": 1.93, "validate": 0.42, "evaluate": 7.4, "report": 0.05},
        "checks": CHECKS,
    }
    return Report(**(values | changes))


def failed_report() -> Report:
    """The report of a run whose server did not start."""
    return report(
        status="error",
        endpoint=None,
        engine={},
        throughput={},
        timings={"serve": 0.31},
        checks=(),
        reason="model.path: [bold]no[/bold] such folder: 'chekpoints/tiny'",
    )


def _task_result(records: list[Record], unreached: int) -> TaskResult:
    counts = {status.value: sum(row.status is status for row in records) for status in Status}
    total = len(records) + unreached
    names = dict.fromkeys(name for row in records for name in row.scores)
    metrics = {name: _metric(name, [row.scores[name] for row in records if row.scores], total) for name in names}
    return TaskResult(metrics, {**counts, NOT_ASKED: unreached, "total": total})


def _metric(name: str, values: list[float], total: int) -> MetricResult:
    n, right = len(values), sum(values)
    mean = right / n
    stderr = (sum((value - mean) ** 2 for value in values) / (n - 1) / n) ** 0.5 if n > 1 else float("nan")
    low, high = right / total, (right + total - n) / total
    direction = Direction.lower if name == "perplexity" else Direction.higher
    return MetricResult(mean, stderr, mean - 1.96 * stderr, mean + 1.96 * stderr, n, low, high, direction, Interval.t)


def add_point(
    folder: Path, name: str, overrides: list[str], records: list[Record] | None = None, rep: Report | None = None
) -> None:
    """Make a point as Hydra leaves it; without records and report it has no results."""
    path = folder / name
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if records is not None:
        write_samples(path, records)
    if rep := rep or (report(records) if records is not None else None):
        results.write(rep, path)
        page.write(rep, path)


def first_right(right: int, count: int = 100) -> list[Record]:
    """A run that got the first ``right`` of its questions right."""
    return [record(number, right=number < right) for number in range(count)]
