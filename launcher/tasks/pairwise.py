"""A task whose answers a judge compares with other answers to the same questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Ask, Direction, Json, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks.judge import prompts
from launcher.tasks.judge.judged_task import JudgedTask
from launcher.tasks.judge.other_answers import OtherAnswers, digest
from launcher.tasks.judge.verdict import label_of, verdict_of

SIDES = {"A": 1.0, "B": 0.0, prompts.EQUAL: 0.5}
"""What a verdict says of the first answer."""
METRICS = (
    Metric("win_rate"),
    Metric("wins"),
    Metric("ties"),
    Metric("losses"),
    Metric("consistency"),
    Metric("position_flips", direction=Direction.lower),
)


@component("tasks/pairwise")
class Pairwise(JudgedTask):
    """Asks for text, and asks the run's judge whether it is better than another answer to the same question.

    The other answer is ``target``, a template or the dotted path of a field. Or it is that of another run, which had
    the same prompts: ``against`` is its folder, ``against_task`` the task's name there (empty: the same).

    The judge sees each pair twice, with the positions swapped. Only a verdict that both orders give counts; any other
    pair is a tie. ``win_rate`` counts a tie as half a win; ``wins``, ``ties`` and ``losses`` are the shares.
    ``consistency`` is the share of pairs with the same verdict in both orders. ``position_flips`` is the share in which
    the judge preferred the same position twice.

    ``rubric`` and the other settings of the judge are as in ``tasks/judge``, with ``answer_a`` and ``answer_b`` in the
    rubric. A verdict is A, B or tie. With ``votes`` each order has the verdict that most votes have.
    """

    against: str = ""
    against_task: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.against) is bool(self.target):
            given = "both are given" if self.target else "none is given"
            raise UserError(f"tasks: target and against: {given}; a pair needs one of them as the other answer")

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS

    @property
    def used_rubric(self) -> str:
        return self.rubric or prompts.PAIR

    def fingerprint(self) -> Json:
        return {**super().fingerprint(), **({"against": digest(self.against)} if self.against else {})}

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        others = OtherAnswers(self.against, self.against_task or name) if self.against else None
        for sample in super().samples(name, model):
            if others is not None:
                other = others.answer(sample.id, sample.requests[0])
                yield replace(sample, target={**sample.target, "reference": other})
            elif not str(sample.target["reference"]).strip():
                raise TaskError(f"sample '{sample.id}': target={self.target!r} is empty, and is the other answer")
            else:
                yield sample

    def judge_prompts(self, sample: Sample, answer: str) -> Sequence[str]:
        other = sample.target["reference"] or ""
        return [
            self.rendered(sample, {"answer_a": first, "answer_b": second})
            for first, second in ((answer, other), (other, answer))
        ]

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        answer = self.answer(responses)
        if isinstance(answer, Score):
            return answer
        if sample.target["reference"] is None:
            return Score(Status.failed, reason=f"against={self.against}: it has no complete answer to this sample")
        replies = await self.asked(sample, self.judge_prompts(sample, answer), ask)
        sides = [await self._side(replies[start : start + self.votes]) for start in (0, self.votes)]
        lost = next((side for side in sides if isinstance(side, Score)), None)
        return lost or _score(*(str(side) for side in sides))

    async def _side(self, replies: Sequence[Response]) -> str | Score:
        """Return the verdict of one order: the one that most votes have, else a tie."""
        votes: Counter[str] = Counter()
        for reply in replies:
            found = await verdict_of(reply, self.verdict)
            if isinstance(found, Score):
                return found
            side = label_of(found, SIDES)
            if side is None:
                reason = f"judge: the verdict {found!r} is none of A, B, {prompts.EQUAL}"
                return Score(Status.unparsed, reason=reason)
            votes[side] += 1
        (first, most), *rest = votes.most_common(2)
        return prompts.EQUAL if rest and rest[0][1] == most else first


def _score(first: str, second: str) -> Score:
    """Return the score of an answer that was A in the first order, and B in the second."""
    one, other = SIDES[first], 1 - SIDES[second]
    value = one if one == other else 0.5
    names = {1.0: "win", 0.5: "tie", 0.0: "loss"}
    scores = {
        "win_rate": value,
        "wins": float(value == 1.0),
        "ties": float(value == 0.5),
        "losses": float(value == 0.0),
        "consistency": float(one == other),
        "position_flips": float(first == second != prompts.EQUAL),
    }
    return Score(Status.scored, {"outcome": names[value], "verdicts": [first, second]}, scores)
