"""Reads the log-likelihood of a continuation out of an echoed completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from launcher.core import Json


class NoLogprobs(ValueError):
    """An answer without the log-probabilities of its whole prompt; says what is missing."""


def loglikelihood(choice: Mapping[str, Json], prompt: str, start: int) -> float:
    """Return the summed natural-log probability of ``prompt[start:]``, given what is before it.

    ``choice`` answers a request with ``echo``, ``logprobs`` and ``max_tokens=1``, as lm-evaluation-harness asks. The
    tokens that count are those of the prompt that reach beyond the character ``start``; the generated one, which begins
    at the prompt's end or later, does not. Raises `NoLogprobs` when the answer does not echo the prompt with one
    log-probability per token, since a sum of anything else would be scored at the level of chance.
    """
    text, logprobs = choice.get("text"), choice.get("logprobs")
    if not isinstance(text, str) or not text.startswith(prompt):
        raise NoLogprobs("the answer does not begin with the prompt: the server ignores 'echo'")
    if not isinstance(logprobs, Mapping):
        raise NoLogprobs("the answer has no 'logprobs'")
    values, offsets = logprobs.get("token_logprobs"), logprobs.get("text_offset")
    if not isinstance(values, list) or not isinstance(offsets, list) or len(values) != len(offsets):
        raise NoLogprobs("'token_logprobs' and 'text_offset' are not two lists of the same length")
    return math.fsum(_counted(values, offsets, len(prompt), start))


def _counted(values: Sequence[float | None], offsets: Sequence[int], end: int, start: int) -> list[float]:
    inside = [i for i, offset in enumerate(offsets) if offset < end]
    if not inside or offsets[0] != 0:
        raise NoLogprobs("the log-probabilities do not begin with the prompt's first token")
    if len(inside) == len(values):
        raise NoLogprobs("the log-probabilities do not reach beyond the prompt, where the generated token should be")
    ends = [*offsets[1:], end]
    counted = [values[i] for i in inside if offsets[i] >= start or ends[i] > start]
    if not counted:
        raise NoLogprobs("no token belongs to the continuation")
    if any(value is None or not math.isfinite(value) for value in counted):
        raise NoLogprobs("a token of the continuation has no finite log-probability")
    return [float(value) for value in counted if value is not None]
