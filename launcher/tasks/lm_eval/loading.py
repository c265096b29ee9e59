"""Loads a task of lm-evaluation-harness, without its index and without disturbing its global state."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.core.errors import DataMissing, TaskError
from launcher.core.types import Json
from launcher.tasks.lm_eval.offline import equal_task

RANDOM_SEED, NUMPY_SEED = 0, 1234
"""The seeds of lm-eval's own command line (evaluator.py, simple_evaluate)."""
LIMITS = ("max_gen_toks", "max_tokens", "max_new_tokens", "max_completion_tokens")
"""What a YAML file may call the bound of a generated text."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class TaskSource:
    """Which task of lm-eval to load, and how to configure it.

    ``overrides`` are a group's settings for its members, ``gen_kwargs`` are added to those of the task; both are JSON.
    ``max_gen_toks`` replaces the bound of the task's texts.
    """

    name: str
    yaml_path: str
    overrides: str = "{}"
    gen_kwargs: str = "{}"
    max_gen_toks: int | None = None
    num_fewshot: int | None = None
    repeats: int | None = None


@lru_cache(maxsize=256)
def load(source: TaskSource) -> Any:
    """Return the `lm_eval.api.task.Task` of a source, with its data. Raises `TaskError`.

    It is configured as `lm_eval.evaluator.simple_evaluate` does. Equal sources share one, whose documents are asked one
    after the other.
    """
    _quiet()
    from lm_eval.tasks import TaskManager

    with seeded(), _logged_errors() as logged:
        try:
            loaded = TaskManager(include_defaults=False)._factory.build(
                _entry(source), overrides=json.loads(source.overrides) or None, registry={}
            )
        except TaskError:
            raise
        except (Exception, SystemExit) as error:
            kind = DataMissing if _is_about_data(error) else TaskError
            raise kind(_explained(source, error, logged)) from None
    return _configured(_checked(loaded, source), source)


def _configured(task: Any, source: TaskSource) -> Any:
    if task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", generation_kwargs(task.config.generation_kwargs or {}, source))
    if source.repeats is not None:
        task.set_config("repeats", source.repeats)
    given = task.config.num_fewshot
    if given is None or (source.num_fewshot is not None and given != 0):
        task.set_config("num_fewshot", source.num_fewshot or 0)
    return task


def generation_kwargs(of_task: Mapping[str, Json], source: TaskSource) -> dict[str, Json]:
    """Return how texts are generated: what the task says, with the user's settings instead.

    A bound of the user replaces that of the task under any name. Raises `TaskError` for two that differ.
    """
    given: dict[str, Json] = json.loads(source.gen_kwargs)
    bounds = {f"gen_kwargs.{name}": given[name] for name in LIMITS if name in given}
    if source.max_gen_toks is not None:
        bounds["max_gen_toks"] = source.max_gen_toks
    if len(set(bounds.values())) > 1:
        raise TaskError(f"{' and '.join(f'{key}={value}' for key, value in bounds.items())} differ; give one of them")
    kept = {name: value for name, value in of_task.items() if not bounds or name not in LIMITS}
    found = kept | {name: value for name, value in given.items() if name not in LIMITS}
    return found | ({"max_gen_toks": next(iter(bounds.values()))} if bounds else {})


def _entry(source: TaskSource) -> Any:
    from lm_eval.tasks._index import TaskIndex

    entry = TaskIndex.entry_from_path(Path(source.yaml_path))
    if entry is None or entry.name is None:
        raise TaskError(f"lm_eval/{source.name}: {source.yaml_path} defines no task")
    return entry


def _checked(task: Any, source: TaskSource) -> Any:
    """Return a task that can be asked over HTTP. Raises `TaskError`."""
    if isinstance(task, list) or not hasattr(task, "doc_iterator"):
        raise TaskError(f"lm_eval/{source.name} is a group or a tag; name its tasks")
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"lm_eval/{source.name} has images or audio, which are not supported")
    if not (task.has_test_docs() or task.has_validation_docs()):
        raise TaskError(f"lm_eval/{source.name} has neither a test nor a validation split")
    return task


def _explained(source: TaskSource, error: BaseException, logged: Sequence[str]) -> str:
    """Return one line about why a task cannot be loaded, with what helps; ``logged`` is what lm-eval said before."""
    said = " ".join("; ".join([*logged, f"{type(error).__name__}: {error}"]).split())[:300]
    if isinstance(error, StopIteration):
        said = "one of its splits has no items"
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing:
        return f"lm_eval/{source.name} needs the package '{missing}'; pip install {missing}"
    if not _is_about_data(error):
        return f"lm_eval/{source.name} cannot be loaded ({said}); its file is {source.yaml_path}"
    ours = equal_task(source.name)
    instead = f"; {ours} asks the same of items that a Python package has, see launcher tasks" if ours else ""
    return (
        f"lm_eval/{source.name} cannot be loaded ({said}); what it loads must be reachable, or be in "
        f"HF_DATASETS_CACHE{instead}; or include its YAML in one that names local data, see docs/tasks.md"
    )


def _is_about_data(error: BaseException) -> bool:
    """Tell whether a data set could not be had: from a hub, a cache or a folder."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("datasets", "huggingface_hub")


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators as lm-eval's command line does, and restore them: no order of tasks matters."""
    import numpy as np

    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Yield the errors that lm-eval and datasets log, which are then not printed."""
    found: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:], logger.propagate = [handler], False
    try:
        yield found
    finally:
        for logger, handlers, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate


def _quiet() -> None:
    """Keep the logs and progress bars of lm-eval and datasets out of the launcher's lines."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()


def configuration(task: Any) -> Mapping[str, Json]:
    """Return a task's configuration as JSON, functions as their source."""
    found: Mapping[str, Json] = json.loads(json.dumps(task.dump_config(), default=str, ensure_ascii=False))
    return found


def digest(task: Any) -> dict[str, str]:
    """Return what a task's answers and scores depend on: digests of its configuration, its documents and its code."""
    config = ADDRESS.sub("", json.dumps(configuration(task), sort_keys=True))
    code = {"code": _sha256(file.read_text("utf-8", "replace") for file in sources)} if (sources := _code(task)) else {}
    return {"config": _sha256([config]), "documents": _sha256(_documents(task)), **code}


def _code(task: Any) -> list[Path]:
    """Return the files of Python that a task names, without those of lm-eval: its version says what they are."""
    import lm_eval

    own = Path(lm_eval.__file__).parent
    named = [type(task), *_callables(vars(task.config))]
    files = {Path(module.__file__) for each in named if (module := inspect.getmodule(each)) and module.__file__}
    return sorted(file for file in files if not file.is_relative_to(own) and file.suffix == ".py")


def _callables(value: Any) -> Iterator[Any]:
    """Yield the functions within the values of a configuration."""
    if callable(value):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _callables(inner)


def _documents(task: Any) -> Iterator[str]:
    for doc in task.eval_docs:
        yield json.dumps(doc, sort_keys=True, default=str)
    if task.config.num_fewshot:
        for doc in task.fewshot_docs():
            yield json.dumps(doc, sort_keys=True, default=str)


def _sha256(parts: Any) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode("utf-8", "backslashreplace"))
        made.update(b"\0")
    return made.hexdigest()
