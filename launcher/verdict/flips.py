"""The questions that one run answers better than another, with both answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile

from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record, Status
from launcher.report.results import encode
from launcher.stats.paired import mean
from launcher.verdict.runs import Run
from launcher.verdict.schema import FlipEntry

TEXT = 4_000
"""A longer text is cut in the middle."""


def flips(a: Run, b: Run, most: int) -> tuple[list[FlipEntry], int]:
    """Return at most ``most`` questions, the largest changes first, half of them for each run, and how many there are.

    Only the first repeat of a question is shown. Raises `ResumeError` for a damaged line.
    """
    gains = dict(_gains(a, b))
    better = sorted((key for key in gains if gains[key][1] > 0), key=lambda key: -gains[key][1])
    worse = sorted((key for key in gains if gains[key][1] < 0), key=lambda key: gains[key][1])
    half = most // 2
    chosen = [*better[: max(half, most - len(worse))], *worse[: max(most - half, most - len(better))]]
    left, right = (_records(run, set(chosen)) for run in (a, b))
    return [_flip(gains[key], left[key], right[key]) for key in chosen], len(gains)


def _gains(a: Run, b: Run) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield the key of each question that changed, with the metric and by how much b's score is better."""
    seen: set[str] = set()
    for (task, metric), values in a.answers.values.items():
        others = b.answers.values.get((task, metric), {})
        lower = a.results["tasks"][task]["metrics"][metric]["direction"] == "lower"
        for question in values.keys() & others.keys():
            key, change = f"{task}/{question[0]}", mean(others[question]) - mean(values[question])
            if change and key not in seen:
                seen.add(key)
                yield key, (metric, -change if lower else change)


def _records(run: Run, keys: set[str]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in RunFolder(run.folder).records():
        key = f"{record.task}/{record.id}"
        if key in keys and record.status is Status.scored:
            found.setdefault(key, record)
    return found


def _flip(gain: tuple[str, float], a: Record, b: Record) -> FlipEntry:
    metric, better = gain
    return {
        "task": a.task,
        "id": a.id,
        "metric": metric,
        "gain": better,
        "question": question(a),
        "target": _text(a.target),
        "answer_a": _answer(a),
        "answer_b": _answer(b),
    }


def question(record: Record) -> str:
    """Return what a record's requests ask: the contents of messages, or what all of its prompts begin with."""
    bodies = [request["body"] for request in record.requests]
    messages = next((body["messages"] for body in bodies if body.get("messages")), None)
    if messages is not None:
        return _cut("\n".join(f"{message.get('role')}: {_text(message.get('content'))}" for message in messages))
    prompts = [prompt for body in bodies for prompt in _prompts(body.get("prompt"))]
    return _cut(_beginning([prompt for prompt in prompts if isinstance(prompt, str)]))


def _beginning(texts: list[str]) -> str:
    """Return what all texts begin with."""
    least, most = min(texts, default=""), max(texts, default="")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))
    return least[: sum(1 for _ in same)]


def _prompts(prompt: Json) -> list[Json]:
    return prompt if isinstance(prompt, list) else [prompt]


def _answer(record: Record) -> str:
    """Return what was read from the answer: of a choice its text, of a generation the prediction."""
    return _text(record.prediction)


def _text(value: Json) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]
    if isinstance(value, str):
        return _cut(value)
    return "" if value is None else _cut(encode(value))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT // 4]} […] {text[-TEXT * 3 // 4 :]}"
