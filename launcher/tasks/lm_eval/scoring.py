"""Scores documents with lm-eval's code, which may be slow or never end, without holding up the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from launcher.tasks import bounded
from launcher.tasks.lm_eval import loading
from launcher.tasks.lm_eval.documents import Document, judged

Results = Mapping[str, Mapping[str, Any]]
FIRST_S = 2.0
"""The CPU time in seconds for which the first scoring of a task holds up the event loop: it may import packages."""
CPU_S = 3600.0
"""The CPU time in seconds of one scoring; ``evaluate.score_timeout_s`` ends it before, as any other."""


class Scoring:
    """Scores the documents of a task: each here for a moment, and then in a worker process.

    A worker loads the task itself, once. That takes seconds, which only a task with a slow scoring spends.
    """

    def __init__(self, source: Callable[[], loading.TaskSource]) -> None:
        self._source = source
        self._begun = False

    async def __call__(self, document: Document, answers: Sequence[Sequence[Any]]) -> Results:
        """Return what filters and ``process_results`` make of the answers; the instances keep what was filtered.

        Raises what the code of the task raises, and `TooSlow`.
        """
        arguments = self._source(), _bare(document), answers
        limit_s = bounded.INLINE_S if self._begun else FIRST_S
        self._begun = True
        try:
            results, filtered = bounded.attempt(scored, *arguments, cpu_s=limit_s)
        except bounded.TooSlow:
            results, filtered = await bounded.run(scored, *arguments, cpu_s=CPU_S)
        for instance, found in zip(document.instances, filtered, strict=True):
            instance.filtered_resps = found
        return results


def scored(
    source: loading.TaskSource, document: Document, answers: Sequence[Sequence[Any]]
) -> tuple[Results, Sequence[Any]]:
    """Return the results by filter, and what each instance was filtered to."""
    results = judged(loading.load(source), document, answers)
    return results, [instance.filtered_resps for instance in document.instances]


def _bare(document: Document) -> Document:
    """Return a document with instances of its own, for a scoring that may be interrupted, and without its requests."""
    return replace(document, instances=[copy(each) for each in document.instances], requests=())
