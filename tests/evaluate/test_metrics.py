"""Scores and the metrics that a task declares, through an evaluation."""

from __future__ import annotations

import io
import math

import pytest

from launcher.core.types import Aggregation, Direction, Interval, Score, Status
from launcher.evaluate.progress import LineProgress
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, serving
from tests.evaluate.test_progress import One


def perplexity(parts):
    return math.exp(sum(loss for loss, _ in parts) / sum(tokens for _, tokens in parts))


class Perplexity(Echoes):
    metrics = (Metric("perplexity", Direction.lower, (1.0, None), Aggregation.corpus, perplexity),)

    async def score(self, sample, responses, ask):
        tokens = int(sample.id) + 1
        return Score(Status.scored, None, {"perplexity": [0.5 * tokens + tokens % 2, tokens]})


async def run(folder, task):
    out = io.StringIO()
    async with serving() as server:
        shown = LineProgress(One(), out)
        found = await evaluate(server.endpoint, {"t": task}, [], Evaluate(), folder, {"v": 1}, shown)
    return found.tasks["t"], out.getvalue()


async def test_a_metric_of_the_corpus_is_computed_from_all_samples(tmp_path):
    found, shown = await run(tmp_path, Perplexity(20))
    metric = found.metrics["perplexity"]
    assert metric.value == pytest.approx(math.exp(0.5 + 10 / 210))
    assert (metric.n, metric.interval, metric.direction) == (20, Interval.bootstrap, Direction.lower)
    assert "mean" not in shown


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"f1": 1.0}, "scoring failed: it gave 'f1'; the task declares exact_match"),
        ({"exact_match": 1.5}, "scoring failed: exact_match is 1.5, outside of its range [0, 1]"),
        ({"exact_match": math.nan}, "scoring failed: exact_match is nan, expected a finite number"),
    ],
)
async def test_a_score_that_no_metric_allows_fails_the_sample(tmp_path, scores, reason):
    class Wrong(Echoes):
        async def score(self, sample, responses, ask):
            return Score(Status.scored, None, scores)

    found, _ = await run(tmp_path, Wrong(2))
    assert (found.coverage["failed"], dict(found.metrics)) == (2, {})
    assert found.reasons == {"failed": {reason: 2}}
