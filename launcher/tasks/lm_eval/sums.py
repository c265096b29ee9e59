"""The aggregations of lm-evaluation-harness that are made of sums, so that their bootstrap is fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from launcher.core.types import Json
from launcher.stats.resampling import Sums

BINARY = (0, 1)


def of(function: Callable[..., Any]) -> Sums | None:
    """Return how an aggregation of lm-eval is made of sums; None for another function."""
    from lm_eval.api import metrics

    known: dict[Any, Sums] = {
        metrics.perplexity: Sums(_alone, _perplexities),
        metrics.weighted_perplexity: Sums(_pairs, _perplexities),
        metrics.bits_per_byte: Sums(_pairs, _bits),
        metrics.f1_score: Sums(_confusion, _f1),
        metrics.matthews_corrcoef: Sums(_confusion, _matthews),
        metrics.bleu: _of_sacrebleu("BLEU"),
        metrics.chrf: _of_sacrebleu("CHRF"),
        metrics.chrfpp: _of_sacrebleu("CHRF", word_order=2),
        metrics.ter: _of_sacrebleu("TER"),
    }
    return known.get(function)


def _alone(values: Sequence[Json]) -> list[list[float]]:
    return [[value, 1.0] for value in values]


def _pairs(values: Sequence[Json]) -> list[list[float]]:
    return [[value, weight] for value, weight in values]


def _perplexities(sums: Any) -> Any:
    import numpy as np

    return np.exp(-sums[:, 0] / sums[:, 1])


def _bits(sums: Any) -> Any:
    return -(sums[:, 0] / sums[:, 1]) / math.log(2)


def _confusion(values: Sequence[Json]) -> list[list[float]] | None:
    """Return of each pair of labels which of the four cases it is; None where there are others than 0 and 1."""
    if not all(label in BINARY for pair in values for label in pair):
        return None
    return [[gold and said, said and not gold, gold and not said, not gold and not said] for gold, said in values]


def _f1(sums: Any) -> Any:
    import numpy as np

    both, said, gold, _ = sums.T
    return 2 * both / np.maximum(2 * both + said + gold, 1)


def _matthews(sums: Any) -> Any:
    """Return Matthews' coefficient; 0 where one of the four margins is empty, as scikit-learn does."""
    import numpy as np

    both, said, gold, none = sums.T
    margins = np.sqrt((both + said) * (both + gold) * (none + said) * (none + gold))
    return np.where(margins > 0, (both * none - said * gold) / np.where(margins > 0, margins, 1), 0.0)


def _of_sacrebleu(name: str, **settings: int) -> Sums:
    """Return the sums of a metric of sacrebleu, which its own tests of significance use as well."""

    def metric() -> Any:
        import sacrebleu.metrics

        return getattr(sacrebleu.metrics, name)(**settings)

    def rows(values: Sequence[Json]) -> Any:
        from lm_eval.api.metrics import _sacreformat

        references, texts = _sacreformat(*zip(*values, strict=True))
        return metric()._extract_corpus_statistics(texts, references)

    def value(sums: Any) -> list[float]:
        scored = metric()
        return [float(scored._compute_score_from_stats(each).score) for each in sums.tolist()]

    return Sums(rows, value)
