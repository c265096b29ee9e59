"""From rows of logits to tokens and log-probabilities, each row by its own settings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from launcher.engines.base import Sampling, TokenConstraint, TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

GREEDY_BELOW = 1e-5
"""Temperatures under this would overflow the softmax; they mean greedy."""

ROWS_AT_ONCE = 128
"""Rows of log-probabilities in memory at a time, so that a long prompt over a large vocabulary needs no gigabytes."""


class Sampler:
    """The state of one sequence's sampling: its settings, random numbers and grammar, and what it has generated."""

    __slots__ = ("adjusted", "constraint", "counts", "greedy", "plain", "sampling", "uniform")

    def __init__(self, sampling: Sampling, constraint: TokenConstraint | None = None) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self.uniform = random.Random(sampling.seed).random
        self.counts: Counter[int] = Counter()
        self.greedy = sampling.temperature < GREEDY_BELOW
        penalised = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self.adjusted = penalised or bool(sampling.logit_bias)
        self.plain = self.greedy and not self.adjusted and sampling.logprobs is None and constraint is None

    def record(self, token: int) -> None:
        """Count a generated token for the penalties, and follow the grammar by it."""
        if self.adjusted:
            self.counts[token] += 1
        if self.constraint is not None:
            self.constraint.accept(token)

    def offsets(self, vocab_size: int) -> dict[int, float]:
        """Return what to add to the logit of each token: its bias, less its penalties (OpenAI's definition)."""
        s = self.sampling
        offsets = {t: b for t, b in s.logit_bias.items() if 0 <= t < vocab_size}
        for token, count in self.counts.items():
            offsets[token] = offsets.get(token, 0.0) - s.presence_penalty - s.frequency_penalty * count
        return offsets


class ScoreRequest:
    """Rows whose next token is known: ``targets``, one per row, with ``top`` alternatives each."""

    __slots__ = ("targets", "top")

    def __init__(self, targets: Sequence[int], top: int) -> None:
        self.targets = targets
        self.top = top


class SampleRequest:
    """One row whose next token is to be chosen by ``sampler``."""

    __slots__ = ("sampler",)

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler


def choose(
    logits: Tensor, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest], vocab_size: int
) -> list[TokenLogprob]:
    """Score and draw from ``logits`` [rows, padded vocabulary]: first the rows of ``scores``, then one row per draw.

    Log-probabilities are the model's own, computed in float32, and a token's equals the one among its alternatives
    exactly. Rows of padding, from ``vocab_size`` on, count in the model's distribution but are never chosen or shown.
    The result has one entry per row.
    """
    scored = sum(len(s.targets) for s in scores)
    drawn = _draw(logits[scored:], [d.sampler for d in draws], vocab_size)
    return [*_score(logits[:scored], scores, vocab_size), *drawn]


def of_next(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Return the log-probability of ``tokens[1:]`` from the logits [tokens, vocabulary] of a plain forward pass."""
    import torch

    targets = torch.tensor(tokens[1:], device=logits.device, dtype=torch.long)[:, None]
    wide = logits[:-1] if logits.dtype is torch.float64 else logits[:-1].float()
    found: list[float] = wide.log_softmax(-1).gather(1, targets)[:, 0].tolist()
    return found


def most_likely(logits: Tensor) -> list[int]:
    """Return the most likely token of each row, the first of equal ones.

    torch's argmax uses no vector instructions on a CPU: over 64 rows of 49,152 it takes ten times as long as numpy's.
    """
    import torch

    if logits.device.type == "cpu" and logits.dtype is torch.float32:
        on_cpu: list[int] = logits.numpy().argmax(-1).tolist()
        return on_cpu
    found: list[int] = logits.argmax(-1).tolist()
    return found


def _score(logits: Tensor, scores: Sequence[ScoreRequest], vocab_size: int) -> list[TokenLogprob]:
    targets = [t for s in scores for t in s.targets]
    tops = [s.top for s in scores for _ in s.targets]
    found: list[TokenLogprob] = []
    for at in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(at, at + ROWS_AT_ONCE)
        found += _logprobs(logits[rows], targets[rows], tops[rows], vocab_size)
    return found


def _draw(logits: Tensor, samplers: Sequence[Sampler], vocab_size: int) -> list[TokenLogprob]:
    if not samplers:
        return []
    if all(s.plain for s in samplers):
        return [plain_token(t) for t in most_likely(logits[:, :vocab_size])]
    tokens = _tokens(logits[:, :vocab_size], samplers)
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.record(token)
    wanted = [i for i, s in enumerate(samplers) if s.sampling.logprobs is not None]
    if not wanted:
        return [plain_token(t) for t in tokens]
    rows = logits if len(wanted) == len(samplers) else logits[wanted]
    tops = [samplers[i].sampling.logprobs or 0 for i in wanted]
    known = dict(zip(wanted, _logprobs(rows, [tokens[i] for i in wanted], tops, vocab_size), strict=True))
    return [known.get(i) or plain_token(t) for i, t in enumerate(tokens)]


@cache
def plain_token(token: int) -> TokenLogprob:
    """Return a token without log-probabilities; equal tokens share one object."""
    return TokenLogprob(token)


def _logprobs(logits: Tensor, targets: Sequence[int], tops: Sequence[int], vocab_size: int) -> list[TokenLogprob]:
    """Return each row's log-probability of its target, with its alternatives; one transfer to the host."""
    import torch

    logits = logits.float()
    normal = torch.logsumexp(logits, -1, keepdim=True)
    chosen = logits.gather(1, torch.tensor(targets, device=logits.device)[:, None]) - normal
    most = min(max(tops), vocab_size)
    if most == 0:
        return [TokenLogprob(t, p) for t, p in zip(targets, chosen[:, 0].tolist(), strict=True)]
    best = logits[:, :vocab_size].topk(most, -1)
    # One array of float64 holds token ids and float32 values exactly, and crosses to the host once.
    host = torch.cat((chosen.double(), (best.values - normal).double(), best.indices.double()), 1).tolist()
    return [
        TokenLogprob(token, row[0], tuple(zip(map(int, row[1 + most : 1 + most + top]), row[1 : 1 + top], strict=True)))
        for token, row, top in zip(targets, host, (min(t, most) for t in tops), strict=True)
    ]


def _tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Choose a token per row; greedy rows share one argmax."""
    logits = _constrain(_adjust(logits, samplers), samplers)
    tokens = most_likely(logits)
    random_rows = [i for i, s in enumerate(samplers) if not s.greedy]
    if random_rows:
        drawn = _sample(logits[random_rows].float(), [samplers[i] for i in random_rows])
        for row, token in zip(random_rows, drawn, strict=True):
            tokens[row] = token
    return tokens


def _adjust(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Add biases and penalties to the rows that have any; the logits themselves stay as the model gave them."""
    import torch

    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, sampler in enumerate(samplers):
        if sampler.adjusted:
            offsets = sampler.offsets(logits.shape[1])
            rows += [row] * len(offsets)
            columns += offsets.keys()
            values += offsets.values()
    if not rows:
        return logits
    at = tuple(torch.tensor(x, device=logits.device) for x in (rows, columns))
    return logits.float().index_put(at, torch.tensor(values, device=logits.device), accumulate=True)


def _constrain(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Rule out what the grammar of a row does not allow next; rows without a grammar stay as they are."""
    allowed = {row: s.constraint.allowed() for row, s in enumerate(samplers) if s.constraint is not None}
    if not allowed:
        return logits
    found = logits.clone()
    for row, tokens in allowed.items():
        found[row].masked_fill_(~tokens[: found.shape[1]].to(found.device), float("-inf"))
    return found


def _sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Draw by the inverse of each row's cumulative distribution, at one uniform number of the row's own generator.

    Temperature comes first, then top-k, then top-p, as in Hugging Face's transformers. A row's token depends on its
    logits, its settings and its generator only.
    """
    import torch

    settings = [s.sampling for s in samplers]
    temperatures = torch.tensor([s.temperature for s in settings], device=logits.device)
    weights = torch.softmax(logits / temperatures[:, None], -1)
    cut = [i for i, s in enumerate(settings) if s.top_p < 1 or 0 < s.top_k < logits.shape[1]]
    if cut:
        weights[cut] = _truncate(weights[cut], [settings[i] for i in cut])
    cumulative = weights.cumsum(-1)
    uniform = torch.tensor([s.uniform() for s in samplers], device=logits.device, dtype=cumulative.dtype)
    point = uniform[:, None] * cumulative[:, -1:]
    # The first token whose cumulative weight exceeds the point: one of weight 0 is never it.
    found = torch.searchsorted(cumulative, point, right=True)[:, 0]
    last = (weights > 0).int().cumsum(-1).argmax(-1)
    tokens: list[int] = torch.minimum(found, last).tolist()
    return tokens


def _truncate(weights: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Set the weights outside top-k and top-p to zero; the most likely token always stays."""
    import torch

    size = weights.shape[1]
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    keep = torch.tensor([s.top_k if 0 < s.top_k < size else size for s in settings], device=weights.device)
    ordered = ordered.masked_fill(torch.arange(size, device=weights.device) >= keep[:, None], 0.0)
    share = torch.tensor([s.top_p for s in settings], device=weights.device)[:, None] * ordered.sum(-1, keepdim=True)
    before = ordered.cumsum(-1) - ordered
    outside = (before >= share) & (torch.arange(size, device=weights.device) > 0)
    outside &= torch.tensor([s.top_p < 1 for s in settings], device=weights.device)[:, None]
    return torch.zeros_like(weights).scatter(1, order, ordered.masked_fill(outside, 0.0))
