"""A task whose answers a judge rates, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field

from launcher.core.errors import UserError
from launcher.core.ranges import Bound
from launcher.core.types import Ask, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks.judge import prompts
from launcher.tasks.judge.judged_task import JudgedTask
from launcher.tasks.judge.verdict import label_of, number_of, verdict_of


@component("tasks/judge")
class JudgeScore(JudgedTask):
    """Asks for text, and asks the run's judge to rate it.

    Items, prompts and examples are as in generation tasks. ``target`` is the reference answer that the judge is shown,
    a template or the dotted path of a field; empty for none.

    The judge gets ``rubric``, a jinja template over the item's fields (empty: one of ours). In it ``answer`` is the
    model's answer, ``target`` the reference, ``prompt`` what was asked, and ``mark`` a code that no answer contains.
    ``low``, ``high`` and ``labels`` are those below. An item's own field of such a name is ``item.answer``.
    ``judge_system`` is a system message before it.

    The verdict is a number from ``low`` to ``high``. ``rescale`` maps these to 0 and 1. With ``labels``, such as
    ``{CORRECT: 1, INCORRECT: 0}``, it is one of them, and counts as the number beside it. It is read from the last
    line of the judge's reply alone, all of which ``verdict`` must match; its group is the verdict. What cannot be read
    is ``unparsed``. Reasoning up to ``</think>`` is passed over.

    A request to the judge has ``judge_max_tokens``, ``judge_temperature``, ``judge_seed`` and ``judge_stop``. It is
    sent ``votes`` times with further seeds: the score is the mean of the numbers, or the label that most votes have.
    """

    low: Bound = 1.0
    high: Bound = 10.0
    rescale: bool = False
    labels: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise UserError(f"tasks: low={self.low:g}, high={self.high:g}: expected low < high")
        if self.labels and len(set(self.labels.values())) < 2:
            raise UserError(f"tasks: labels={self.labels}: expected two or more labels with different numbers")
        if self.labels and len({label.casefold() for label in self.labels}) < len(self.labels):
            raise UserError(f"tasks: labels={self.labels}: two labels differ in case only")

    @property
    def metrics(self) -> Sequence[Metric]:
        if self.labels:
            return (Metric("judge_score", range=(min(self.labels.values()), max(self.labels.values()))),)
        return (Metric("judge_score", range=(0.0, 1.0) if self.rescale else (self.low, self.high)),)

    @property
    def used_rubric(self) -> str:
        return self.rubric or (prompts.LABELS if self.labels else prompts.SCALE)

    def judge_prompts(self, sample: Sample, answer: str) -> Sequence[str]:
        scale = {"low": f"{self.low:g}", "high": f"{self.high:g}", "labels": ", ".join(self.labels)}
        return [self.rendered(sample, {"answer": answer}, scale)]

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        answer = self.answer(responses)
        if isinstance(answer, Score):
            return answer
        replies = await self.asked(sample, self.judge_prompts(sample, answer), ask)
        verdicts = [await verdict_of(reply, self.verdict) for reply in replies]
        lost = next((verdict for verdict in verdicts if isinstance(verdict, Score)), None)
        return lost or self._score([verdict for verdict in verdicts if isinstance(verdict, str)])

    def _score(self, verdicts: Sequence[str]) -> Score:
        read = [
            label_of(each, self.labels) if self.labels else number_of(each, self.low, self.high) for each in verdicts
        ]
        strange = next((said for said, each in zip(verdicts, read, strict=True) if each is None), None)
        if strange is not None:
            return Score(Status.unparsed, reason=f"judge: the verdict {strange!r} is none of {self._expected}")
        if self.labels:
            return self._most_common([str(each) for each in read])
        mean = sum(float(each) for each in read if each is not None) / len(read)
        value = (mean - self.low) / (self.high - self.low) if self.rescale else mean
        return Score(Status.scored, verdicts[0] if len(verdicts) == 1 else list(verdicts), {"judge_score": value})

    def _most_common(self, labels: Sequence[str]) -> Score:
        """Return the score of the label with the most votes; a tie between labels is no verdict."""
        ranked = Counter(labels).most_common(2)
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            return Score(Status.unparsed, reason=f"judge: its votes are tied: {', '.join(labels)}")
        return Score(Status.scored, ranked[0][0], {"judge_score": self.labels[ranked[0][0]]})

    @property
    def _expected(self) -> str:
        return ", ".join(self.labels) if self.labels else f"the numbers from {self.low:g} to {self.high:g}"
