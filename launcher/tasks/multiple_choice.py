"""A task whose answer is the most likely of given choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from launcher.core.errors import TaskError
from launcher.core.ranges import Takes
from launcher.core.responses import Fault, in_order
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks.base import faultless
from launcher.tasks.choices import ChoiceReader
from launcher.tasks.item_task import ItemTask
from launcher.tasks.items import Item
from launcher.tasks.loglikelihood import NoLogprobs, beginning, loglikelihood
from launcher.tasks.merged_echo import merged
from launcher.tasks.template import render

METRICS = Metric("acc"), Metric("acc_norm")


@component("tasks/multiple_choice")
class MultipleChoice(ItemTask):
    """Asks for the log-likelihood of every choice, in one request with one prompt per choice.

    Items and examples come as in all tasks over files (``path`` to ``fewshot_separator``). ``context`` is a jinja
    template; a prompt is the context, ``prefix`` and the choice. An example shows its right choice.

    ``choices`` is the dotted path of a field with a list, or a template that makes one, such as ``{{[a, b, c]}}``. A
    list of templates, as ``choice_templates`` is, has one per choice. ``answer`` is the dotted path or a template of
    the right one: its index from 0, its text, or its letter from A. A template fits other data: ``{{answer|int - 1}}``
    where they count from 1. With ``labels``, it is one of the labels: a list as long as the choices, such as ``[false,
    true]``. That too may be a dotted path or a template.

    Metrics as in lm-evaluation-harness, where the first choice wins a tie. ``acc`` takes the choice with the highest
    log-likelihood, prefix included. ``acc_norm`` divides each by the number of characters of the choice, without the
    prefix. White space at the end of the context counts as the choice's. A server that does not return the
    log-probabilities of the whole prompt fails the sample.

    With ``continuation``, a template, the choices belong to the context: the log-likelihood of this one text after each
    of them is compared, as for WinoGrande. The only metric is ``acc``.
    """

    context: str = "{{question}}"
    choices: Annotated[Any, Takes("text, or a list of texts")] = "choices"
    choice_templates: list[str] = field(default_factory=list)
    prefix: str = " "
    answer: str = "answer"
    labels: Annotated[Any, Takes("text, or a list")] = ""
    continuation: str = ""

    def __post_init__(self) -> None:
        self.check_settings("context", "continuation")
        self._reader.check()

    @property
    def _reader(self) -> ChoiceReader:
        return ChoiceReader(self.choices, self.choice_templates, self.answer, self.labels)

    def prompt_of(self, item: Item) -> str:
        return render(self.context, item)

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS[:1] if self.continuation else METRICS

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for key, item in self.rows():
            choices, index = self._read(item)
            continuation = render(self.continuation, item)
            shots = [self.prompt_of(shot) + self._shown_answer(shot) for shot in self.examples.of(item)]
            context = self.described(item) + self.fewshot_separator.join([*shots, self.prompt_of(item)])
            if not context and not continuation:
                raise TaskError(f"{item.where}: the context is empty; log-likelihoods need something to follow")
            prompts = [context + self.prefix + choice + continuation for choice in choices]
            body = {
                "model": model,
                "prompt": prompts,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "echo": True,
            }
            target = {"index": index, "text": choices[index], "choices": choices}
            if self.continuation:
                target["continuation"] = continuation
            counted = tuple(_starts(prompts, self._ends(target)))
            request = Request("/v1/completions", body, counted=counted)
            yield Sample(name, key, (request,), target, **self.labels_of(item))

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        choices: list[str] = sample.target["choices"]
        try:
            likelihoods = self._likelihoods(sample, responses[0].body)
        except (Fault, NoLogprobs) as error:
            return Score(Status.failed, reason=str(error))
        best, right = _best(likelihoods), sample.target["index"]
        if self.continuation:
            prediction = {"index": best, "text": choices[best], "loglikelihoods": likelihoods}
            return Score(Status.scored, prediction, {"acc": float(best == right)})
        best_norm = _best([v / len(c) for v, c in zip(likelihoods, choices, strict=True)])
        prediction = {"index": best, "text": choices[best], "index_norm": best_norm, "loglikelihoods": likelihoods}
        return Score(Status.scored, prediction, {"acc": float(best == right), "acc_norm": float(best_norm == right)})

    @faultless
    def kept(self, sample: Sample, bodies: Sequence[Json]) -> Sequence[Json]:
        prompts, starts = sample.requests[0].body["prompt"], self._starts(sample)
        places = [(choice, choice["index"]) for choice in bodies[0]["choices"]]
        short = [merged(choice, prompts[place], starts[place], tops=False) for choice, place in places]
        return [bodies[0] | {"choices": short}]

    def fingerprint(self) -> Json:
        return self.item_digests()

    def _likelihoods(self, sample: Sample, body: Json) -> list[float]:
        prompts = sample.requests[0].body["prompt"]
        answers = in_order(body, len(prompts))
        return [loglikelihood(*parts) for parts in zip(answers, prompts, self._starts(sample), strict=True)]

    def _starts(self, sample: Sample) -> list[int]:
        """Return where in each prompt the part begins that counts."""
        return _starts(sample.requests[0].body["prompt"], self._ends(sample.target))

    def _ends(self, target: Mapping[str, Json]) -> list[str]:
        """Return the text at the end of each prompt that counts, at least."""
        return [target.get("continuation") or self.prefix + choice for choice in target["choices"]]

    def _read(self, item: Item) -> tuple[list[str], int]:
        """Return the choices and the index of the right one."""
        choices = self._reader.of(item)
        return choices, self._reader.right(item, choices)

    def _shown_answer(self, item: Item) -> str:
        choices, index = self._read(item)
        return self.prefix + choices[index] + render(self.continuation, item)


def _starts(prompts: Sequence[str], ends: Sequence[str]) -> list[int]:
    return [beginning(prompt, end) for prompt, end in zip(prompts, ends, strict=True)]


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
