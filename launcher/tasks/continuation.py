"""A task that asks how likely the right continuation of a text is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.responses import Fault, in_order
from launcher.core.types import Aggregation, Ask, Direction, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.stats.resampling import Sums, made_of
from launcher.tasks.base import faultless
from launcher.tasks.item_task import ItemTask
from launcher.tasks.items import Item
from launcher.tasks.loglikelihood import NoLogprobs, beginning, is_greedy, loglikelihood
from launcher.tasks.merged_echo import merged
from launcher.tasks.template import render


def _rows(loglikelihoods: Sequence[Json]) -> list[list[float]]:
    return [[each, 1.0] for each in loglikelihoods]


def _perplexities(sums: Any) -> Any:
    import numpy as np

    return np.exp(-sums[:, 0] / sums[:, 1])


@made_of(Sums(_rows, _perplexities))
def perplexity(loglikelihoods: Sequence[Json]) -> float:
    """Return the perplexity per item, as the metric of this name in lm-evaluation-harness."""
    return math.exp(-math.fsum(loglikelihoods) / len(loglikelihoods))


METRICS = (
    Metric("acc"),
    Metric("perplexity", Direction.lower, (1.0, None), Aggregation.corpus, perplexity),
)


@component("tasks/continuation")
class Continuation(ItemTask):
    """Asks for the log-likelihood of a text after its context, as tasks of lm-evaluation-harness with one do (LAMBADA).

    Items and examples come as in all tasks over files (``path`` to ``fewshot_separator``). ``context`` and
    ``continuation`` are jinja templates. An example shows both.

    ``acc`` is 1 if each token of the continuation is the most likely one. ``perplexity`` is the exponential of the mean
    negative log-likelihood: that of whole continuations, not of their tokens. White space at the end of the context
    counts as the continuation's.
    """

    context: str = "{{context}}"
    continuation: str = " {{continuation}}"

    def __post_init__(self) -> None:
        self.check_settings("context", "continuation")

    def prompt_of(self, item: Item) -> str:
        return render(self.context, item)

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for key, item in self.rows():
            shots = [self.prompt_of(shot) + render(self.continuation, shot) for shot in self.examples.of(item)]
            context = self.described(item) + self.fewshot_separator.join([*shots, self.prompt_of(item)])
            continuation = render(self.continuation, item)
            if not context or not continuation:
                raise TaskError(f"{item.where}: the {'continuation' if context else 'context'} is empty")
            body = {
                "model": model,
                "prompt": context + continuation,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "echo": True,
            }
            yield Sample(name, key, (Request("/v1/completions", body),), continuation, **self.labels_of(item))

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        prompt = sample.requests[0].body["prompt"]
        start = beginning(prompt, sample.target)
        try:
            (answer,) = in_order(responses[0].body, 1)
            found, greedy = loglikelihood(answer, prompt, start), is_greedy(answer, prompt, start)
        except (Fault, NoLogprobs) as error:
            return Score(Status.failed, reason=str(error))
        prediction = {"loglikelihood": found, "is_greedy": greedy}
        return Score(Status.scored, prediction, {"acc": float(greedy), "perplexity": found})

    @faultless
    def kept(self, sample: Sample, bodies: Sequence[Json]) -> Sequence[Json]:
        prompt = sample.requests[0].body["prompt"]
        (answer,) = in_order(bodies[0], 1)
        return [bodies[0] | {"choices": [merged(answer, prompt, beginning(prompt, sample.target), tops=True)]}]

    def fingerprint(self) -> Json:
        return self.item_digests()
