"""The files of lm-evaluation-harness: ``results_<time>.json``, and ``samples_<task>_<time>.jsonl`` for each task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from launcher.core.files import replace
from launcher.core.types import Json, Record, Status
from launcher.export import rows
from launcher.export.source import Source
from launcher.report import results
from launcher.report.schema import TaskEntry

NO_FILTER = "none"
UNKNOWN = "N/A"
"""What lm-eval writes for a number that it does not know."""


@dataclass
class _Samples:
    """The lines and the hashes of a task's samples, and the number of each item."""

    lines: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        number = self.numbers.setdefault(record.id, len(self.numbers))
        for sample in _samples(record, number):
            self.lines.append(results.encode(sample) + "\n")
            self.hashes.append(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"])


def write(source: Source, folder: Path) -> list[Path]:
    """Write both kinds of files as ``lm_eval --output_path FOLDER --log_samples`` does.

    What lm-eval has no place for stands beside: ``launcher`` in the results, ``status`` and ``reason`` in the samples.
    """
    tasks = {name: _Samples() for name in source.results["tasks"]}
    for record in source.records():
        tasks.setdefault(record.task, _Samples()).add(record)
    stamp = source.ended.replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")
    place = folder / _sanitized_model(source.model)
    found = _results(source) | {"task_hashes": {name: _hash("".join(each.hashes)) for name, each in tasks.items()}}
    written = [replace(place / f"results_{stamp}.json", results.encode(found, indent=2) + "\n")]
    for name, file in rows.file_names(tasks).items():
        written.append(replace(place / f"samples_{file}_{stamp}.jsonl", "".join(tasks[name].lines)))
    return written


def _results(source: Source) -> dict[str, Json]:
    found = source.results
    groups = found.get("groups") or {}
    every: dict[str, TaskEntry] = {**groups, **found["tasks"]}
    shots = {name: _fewshot(source, name) for name in found["tasks"]}
    end = source.ended
    return {
        "results": {name: {"alias": name, **_metrics(entry)} for name, entry in every.items()},
        "groups": {name: {"alias": name, **_metrics(entry)} for name, entry in groups.items()},
        "group_subtasks": {name: list(groups[name]["members"]) if name in groups else [] for name in every},
        "configs": {name: _config(source, name) for name in found["tasks"]},
        "versions": dict.fromkeys(every, UNKNOWN),
        "n-shot": {name: count for name, count in shots.items() if count is not None},
        "higher_is_better": {name: _directions(entry) for name, entry in every.items()},
        "n-samples": {name: _counts(entry) for name, entry in found["tasks"].items()},
        "config": {
            "model": "local-completions",
            "model_args": {"model": source.model, "base_url": source.url},
            "limit": (source.config.get("evaluate") or {}).get("limit"),
        },
        "git_hash": found["run"].get("git_commit"),
        "date": end.timestamp(),
        "lm_eval_version": source.versions.get("lm-eval"),
        "start_time": (end - timedelta(seconds=source.seconds)).timestamp(),
        "end_time": end.timestamp(),
        "total_evaluation_time_seconds": str(source.seconds),
        "model_source": "local-completions",
        "model_name": source.model,
        "model_name_sanitized": _sanitized_model(source.model),
        "launcher": {
            "status": found["status"],
            "reason": found["reason"],
            "coverage": {name: entry["coverage"] for name, entry in every.items()},
            "reasons": {name: entry["reasons"] for name, entry in every.items()},
        },
    }


def _metrics(entry: TaskEntry) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, one in entry["metrics"].items():
        metric, kept = _split(name)
        found[f"{metric},{kept}"] = UNKNOWN if one["value"] is None else one["value"]
        found[f"{metric}_stderr,{kept}"] = UNKNOWN if one["stderr"] is None else one["stderr"]
    return found


def _split(name: str) -> tuple[str, str]:
    """Return a metric and its filter."""
    metric, _, kept = name.partition(",")
    return metric, kept or NO_FILTER


def _directions(entry: TaskEntry) -> dict[str, bool]:
    return {_split(name)[0]: one["direction"] != "lower" for name, one in entry["metrics"].items()}


def _counts(entry: TaskEntry) -> dict[str, int]:
    return {"original": entry["coverage"].get("total", 0), "effective": entry["coverage"].get("scored", 0)}


def _config(source: Source, name: str) -> dict[str, Json]:
    settings = (source.config.get("tasks") or {}).get(name) or {}
    return {"task": name, "metadata": {"launcher": settings}}


def _fewshot(source: Source, name: str) -> int | None:
    settings = (source.config.get("tasks") or {}).get(name) or {}
    found = settings.get("fewshot", settings.get("num_fewshot"))
    return found if isinstance(found, int) else None


def _samples(record: Record, number: int) -> Iterator[dict[str, Json]]:
    """Yield what lm-eval writes of a sample: a line for each filter; one without a metric if it was not scored."""
    filters: dict[str, dict[str, Json]] = {}
    for name, value in record.scores.items():
        metric, kept = _split(name)
        filters.setdefault(kept, {})[metric] = value
    arguments, target = _arguments(record), rows.text(record.target)
    responses = _responses(record)
    for kept, scores in (filters or {NO_FILTER: {}}).items():
        yield {
            "doc_id": number,
            "doc": {"id": record.id, "repeat": record.repeat, "target": record.target},
            "target": target,
            "arguments": arguments,
            "resps": [[each] for each in responses],
            "filtered_resps": responses if record.status is not Status.scored else [rows.text(record.prediction)],
            "filter": kept,
            "metrics": list(scores),
            "doc_hash": _hash(results.encode([record.id, record.target])),
            "prompt_hash": _hash(results.encode(arguments)),
            "target_hash": _hash(target),
            "status": record.status.value,
            "reason": record.reason,
            **{name: value for name, value in scores.items() if name not in ("status", "reason")},
        }


def _arguments(record: Record) -> dict[str, Json]:
    """Return the prompts with what each was asked with."""
    found = [(prompt, _asked(body)) for body in map(_body, record.requests) for prompt in _prompts(body)]
    return {f"gen_args_{place}": {"arg_0": prompt, "arg_1": asked} for place, (prompt, asked) in enumerate(found)}


def _body(request: Json) -> Mapping[str, Json]:
    body = request.get("body") if isinstance(request, Mapping) else None
    return body if isinstance(body, Mapping) else {}


def _prompts(body: Mapping[str, Json]) -> list[str]:
    if "messages" in body:
        return [results.encode(body["messages"])]
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt):
        return [rows.text(each) for each in prompt]
    return [rows.text(prompt)]


def _asked(body: Mapping[str, Json]) -> dict[str, Json]:
    names = {"max_tokens": "max_gen_toks", "stop": "until", "temperature": "temperature", "seed": "seed"}
    return {theirs: body[ours] for ours, theirs in names.items() if body.get(ours) is not None}


def _responses(record: Record) -> list[Json]:
    """Return the answers: of a choice between continuations the log-likelihoods, else the texts."""
    prediction = record.prediction
    if isinstance(prediction, Mapping) and isinstance(prediction.get("loglikelihoods"), list):
        return list(prediction["loglikelihoods"])
    return [text for response in record.responses for text in texts_of(response)]


def texts_of(response: Json) -> list[str]:
    """Return the text of each choice of a response, or what the response is where it has none."""
    choices = response.get("choices") if isinstance(response, Mapping) else None
    if not isinstance(choices, list):
        return [] if response is None else [rows.text(response)]
    return [rows.text(_text_of(choice)) for choice in choices if isinstance(choice, Mapping)]


def _text_of(choice: Mapping[str, Json]) -> Json:
    message = choice.get("message")
    return message.get("content") if isinstance(message, Mapping) else choice.get("text")


def _sanitized_model(name: str) -> str:
    found = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", name).strip()
    return found if found.strip(".") else "model"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
