"""Finds documents whose right answer is none of their choices, which lm-eval counts as wrong for any answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOTE = "the right answer is none of the choices, so that lm-eval scores 0 for any answer"


def is_unreachable(task: Any, doc: Any) -> bool:
    """Tell whether `ConfigurableTask.process_results` can never find an answer to be right."""
    if not _has_choices(task):
        return False
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    golds = gold if isinstance(gold, list | tuple) else [gold]
    return not any(_is_among(choices, each) for each in golds)


def _has_choices(task: Any) -> bool:
    from lm_eval.api.task import ConfigurableTask

    own = type(task).process_results is not getattr(ConfigurableTask, "process_results", None)
    return not own and not callable(task.config.process_results) and task.OUTPUT_TYPE == "multiple_choice"


def _is_among(choices: Sequence[str], gold: Any) -> bool:
    if isinstance(gold, str):
        return gold in choices
    try:
        return bool(0 <= gold < len(choices))
    except TypeError:  # null, or a list within a list
        return False
