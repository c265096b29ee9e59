"""What tasks with a judge have in common: they ask for text as generation tasks do, and ask a judge about it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from launcher.core.errors import UserError
from launcher.core.ranges import Count, NonNegative, Seed
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.tasks.answer import text_of
from launcher.tasks.items import Item
from launcher.tasks.judge.verdict import LINE, check_line
from launcher.tasks.messages import system, user
from launcher.tasks.scorer import plain_item
from launcher.tasks.template import render, text, value
from launcher.tasks.text_task import TextTask

ENDPOINT = "judge"
MARK_DIGITS = 10
NOTHING: Mapping[str, Json] = {}


@dataclass
class JudgedTask(TextTask):
    """The settings of the questions, and of the judge's requests.

    ``prompt``, ``target``, ``chat``, ``system`` and the few-shot settings are as in generation tasks. ``target`` is the
    reference answer that the judge is shown; empty for none.

    The judge gets ``rubric``, a jinja template, over chat, after ``judge_system`` if that is given. Its request has
    ``judge_max_tokens``, ``judge_temperature``, ``judge_seed`` and ``judge_stop``. It is asked ``votes`` times, with
    further seeds. ``verdict``, a regular expression with one group, must match the whole last line of the reply.
    """

    asks_judge: ClassVar[bool] = True

    target: str = ""
    chat: bool = True
    max_tokens: Count = 1024
    rubric: str = ""
    judge_system: str = ""
    judge_max_tokens: Count = 2048
    judge_temperature: NonNegative = 0.0
    judge_seed: Seed = 0
    judge_stop: list[str] = field(default_factory=list)
    votes: Count = 1
    verdict: str = LINE

    def __post_init__(self) -> None:
        self.check_settings("target", "rubric", "judge_system")
        check_line(self.verdict)
        if self.votes > 1 and not self.judge_temperature:
            raise UserError(
                f"tasks: votes={self.votes}: equal requests get equal replies; set judge_temperature above 0"
            )

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for sample in super().samples(name, model):
            self.judge_prompts(sample, "an answer")  # what the rubric lacks is said before anything is loaded
            yield sample

    def target_of(self, item: Item) -> Json:
        """Return the item, with the reference answer for the judge."""
        return {"item": plain_item(item.fields), "reference": self._reference(item) if self.target else None}

    def _reference(self, item: Item) -> str:
        return text(value(self.target, item), item.where, f"target={self.target}")

    def shown_answer(self, shot: Item) -> str:
        return self._reference(shot) if self.target and not self.fewshot_answer else super().shown_answer(shot)

    def judge_prompts(self, sample: Sample, answer: str) -> Sequence[str]:
        """Return what the judge is asked about an answer. Raises `TaskError` for a field that is missing."""
        raise NotImplementedError

    def fingerprint(self) -> Json:
        return {**self.item_digests(), "rubric": self.used_rubric}

    @property
    def used_rubric(self) -> str:
        """The template that the judge gets."""
        raise NotImplementedError

    def rendered(self, sample: Sample, answers: Mapping[str, str], more: Mapping[str, Json] = NOTHING) -> str:
        """Return the rubric over the item's fields, with ``prompt``, ``target``, ``mark``, ``answers`` and ``more``.

        ``mark`` is a code that no answer contains, as it depends on all of them.
        """
        item = Item(sample.target["item"], f"sample {sample.id}", 0)
        together = "\0".join(answers.values()).encode(errors="replace")
        mark = hashlib.sha256(together).hexdigest()[:MARK_DIGITS]
        own = {
            "item": item.fields,
            "prompt": self.prompt_of(item),
            "target": sample.target["reference"] or "",
            "mark": mark,
        }
        return render(self.used_rubric, replace(item, fields={**item.fields, **own, **answers, **more}))

    def answer(self, responses: Sequence[Response]) -> str | Score:
        """Return the answer that is judged, or how a sample without one ends."""
        found = text_of(responses[0], accept_truncated=self.accept_truncated)
        empty = isinstance(found, str) and not found.strip()
        return Score(Status.unparsed, reason="the answer is empty") if empty else found

    async def asked(self, sample: Sample, prompts: Sequence[str], ask: Ask) -> Sequence[Response]:
        """Ask the judge each of ``prompts``, ``votes`` times, and return the replies of the first prompt first."""
        requests = [self._request(sample, prompt, vote) for prompt in prompts for vote in range(self.votes)]
        return await asyncio.gather(*(ask(request, ENDPOINT) for request in requests))

    def _request(self, sample: Sample, prompt: str, vote: int) -> Request:
        item = Item(sample.target["item"], f"sample {sample.id}", 0)
        body: Mapping[str, Json] = {
            "messages": [*system(render(self.judge_system, item)), user(prompt)],
            "max_tokens": self.judge_max_tokens,
            "temperature": self.judge_temperature,
            "seed": self.judge_seed + vote,
            **({"stop": list(self.judge_stop)} if self.judge_stop else {}),
        }
        return Request("/v1/chat/completions", body)
