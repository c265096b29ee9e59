"""A task whose answers are generated text, compared with the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Takes
from launcher.core.types import Ask, Json, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks import bounded, mathematics, numbers
from launcher.tasks import scorer as scorers
from launcher.tasks.answer import text_of
from launcher.tasks.compare import (
    Match,
    Normalize,
    agreement,
    is_regex,
    matches,
    normalized,
    unmatchable,
    without,
)
from launcher.tasks.extraction import NUMBER, Extraction, Pick, extract, extractions
from launcher.tasks.items import Item
from launcher.tasks.scorer import Scorer, ScorerFailed, plain_item
from launcher.tasks.template import text, value
from launcher.tasks.text_task import TextTask

MATCHES = Takes(f"one of {', '.join(match.value for match in Match)}, or a list of them")


@component("tasks/generation")
class Generation(TextTask):
    """Asks for text and compares it with a target.

    Items and examples come as in all tasks over files (``path`` to ``fewshot_separator``).

    ``prompt`` is a jinja template over an item's fields. ``target`` is a template or the dotted path of a field: one
    right answer, or a list of them. ``targets`` is the path of a list of right answers instead. With ``chat`` the
    prompt is the user's message, after ``system`` if that is given, and examples are messages. An example shows
    ``fewshot_answer`` (empty: the first target) after its prompt and ``fewshot_delimiter``.

    ``extract``, a regular expression, finds the prediction in the answer: the match, or its first group that is not
    empty. ``pick`` says which match. In it ``{number}`` stands for a number as people write it: ``$9{,}500``,
    ``10 000``, ``-$5``, ``1.5e3``, ``3/4``. Several regular expressions by name read the answer in several ways, as
    filters of lm-evaluation-harness do. Each may be a mapping with ``regex``, ``pick`` and ``fallback``.

    ``match`` is how predictions are compared, or a list of several; the first is the main metric. With named
    extractions, a metric's name is ``<match>,<extraction>``. Before the comparison, predictions and targets lose what
    ``regexes_to_ignore`` matches, and then pass through ``normalize``.

    ``scorer`` is a function of one's own instead of ``match``: ``package.module.function``, or ``file.py:function``. It
    is called as ``score(prediction, item)`` in another process, for at most 10 s of CPU time, and may be asynchronous.
    It returns a number, or a dict of numbers by the names in ``METRICS`` of its module. What it raises fails the
    sample.

    A sample ends as unparsed for an empty answer, without a match of the first extraction, or if an expression takes
    too long. With ``match: numeric`` it also does without a number, and with ``match: math_verify`` without
    mathematics. ``fallback`` is a prediction instead, so that the
    sample counts as wrong: lm-evaluation-harness has "[invalid]". What only a further extraction or metric lacks leaves
    that metric without a value for the sample.

    An answer that ended at ``max_tokens`` is truncated and not scored, even with a match. ``accept_truncated`` scores
    it, but never unfinished reasoning.
    """

    target: str = "{{answer}}"
    targets: str = ""
    extract: Annotated[Any, Takes("text, or a mapping of names to texts or mappings")] = ""
    pick: Pick = Pick.last
    fallback: str | None = None
    regexes_to_ignore: list[str] = field(default_factory=list)
    normalize: list[Normalize] = field(default_factory=lambda: [Normalize.strip])
    match: Annotated[Any, MATCHES] = "exact_match"
    scorer: str = ""

    def __post_init__(self) -> None:
        self.check_settings("target")
        matches(self.match)
        if self.scorer:
            scorers.load(self.scorer)
        extractions(self.extract, self.pick, self.fallback)
        for pattern in self.regexes_to_ignore:
            if not is_regex(pattern):
                raise UserError(f"tasks: regexes_to_ignore: {pattern!r} is not a regular expression")

    @cached_property
    def _matches(self) -> tuple[Match, ...]:
        return matches(self.match)

    @cached_property
    def _extractions(self) -> tuple[Extraction, ...]:
        return extractions(self.extract, self.pick, self.fallback)

    @cached_property
    def _scorer(self) -> Scorer | None:
        return scorers.load(self.scorer) if self.scorer else None

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        own = self._scorer.metrics if self._scorer else [Metric(match.value) for match in self._matches]
        return [replace(metric, name=_named(metric.name, how)) for how in self._extractions for metric in own]

    def check_packages(self) -> None:
        self._math_version()

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        answer = text_of(responses[0], accept_truncated=self.accept_truncated)
        if isinstance(answer, Score):
            return answer
        try:
            found = {how.name: await self._read(how, answer, sample.target) for how in self._extractions}
        except ScorerFailed as error:
            return Score(Status.failed, reason=str(error), is_final=True)
        main = next(iter(found.values()))
        if isinstance(main, Unread):
            return Score(Status.unparsed, reason=main.reason)
        read = {name: reading for name, reading in found.items() if not isinstance(reading, Unread)}
        scores = {name: value for reading in read.values() for name, value in reading.scores.items()}
        predictions = {name: reading.prediction for name, reading in read.items()}
        return Score(Status.scored, main.prediction if len(found) == 1 else predictions, scores)

    async def _read(self, how: Extraction, text: str, target: Json) -> Reading | Unread:
        """Return the prediction that one extraction finds, with its scores."""
        slow = f"extract={how.regex!r}"
        try:
            found = await self._extracted(how, text)
            if found is None:
                return Unread(f"nothing in the answer matches {how.regex!r}" if text.strip() else "the answer is empty")
            if self._scorer:
                prediction = await self._normalized(found)
                values = await self._scorer.score(prediction, target)
                return Reading(prediction, {_named(name, how): value for name, value in values.items()})
            slow = "comparing"
            return await self._compared(how, found, target if isinstance(target, list) else [target])
        except bounded.TooSlow as error:
            return Unread(f"{slow} took {error} on this answer")

    async def _extracted(self, how: Extraction, text: str) -> str | None:
        """Return what is extracted, else the fallback."""
        found = (await extract(how, text) if how.regex else text) if text.strip() else None
        return how.fallback if found is None else found

    async def _compared(self, how: Extraction, found: str, targets: Sequence[str]) -> Reading | Unread:
        prediction, scores = await self._normalized(found), dict[str, float]()
        for match in self._matches:
            if match is Match.numeric and how.fallback is None and numbers.parse(prediction) is None:
                continue
            right = [await self._comparable(target, match) for target in targets]
            value = await agreement(prediction, right, match)
            if value is not None or how.fallback is not None:
                scores[_named(match.value, how)] = value or 0.0
        if _named(self._matches[0].value, how) not in scores:
            what = "a number" if self._matches[0] is Match.numeric else "mathematics"
            return Unread(f"{found[:80]!r} is not {what}")
        return Reading(prediction, scores)

    async def _normalized(self, text: str) -> str:
        if self.regexes_to_ignore:
            text = await bounded.run(without, text, tuple(self.regexes_to_ignore), inline=True)
        return normalized(text, self.normalize)

    async def _comparable(self, target: str, match: Match) -> str:
        return target if match is Match.regex else await self._normalized(target)

    def fingerprint(self) -> Json:
        return {**self.item_digests(), **self._reading(), **self._math_version(), **self._scorer_digest()}

    def _scorer_digest(self) -> dict[str, Json]:
        return {"scorer": self._scorer.digest()} if self._scorer else {}

    def _math_version(self) -> dict[str, Json]:
        """Return the version of the package that decides, where one does. Raises `UserError` if it is missing."""
        used = Match.math_verify in self._matches
        return {"math_verify": mathematics.installed_version()} if used else {}

    def _reading(self) -> dict[str, Json]:
        """Return the version of the rules by which answers are read, where one has changed."""
        changed = {Normalize.punctuation, Normalize.number} & set(self.normalize)
        if Match.numeric in self._matches or Normalize.number in self.normalize or NUMBER in str(self.extract):
            return {"reading": 3}
        return {"reading": 2} if changed or self._matches != (Match.exact_match,) or self.fewshot else {}

    def shown_answer(self, shot: Item) -> str:
        if self.fewshot_answer:
            return super().shown_answer(shot)
        target = self._target(shot)
        return target[0] if isinstance(target, list) else target

    def target_of(self, item: Item) -> Json:
        """Return the target, which of a scorer is the item; `TaskError` if no answer can agree with it."""
        if self.scorer:
            return plain_item(item.fields)
        target = self._target(item)
        texts = target if isinstance(target, list) else [target]
        for match in self._matches:
            wanted = [unmatchable(self._unbounded(text, match), match) if text.strip() else "a text" for text in texts]
            if None not in wanted:
                what = f"no answer can equal the target {str(target)[:200]!r}; match={match.value} needs {wanted[0]}"
                raise TaskError(f"{item.where}: {what}")
        return target

    def _unbounded(self, target: str, match: Match) -> str:
        """Return a comparable target; that of an item is the user's own, and needs no limit of time."""
        return target if match is Match.regex else normalized(without(target, self.regexes_to_ignore), self.normalize)

    def _target(self, item: Item) -> str | list[str]:
        found = value(self.targets or self.target, item)
        key = f"targets={self.targets}" if self.targets else f"target={self.target}"
        if isinstance(found, list) and found:
            return [text(one, item.where, key) for one in found]
        if self.targets or isinstance(found, list):
            raise TaskError(f"{item.where}: {key}: this is {found!r}, expected a list of one or more texts")
        return text(found, item.where, key)


@dataclass(frozen=True)
class Reading:
    """What one extraction makes of an answer."""

    prediction: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Unread:
    """Why an extraction has no prediction."""

    reason: str


def _named(metric: str, how: Extraction) -> str:
    return f"{metric},{how.name}" if how.name else metric
