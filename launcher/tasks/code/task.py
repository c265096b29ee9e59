"""A task whose answers are programs, which tests judge."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import field
from functools import cached_property

from launcher.core.errors import UserError
from launcher.core.ranges import Count, CountFromZero, NonNegative, Positive
from launcher.core.responses import cut_by_limit
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.tasks.answer import text_of
from launcher.tasks.base import Task
from launcher.tasks.code import pass_at_k
from launcher.tasks.code.blocks import Code, program
from launcher.tasks.code.executor import Kind, Limits, Outcome, SandboxFault, execute
from launcher.tasks.code.isolation import isolation
from launcher.tasks.fewshot import Examples
from launcher.tasks.items import Item, count, digest, identified, read
from launcher.tasks.template import render

TRIES = 2
"""How often a program is run whose sandbox fails."""
UNSAFE = "the program ran without a sandbox (unsafe=true)"
CUT = "the program was cut at max_tokens"
FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)


@component("tasks/code")
class CodeGeneration(Task):
    """Asks for a program and runs it with its tests, in a sandbox.

    ``path``, ``id`` and ``limit`` are as in ``tasks/generation``, and so are ``prompt``, ``chat``, ``system``,
    ``fewshot``, ``fewshot_path``, ``fewshot_separator``, ``max_tokens``, ``temperature`` and ``stop``.
    ``fewshot_answer`` is the answer of an example.

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

    path: str = ""
    id: str = ""
    limit: Count | None = None
    prompt: str = "{{prompt}}"
    before: str = ""
    test: str = "{{test}}"
    code: Code = Code.all
    chat: bool = False
    system: str = ""
    fewshot: CountFromZero = 0
    fewshot_path: str = ""
    fewshot_answer: str = "{{code}}"
    fewshot_separator: str = "\n\n"
    max_tokens: Count = 1024
    temperature: NonNegative = 0.0
    stop: list[str] = field(default_factory=list)
    k: list[Count] = field(default_factory=lambda: [1])
    timeout_s: Count = 3
    memory_gib: Positive = 2.0
    unsafe: bool = False
    accept_truncated: bool = False

    def __post_init__(self) -> None:
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

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        isolation(self.unsafe)  # refused before anything is loaded
        shots = Examples(self.fewshot_path or self.path, "", "", self.fewshot, (), None, self._prompt)
        for key, item in identified(read(self.path, self.limit), self.id):
            body = {
                "model": model,
                **self._question(item, shots.of(item)),
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                **({"stop": list(self.stop)} if self.stop else {}),
            }
            path = "/v1/chat/completions" if self.chat else "/v1/completions"
            yield Sample(name, key, (Request(path, body),), self._target(item))

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
        shots = {"fewshot": digest(self.fewshot_path)} if self.fewshot and self.fewshot_path else {}
        return {"items": digest(self.path), **shots, "python": ".".join(map(str, sys.version_info[:2]))}

    def size(self) -> int:
        return min(count(self.path), self.limit or count(self.path))

    def _target(self, item: Item) -> dict[str, str]:
        return {"before": render(self.before, item), "test": render(self.test, item)}

    def _prompt(self, item: Item) -> str:
        return render(self.prompt, item)

    def _question(self, item: Item, shots: Sequence[Item]) -> dict[str, Json]:
        if self.chat:
            system = [{"role": "system", "content": render(self.system, item)}] if self.system else []
            return {"messages": [*system, *self._turns(shots), {"role": "user", "content": self._prompt(item)}]}
        shown = [self._prompt(shot) + render(self.fewshot_answer, shot) for shot in shots]
        return {"prompt": self.fewshot_separator.join([*shown, self._prompt(item)])}

    def _turns(self, shots: Sequence[Item]) -> Iterator[Json]:
        for shot in shots:
            yield {"role": "user", "content": self._prompt(shot)}
            yield {"role": "assistant", "content": render(self.fewshot_answer, shot)}


def assembled(before: str, found: str) -> str:
    """Return the program after what comes before it; its imports of ``__future__`` must come first."""
    if not before:
        return found
    return "".join(FUTURE.findall(found)) + before + FUTURE.sub("", found)
