"""A task whose answers are programs, which tests judge."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import field
from functools import cached_property

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count, Positive
from launcher.core.responses import cut_by_limit
from launcher.core.types import Ask, Json, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.tasks.answer import text_of
from launcher.tasks.code import pass_at_k
from launcher.tasks.code.blocks import Code, program
from launcher.tasks.code.executor import Kind, Limits, Outcome, SandboxFault, execute
from launcher.tasks.code.isolation import isolation
from launcher.tasks.items import Item
from launcher.tasks.template import render
from launcher.tasks.text_task import TextTask

TRIES = 2
"""How often a program is run whose sandbox fails."""
UNSAFE = "the program ran without a sandbox (unsafe=true)"
CUT = "the program was cut at max_tokens"
FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)


@component("tasks/code")
class CodeGeneration(TextTask):
    """Asks for a program and runs it with its tests, in a sandbox.

    Items, prompts and examples are as in ``tasks/generation``. ``fewshot_answer`` is the answer of an example.

    ``code`` says what of the answer is the program. ``before`` is put in front of it, and ``test`` runs after it:
    templates over the item's fields. A program passes if both run to their end without an exception.

    ``k``: the metrics are pass@k for these, estimated without bias from the samples of each item. There are
    ``evaluate.repeats`` of these, with different seeds: give a ``temperature``.

    A program may take ``timeout_s`` seconds of CPU time, wait ten times as long, and use ``memory_gib`` of memory. One
    that takes more, raises an exception, or ends before its tests, counts as wrong. A fault of the sandbox fails the
    sample. ``unsafe`` allows programs to run where no sandbox works: they can then read and change files.

    ``accept_truncated`` runs a program that ended at ``max_tokens`` as it is, as the official evaluations do;
    otherwise the sample is truncated.
    """

    before: str = ""
    test: str = "{{test}}"
    code: Code = Code.all
    fewshot_answer: str = "{{code}}"
    max_tokens: Count = 1024
    k: list[Count] = field(default_factory=lambda: [1])
    timeout_s: Count = 3
    memory_gib: Positive = 2.0
    unsafe: bool = False

    def __post_init__(self) -> None:
        self.check_settings("before", "test")
        if not self.k or len(set(self.k)) < len(self.k):
            raise UserError(f"tasks: k={list(self.k)}; expected one or more different numbers of samples")

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        return [pass_at_k.metric(k) for k in self.k]

    def check(self, evaluate: Evaluate) -> None:
        most = max(self.k)
        if evaluate.repeats < most:
            raise UserError(
                f"k={list(self.k)}: pass@{most} needs {most} samples of each item; "
                f"set evaluate.repeats={most} or more, it is {evaluate.repeats}"
            )
        if most > 1 and not (self.temperature if evaluate.temperature is None else evaluate.temperature):
            raise UserError(
                f"k={list(self.k)}: at temperature 0 all samples of an item are the same program; "
                "set the task's temperature, for instance 0.2, or evaluate.temperature"
            )

    def check_packages(self) -> None:
        isolation(self.unsafe)

    def target_of(self, item: Item) -> dict[str, str]:
        test = render(self.test, item)
        _check_test(test, item)
        return {"before": render(self.before, item), "test": test}

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        text = text_of(responses[0], accept_truncated=self.accept_truncated)
        if isinstance(text, Score):
            return text
        found = program(text, self.code)
        if found is None:
            return Score(Status.unparsed, reason="the answer has no block of Python")
        try:
            outcome = await self._outcome(found, sample.target)
        except SandboxFault as error:
            return Score(Status.failed, reason=str(error))
        prediction = {"program": found, "result": outcome.kind.value, "detail": outcome.detail}
        passed = float(outcome.kind is Kind.passed)
        scores = {pass_at_k.name(k): passed for k in self.k}
        return Score(Status.scored, prediction, scores, notes=self._notes(responses[0]))

    async def _outcome(self, found: str, target: Json) -> Outcome:
        """Return what becomes of a program; a sandbox that fails gets another try."""
        limits = Limits(self.timeout_s, int(self.memory_gib * 2**30))
        for left in reversed(range(TRIES)):
            try:
                return await execute(assembled(target["before"], found), target["test"], limits, isolation(self.unsafe))
            except SandboxFault:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _notes(self, response: Response) -> tuple[str, ...]:
        unsafe = isolation(self.unsafe).name == "none"
        return (*((CUT,) if cut_by_limit(response) else ()), *((UNSAFE,) if unsafe else ()))

    def fingerprint(self) -> Json:
        return {**self.item_digests(), "python": ".".join(map(str, sys.version_info[:2]))}


def assembled(before: str, found: str) -> str:
    """Return the program after what comes before it; its imports of ``__future__`` must come first."""
    if not before:
        return found
    return "".join(FUTURE.findall(found)) + before + FUTURE.sub("", found)


def _check_test(test: str, item: Item) -> None:
    """Raise `TaskError` for tests that every program passes, or none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that a later Python refuses
            statements = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"{item.where}: the test is no Python, so that no program can pass it: {error}") from None
    if not statements:
        raise TaskError(f"{item.where}: the test is empty, so that every program would pass it")
