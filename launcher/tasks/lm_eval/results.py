"""Writes the results of a run's tasks of lm-eval as lm-eval's own command line does."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any

from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Record, Response, Status
from launcher.tasks.lm_eval import index
from launcher.tasks.lm_eval.documents import Document, judged
from launcher.tasks.lm_eval.groups import GROUP_FIELDS, expand, key_of, read_group
from launcher.tasks.lm_eval.metrics import is_number
from launcher.tasks.lm_eval.task import LmEval

BOOTSTRAPS = 1000
"""How often lm-eval draws for the standard error of a metric that is no mean; its command line draws 100,000 times."""

NO_FORK = "DISABLE_MULTIPROC"
"""The environment variable with which lm-eval draws in one process (lm_eval.api.metrics.bootstrap_stderr)."""


def write(folder: Path, tasks: Mapping[str, LmEval], groups: Iterable[str], endpoint: Endpoint) -> None:
    """Write ``lm_eval/<model>/results_<date>.json`` and ``samples_<task>_<date>.jsonl`` into the run folder.

    They hold the scored documents, and of a document that was asked several times the first answer. ``tasks`` are those
    of lm-eval in the run, ``groups`` the keys of its groups: those of lm-eval are aggregated by lm-eval.
    """
    from lm_eval.evaluator_utils import _process_results
    from lm_eval.loggers import EvaluationTracker

    names = _names(tasks)
    kept = {names[name]: _collected(tasks[name], records) for name, records in _first_answers(folder, tasks)}
    if not kept:
        return
    made = _groups(next(iter(tasks.values())).include_path, kept, groups)
    with _alone():
        processed = _process_results(kept, made, BOOTSTRAPS)
    results: dict[str, Any] = {**processed._to_eval_results(), "config": _config(endpoint, tasks)}
    tracker = EvaluationTracker(output_path=str(folder / "lm_eval"))
    shared = next(iter(tasks.values()))
    tracker.general_config_tracker.log_experiment_args(
        model_source=results["config"]["model"],
        model_args=results["config"]["model_args"],
        system_instruction=shared.system_instruction or None,
        chat_template=None,
        fewshot_as_multiturn=shared.fewshot_as_multiturn,
    )
    tracker.save_results_aggregated(results=results, samples=processed.samples)
    for name, samples in processed.samples.items():
        tracker.save_results_samples(task_name=name, samples=samples)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep lm-eval from printing a line for each bootstrap, and from forking for it.

    A fork of a process with an engine's threads may never end. The numbers are the same: each chunk has its own seed.
    """
    before = os.environ.get(NO_FORK)
    os.environ[NO_FORK] = "1"
    sink = io.StringIO()
    try:
        with redirect_stdout(sink), redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[NO_FORK]
        else:
            os.environ[NO_FORK] = before


def _groups(include_path: str, kept: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return lm-eval's groups among ``keys``, each with all of its tasks that have results.

    lm-eval sums up tasks, also in a group of groups; so an inner group is no member here.
    """
    from lm_eval.api.group import Group

    known = index.read(include_path)
    named = {key_of(name): name for name in known.groups}
    made = {}
    for name in [named[key] for key in keys if key in named]:
        made[name] = Group.from_config({k: v for k, v in read_group(known.groups[name]).items() if k in GROUP_FIELDS})
        for task, _ in expand(name, known).tasks.values():
            if task in kept:
                made[name].add(kept[task]["task"])
    return made


def _names(tasks: Mapping[str, LmEval]) -> dict[str, str]:
    """Return the tasks' names in lm-eval; of several with one name there, the others have those of the run.

    The key of its option, under which groups have it, keeps the name.
    """
    used = Counter(task.task for task in tasks.values())
    return {
        name: task.task if used[task.task] == 1 or name == key_of(task.task) else name for name, task in tasks.items()
    }


def _config(endpoint: Endpoint, tasks: Mapping[str, LmEval]) -> dict[str, Any]:
    chat = all(task.chat for task in tasks.values())
    arguments = {"model": endpoint.model, "base_url": f"{endpoint.url}/{'chat/' if chat else ''}completions"}
    model = "local-chat-completions" if chat else "local-completions"
    return {"model": model, "model_args": arguments, "bootstrap_iters": BOOTSTRAPS}


def _first_answers(folder: Path, tasks: Container[str]) -> Iterator[tuple[str, dict[str, Record]]]:
    """Yield the tasks that have scored documents, each with the records of its first repeat by document.

    The file has the samples of a task together, so that those of one task are held at a time.
    """
    for name, records in groupby(RunFolder(folder).records(), key=lambda record: record.task):
        found = {r.id: r for r in records if r.repeat == 0 and r.status is Status.scored} if name in tasks else {}
        if found:
            yield name, found


def _collected(task: LmEval, records: Mapping[str, Record]) -> dict[str, Any]:
    """Return what `lm_eval.evaluator.evaluate` collects of a task."""
    raw: dict[tuple[str, str], list[Any]] = defaultdict(list)
    logged: dict[str, list[Any]] = defaultdict(list)
    known = task.loaded.aggregation()
    for document, record in _answered(task, records):
        answers = task.answers(document, [Response(200, body) for body in record.responses])
        for filter_name, found in judged(task.loaded, document, answers).items():
            for metric, value in found.items():
                if metric in known or is_number(value):  # lm-eval takes the mean of what no metric declares
                    raw[metric, filter_name].append(value)
            logged[filter_name].append(_example(task.loaded, document, filter_name, found))
    samples = [example for found in logged.values() for example in found]
    return {"task": task.loaded, "raw_metrics": raw, "logged_samples": samples}


def _answered(task: LmEval, records: Mapping[str, Record]) -> Iterator[tuple[Document, Record]]:
    for key, document in task.documents.items():
        if key in records:
            yield document, records[key]


def _example(task: Any, document: Document, filter_name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.utils import handle_non_serializable, hash_string

    instances: Sequence[Any] = document.instances
    target = task.doc_to_target(document.doc)
    text = json.dumps(instances[0].doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "doc_id": document.doc_id,
        "doc": document.doc,
        "target": target,
        "arguments": [instance.args for instance in instances],
        "resps": [instance.resps for instance in instances],
        "filtered_resps": [instance.filtered_resps[filter_name] for instance in instances],
        "filter": filter_name,
        "metrics": list(found),
        "doc_hash": hash_string(text),
        "prompt_hash": hash_string(instances[0].arguments[0]),
        "target_hash": hash_string(str(target)),
        **found,
    }
