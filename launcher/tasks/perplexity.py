"""A task that asks how well the model predicts texts: perplexity by token, word and byte."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count, CountFromZero
from launcher.core.responses import Fault, in_order
from launcher.core.types import (
    Aggregation,
    Ask,
    Direction,
    Endpoint,
    Json,
    Request,
    Response,
    Sample,
    Score,
    Status,
    expanded,
)
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.stats.resampling import Sums, made_of
from launcher.tasks.base import Task
from launcher.tasks.endpoint_tokenizer import EndpointTokenizer
from launcher.tasks.loglikelihood import NoLogprobs, of_tokens
from launcher.tasks.merged_echo import merged_tokens
from launcher.tasks.template import check_template
from launcher.tasks.texts import PATTERN, Text, TextSource
from launcher.tasks.windows import Window, shares, windows

LEAST = 3
"""The fewest tokens of a context that can score one: the token before it, itself, and a generated one."""
PREVIEWED = 200
"""Characters of a text that are shown before there is a tokenizer."""


def _totals(values: Sequence[Json]) -> tuple[float, int]:
    """Return the log-likelihood of all texts and their weight, each text summed up first, as lm-eval does."""
    if len({context for _, context, _, _ in values}) > 1:
        raise ValueError("its windows have different lengths: the server's context has changed between sessions")
    texts: dict[str, list[float]] = defaultdict(list)
    for text, _, loglikelihood, _ in values:
        texts[text].append(loglikelihood)
    return sum(sum(found) for found in texts.values()), sum(weight for *_, weight in values)


def _rows(values: Sequence[Json]) -> list[list[float]] | None:
    """Return the log-likelihood and the weight of each window; None for windows of different lengths."""
    if len({context for _, context, _, _ in values}) > 1:
        return None
    return [[loglikelihood, weight] for _, _, loglikelihood, weight in values]


def _perplexities(sums: Any) -> Any:
    import numpy as np

    return np.exp(-(sums[:, 0] / sums[:, 1]))


def _bits(sums: Any) -> Any:
    return -(sums[:, 0] / sums[:, 1]) / math.log(2)


@made_of(Sums(_rows, _perplexities))
def perplexity(values: Sequence[Json]) -> float:
    """Return the perplexity per unit of weight."""
    loglikelihood, weight = _totals(values)
    return math.exp(-(loglikelihood / weight))


@made_of(Sums(_rows, _bits))
def bits(values: Sequence[Json]) -> float:
    """Return the bits per unit of weight."""
    loglikelihood, weight = _totals(values)
    return -(loglikelihood / weight) / math.log(2)


UNITS = {
    "token_perplexity": "tokens",
    "word_perplexity": "words",
    "byte_perplexity": "bytes",
    "bits_per_byte": "bytes",
}
"""By what each metric divides the log-likelihood."""
METRICS = tuple(
    Metric(name, Direction.lower, (0.0, None), Aggregation.corpus, bits)
    if name == "bits_per_byte"
    else Metric(name, Direction.lower, (1.0, None), Aggregation.corpus, perplexity)
    for name in UNITS
)


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Reader:
    """How texts become prompts, once the endpoint is known."""

    tokenizer: Encoder
    prefix: int
    context: int
    stride: int

    def windows(self, text: Text) -> list[Window]:
        """Return the windows of a text. Raises `TaskError` for one without tokens."""
        tokens = self.tokenizer.encode(text.text)
        if not tokens:
            raise TaskError(f"{text.where}: the tokenizer makes no token of this text")
        return list(windows(tokens, self.prefix, self.context - 1, self.stride))


@component("tasks/perplexity")
class Perplexity(Task):
    """Asks how well the model predicts texts, as a rolling log-likelihood of lm-evaluation-harness.

    ``path`` is a text file, a folder of texts, or a file of items. ``files`` is the pattern of the names in a folder.
    ``text`` is the field of an item that holds the text, or a template. Items are files of JSON lines, .json, .csv,
    .tsv, .parquet, a folder of ``datasets.save_to_disk``, or ``hub:<name>``, with ``config``, ``split`` and ``id``.
    ``limit`` takes the first texts. Each text stands alone, unless ``join`` is what to put between them.

    A text that is longer than the context is scored in windows, each of its tokens in exactly one. ``max_length`` is
    the length of a window in tokens, with one that the server generates (null: the server's context). The first window
    scores as many tokens as fit, each later one the next ``stride`` (null: as many as fit). A smaller ``stride`` gives
    each token more context and costs more. The first token of a text follows ``prefix_token_id`` (null: the token for
    the beginning of a sequence, else for its end). ``tokenizer`` is the folder of a tokenizer; empty takes that of the
    endpoint.
    """

    path: str = ""
    text: str = "text"
    files: str = PATTERN
    config: str = ""
    split: str = ""
    id: str = ""
    limit: Count | None = None
    join: str | None = None
    tokenizer: str = ""
    max_length: Count | None = None
    stride: Count | None = None
    prefix_token_id: CountFromZero | None = None

    def __post_init__(self) -> None:
        check_template(self.text, "text")
        if self.max_length is not None and self.max_length < LEAST:
            raise UserError(f"tasks: max_length={self.max_length} is too short; a window needs at least {LEAST} tokens")
        self._reader: Reader | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS

    @property
    def _source(self) -> TextSource:
        return TextSource(self.path, self.text, self.files, self.id, self.config, self.split)

    def texts(self) -> Iterator[Text]:
        """Yield the texts that are scored. Raises `TaskError`."""
        found = islice(self._source.texts(), self.limit)
        if self.join is None:
            yield from found
            return
        yield Text("joined", self.join.join(text.text for text in found), self.path)

    def check_data(self) -> None:
        self._source.check()

    def preview(self, name: str, model: str) -> Iterator[Sample]:
        """Yield the beginning of each text, without a tokenizer."""
        for text in self.texts():
            yield Sample(name, f"{text.id}:0", (_request(model, text.text[:PREVIEWED]),), None)

    def prepare(self, endpoint: Endpoint) -> None:
        """Get the tokenizer, and the length of the windows. Raises `TaskError`."""
        served = EndpointTokenizer(endpoint)
        tokenizer: Encoder = _local(self.tokenizer) if self.tokenizer else served
        context = self._context(served)
        self._reader = Reader(tokenizer, self._prefix(tokenizer), context, self._stride(context))

    def _context(self, served: EndpointTokenizer) -> int:
        try:
            known = served.context_length
        except TaskError as error:
            if not self.tokenizer or self.max_length is None:
                remedy = "set tokenizer=<folder of a tokenizer> and max_length=<tokens>"
                raise TaskError(f"{error}; without the server, {remedy}") from None
            known = None  # stored answers are scored again
        if known is None and self.max_length is None:
            raise TaskError("the server does not say how long its context is; set max_length=<tokens>")
        if known is not None and (self.max_length or known) > known:
            raise TaskError(f"max_length={self.max_length} is more than the server's context of {known} tokens")
        return self.max_length or known or 0

    def _stride(self, context: int) -> int:
        fits = context - 2
        if self.stride is not None and self.stride > fits:
            raise TaskError(f"stride={self.stride} leaves out tokens; a window of {context} scores at most {fits}")
        return self.stride or fits

    def _prefix(self, tokenizer: Encoder) -> int:
        found = (self.prefix_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        known = next((token for token in found if token is not None), None)
        if known is None:
            raise TaskError("the tokenizer has no token for the beginning of a text; set prefix_token_id=<token id>")
        return known

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        if self._reader is None:
            yield from self.preview(name, model)
            return
        for text in self.texts():
            yield from self._samples(name, model, text, self._reader)

    def _samples(self, name: str, model: str, text: Text, reader: Reader) -> Iterator[Sample]:
        """Yield the windows of a text, with their shares of its words and bytes."""
        made = reader.windows(text)
        ends = [window.end for window in made]
        words, sizes = shares(count_words(text.text), ends), shares(len(text.text.encode()), ends)
        for number, (window, n_words, n_bytes) in enumerate(zip(made, words, sizes, strict=True)):
            target = {
                "text": text.id,
                "max_length": reader.context,
                "context": window.context,
                "tokens": window.end - window.start,
                "words": n_words,
                "bytes": n_bytes,
            }
            request = _request(model, list(window.tokens))
            yield Sample(name, f"{text.id}:{number}", (request,), target, cluster=text.id if len(made) > 1 else None)

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        target, prompt = sample.target, sample.requests[0].body["prompt"]
        try:
            (answer,) = in_order(responses[0].body, 1)
            found = sum(of_tokens(answer, len(prompt), target["context"]))
        except (Fault, NoLogprobs) as error:
            return Score(Status.failed, reason=str(error))
        scores = {name: [target["text"], target["max_length"], found, target[unit]] for name, unit in UNITS.items()}
        return Score(Status.scored, {"loglikelihood": found, "tokens": target["tokens"]}, scores)

    def kept(self, sample: Sample, bodies: Sequence[Json]) -> Sequence[Json]:
        (answer,) = in_order(bodies[0], 1)
        return [bodies[0] | {"choices": [merged_tokens(answer, sample.target["context"], tops=False)]}]

    def fingerprint(self) -> Json:
        return {"item_files": {"texts": self._source.digest()}}


def count_words(text: str) -> int:
    """Return the number of words as lm-evaluation-harness counts them: the pieces between white space."""
    return len(re.split(r"\s+", text))


def _request(model: str, prompt: str | list[int]) -> Request:
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    return Request("/v1/completions", body)


@dataclass(frozen=True)
class _Local:
    """A tokenizer in a folder."""

    loaded: Any
    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str) -> list[int]:
        return list(self.loaded.encode(text, add_special_tokens=False))


def _local(folder: str) -> _Local:
    """Return the tokenizer of a folder. Raises `TaskError`."""
    place = expanded(folder)
    if not place.is_dir():
        raise TaskError(f"tokenizer={folder} is not a folder")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TaskError("tokenizer: reading it needs the package 'transformers': pip install transformers") from None
    try:
        loaded = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise TaskError(f"tokenizer={folder}: no tokenizer can be loaded from it ({said})") from None
    return _Local(loaded, loaded.bos_token_id, loaded.eos_token_id)
