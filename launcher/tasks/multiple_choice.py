"""A task whose answer is the most likely of given choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import field

from launcher.core.errors import TaskError
from launcher.core.ranges import Count
from launcher.core.responses import Fault, in_order
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks.base import Task
from launcher.tasks.items import Item, count, digest, identified, read
from launcher.tasks.loglikelihood import NoLogprobs, loglikelihood
from launcher.tasks.template import render

METRICS = Metric("acc"), Metric("acc_norm")


@component("tasks/multiple_choice")
class MultipleChoice(Task):
    """Asks for the log-likelihood of every choice, in one request with one prompt per choice.

    ``path``, ``id`` and ``limit`` as for generation tasks. ``context`` is a jinja template; a prompt is the context,
    ``prefix`` and the choice. ``choices`` is the dotted path of a field with a list of texts, or ``choice_templates``
    gives one template per choice. ``answer`` is the dotted path of the right one: its index from 0, or its text. It may
    also be a template for these, such as ``{{answer|int - 1}}`` where data count from 1. With ``labels``, the dotted
    path of a list as long as the choices, it is one of the labels.

    Metrics as in lm-evaluation-harness, where the first choice wins a tie. ``acc`` takes the choice with the highest
    log-likelihood, prefix included. ``acc_norm`` divides each by the number of characters of the choice, without the
    prefix. A server that does not return the log-probabilities of the whole prompt fails the sample.
    """

    path: str = ""
    id: str = ""
    limit: Count | None = None
    context: str = "{{question}}"
    choices: str = "choices"
    choice_templates: list[str] = field(default_factory=list)
    prefix: str = " "
    answer: str = "answer"
    labels: str = ""

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for key, item in identified(read(self.path, self.limit), self.id):
            context, choices = render(self.context, item), self._choices(item)
            index = self._index(item, choices)
            if not context:
                raise TaskError(f"{item.where}: the context is empty; log-likelihoods need something to follow")
            body = {
                "model": model,
                "prompt": [context + self.prefix + choice for choice in choices],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "echo": True,
            }
            target = {"index": index, "text": choices[index], "choices": choices}
            yield Sample(name, key, (Request("/v1/completions", body),), target)

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        choices: list[str] = sample.target["choices"]
        try:
            likelihoods = self._likelihoods(sample, responses[0].body)
        except (Fault, NoLogprobs) as error:
            return Score(Status.failed, reason=str(error))
        best, best_norm = _best(likelihoods), _best([v / len(c) for v, c in zip(likelihoods, choices, strict=True)])
        prediction = {"index": best, "text": choices[best], "index_norm": best_norm, "loglikelihoods": likelihoods}
        right = sample.target["index"]
        return Score(Status.scored, prediction, {"acc": float(best == right), "acc_norm": float(best_norm == right)})

    def fingerprint(self) -> Json:
        return {"items": digest(self.path)}

    def size(self) -> int:
        return min(count(self.path), self.limit or count(self.path))

    def _likelihoods(self, sample: Sample, body: Json) -> list[float]:
        prompts, choices = sample.requests[0].body["prompt"], sample.target["choices"]
        answers = in_order(body, len(prompts))
        starts = [len(prompt) - len(self.prefix + choice) for prompt, choice in zip(prompts, choices, strict=True)]
        return [loglikelihood(*parts) for parts in zip(answers, prompts, starts, strict=True)]

    def _choices(self, item: Item) -> list[str]:
        if self.choice_templates:
            found: Json = [render(template, item) for template in self.choice_templates]
        else:
            found = item.get(self.choices)
        if not isinstance(found, list) or len(found) < 2 or not all(isinstance(c, str) and c for c in found):
            raise TaskError(f"{item.where}: the choices must be a list of 2 or more texts, this is {found!r}")
        return found

    def _index(self, item: Item, choices: Sequence[str]) -> int:
        value = self._answer(item)
        if self.labels:
            return _position(value, item.get(self.labels), choices, f"{item.where}: answer={self.answer!r}")
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
            return value
        if isinstance(value, str) and list(choices).count(value) == 1:
            return choices.index(value)
        raise TaskError(
            f"{item.where}: answer={self.answer!r} gives {value!r}; expected an index from 0 to {len(choices) - 1} or "
            f"the text of a choice; a template makes one, such as answer='{{{{{_field(self.answer)}|int}}}}'"
        )

    def _answer(self, item: Item) -> Json:
        """Return the value of the answer's field, or what its template makes, a whole number as such."""
        if not _is_template(self.answer):
            return item.get(self.answer)
        made = render(self.answer, item).strip()
        return int(made) if re.fullmatch(r"-?\d{1,9}", made) and not self.labels else made


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _field(answer: str) -> str:
    return "answer" if _is_template(answer) else answer


def _position(value: Json, labels: Json, choices: Sequence[str], what: str) -> int:
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise TaskError(f"{what}: there are {len(choices)} choices, but the labels are {labels!r}")
    if labels.count(value) != 1:
        raise TaskError(f"{what} is {value!r}; one of the labels {labels!r} is needed")
    return labels.index(value)


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
