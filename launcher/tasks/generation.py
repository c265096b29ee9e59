"""A task whose answers are generated text, compared with the right ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count, CountFromZero, NonNegative
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks import bounded, mathematics, numbers
from launcher.tasks.answer import text_of
from launcher.tasks.base import Task
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
from launcher.tasks.fewshot import examples, pool
from launcher.tasks.items import Item, count, digest, identified, read
from launcher.tasks.template import render


@component("tasks/generation")
class Generation(Task):
    """Asks for text and compares it with a target.

    ``path``: a JSON lines file (also .gz) or a folder of ``datasets.save_to_disk``; ``package:<name>/<file>`` for one
    inside a Python package. ``id``: the field of the items' ids (empty: ``id``, or the row's number). ``limit``: the
    first items only.

    ``prompt`` and ``target`` are jinja templates over an item's fields. Instead of ``target``, ``targets`` may be the
    dotted path of a field with a list of right answers. With ``chat`` the prompt is the user's message, after
    ``system`` if that is given.

    ``fewshot`` examples come first, in chat as messages: the first items of ``fewshot_path`` (empty: ``path``) with
    other prompts than the item. Each has ``fewshot_answer`` (empty: ``target``) after ``fewshot_delimiter``.

    ``extract``, a regular expression, finds the prediction in the answer: the match, or its first group that is not
    empty. ``pick`` says which match. In it ``{number}`` stands for a number as people write it: ``$9{,}500``,
    ``10 000``, ``-$5``, ``1.5e3``, ``3/4``. Several regular expressions by name read the answer in several ways, as
    filters of lm-evaluation-harness do. Each may be a mapping with ``regex``, ``pick`` and ``fallback``.

    ``match`` is how predictions are compared, or a list of several; the first is the main metric. With named
    extractions, a metric's name is ``<match>,<extraction>``. Before the comparison, predictions and targets lose what
    ``regexes_to_ignore`` matches, and then pass through ``normalize``.

    A sample ends as unparsed for an empty answer, without a match of the first extraction, or if an expression takes
    too long. With ``match: numeric`` it also does without a number, and with ``match: math_verify`` without
    mathematics. ``fallback`` is a prediction instead, so that the
    sample counts as wrong: lm-evaluation-harness has "[invalid]". What only a further extraction or metric lacks leaves
    that metric without a value for the sample.

    An answer that ended at ``max_tokens`` is truncated and not scored, even with a match. ``accept_truncated`` scores
    it, but never unfinished reasoning.
    """

    path: str = ""
    id: str = ""
    limit: Count | None = None
    prompt: str = "{{prompt}}"
    target: str = "{{answer}}"
    targets: str = ""
    chat: bool = False
    system: str = ""
    fewshot: CountFromZero = 0
    fewshot_path: str = ""
    fewshot_answer: str = ""
    fewshot_delimiter: str = ""
    fewshot_separator: str = "\n\n"
    max_tokens: Count = 256
    temperature: NonNegative = 0.0
    stop: list[str] = field(default_factory=list)
    extract: Any = ""
    pick: Pick = Pick.last
    fallback: str | None = None
    regexes_to_ignore: list[str] = field(default_factory=list)
    normalize: list[Normalize] = field(default_factory=lambda: [Normalize.strip])
    match: Any = "exact_match"
    accept_truncated: bool = False

    def __post_init__(self) -> None:
        matches(self.match)
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
    def metrics(self) -> Sequence[Metric]:
        return [Metric(_metric(match, how)) for how in self._extractions for match in self._matches]

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        self._math_version()  # what is missing is said before anything is loaded
        shots = pool(self.fewshot_path or self.path, self.fewshot, self._prompt)
        for key, item in identified(read(self.path, self.limit), self.id):
            body = {
                "model": model,
                **self._question(item, examples(shots, self.fewshot, item, self._prompt)),
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                **({"stop": list(self.stop)} if self.stop else {}),
            }
            path = "/v1/chat/completions" if self.chat else "/v1/completions"
            yield Sample(name, key, (Request(path, body),), self._checked_target(item))

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        text = text_of(responses[0], accept_truncated=self.accept_truncated)
        if isinstance(text, Score):
            return text
        found = {how.name: await self._read(how, text, sample.target) for how in self._extractions}
        main = next(iter(found.values()))
        if isinstance(main, Unread):
            return Score(Status.unparsed, reason=main.reason)
        read = {name: reading for name, reading in found.items() if not isinstance(reading, Unread)}
        scores = {name: value for reading in read.values() for name, value in reading.scores.items()}
        predictions = {name: reading.prediction for name, reading in read.items()}
        return Score(Status.scored, main.prediction if len(found) == 1 else predictions, scores)

    async def _read(self, how: Extraction, text: str, target: Json) -> Reading | Unread:
        """Return the prediction that one extraction finds, with its scores."""
        try:
            found = await self._extracted(how, text)
            if found is None:
                return Unread(f"nothing in the answer matches {how.regex!r}" if text.strip() else "the answer is empty")
            return await self._compared(how, found, target if isinstance(target, list) else [target])
        except bounded.TooSlow as error:
            return Unread(f"the task took {error} to read or compare this answer")

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
                scores[_metric(match, how)] = value or 0.0
        if _metric(self._matches[0], how) not in scores:
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
        shots = {"fewshot": digest(self.fewshot_path)} if self.fewshot and self.fewshot_path else {}
        return {"items": digest(self.path), **shots, **self._reading(), **self._math_version()}

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

    def size(self) -> int:
        return min(count(self.path), self.limit or count(self.path))

    def _question(self, item: Item, shots: Sequence[Item]) -> dict[str, Json]:
        if self.chat:
            system = [{"role": "system", "content": render(self.system, item)}] if self.system else []
            return {"messages": [*system, *self._turns(shots), {"role": "user", "content": render(self.prompt, item)}]}
        shown = [render(self.prompt, shot) + self.fewshot_delimiter + self._shown_answer(shot) for shot in shots]
        return {"prompt": self.fewshot_separator.join([*shown, render(self.prompt, item)])}

    def _prompt(self, item: Item) -> str:
        return render(self.prompt, item)

    def _turns(self, shots: Sequence[Item]) -> Iterator[Json]:
        for shot in shots:
            yield {"role": "user", "content": render(self.prompt, shot)}
            yield {"role": "assistant", "content": self._shown_answer(shot)}

    def _shown_answer(self, shot: Item) -> str:
        if self.fewshot_answer:
            return render(self.fewshot_answer, shot)
        target = self._target(shot)
        return target[0] if isinstance(target, list) else target

    def _checked_target(self, item: Item) -> str | list[str]:
        """Return the target; `TaskError` if no answer can agree with it."""
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
        if not self.targets:
            return render(self.target, item)
        found = item.get(self.targets)
        if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
            raise TaskError(f"{item.where}: field '{self.targets}' must be a list of texts, this is {found!r}")
        return found


@dataclass(frozen=True)
class Reading:
    """What one extraction makes of an answer."""

    prediction: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Unread:
    """Why an extraction has no prediction."""

    reason: str


def _metric(match: Match, how: Extraction) -> str:
    return f"{match.value},{how.name}" if how.name else match.value
