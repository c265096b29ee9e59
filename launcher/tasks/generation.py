"""A task whose answers are generated text, compared with the right ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from enum import Enum

from launcher.core.errors import TaskError
from launcher.core.ranges import Count, CountFromZero, NonNegative
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks import bounded, numbers
from launcher.tasks.answer import text_of
from launcher.tasks.base import Task
from launcher.tasks.compare import Match, Normalize, matchable, normalized, right
from launcher.tasks.extraction import check_pattern, extract
from launcher.tasks.fewshot import examples, pool
from launcher.tasks.items import Item, count, digest, identified, read
from launcher.tasks.template import render

METRICS = {match: (Metric(match.value),) for match in Match}


class Pick(Enum):
    """Which match of ``extract`` is the prediction."""

    first = "first"
    last = "last"


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

    ``extract``, a regular expression with at most one group, finds the prediction in the answer; ``pick`` says which
    match. In it ``{number}`` stands for a number as people write it: ``$9{,}500``, ``10 000``, ``-$5``, ``1.5e3``. A
    sample ends as unparsed for an empty answer, without a match, or if the expression takes too long. With ``match:
    numeric`` it also does without a number. ``normalize`` is applied to predictions and targets.

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
    extract: str = ""
    pick: Pick = Pick.last
    normalize: list[Normalize] = field(default_factory=lambda: [Normalize.strip])
    match: Match = Match.exact_match
    accept_truncated: bool = False

    def __post_init__(self) -> None:
        check_pattern(self.extract)

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS[self.match]

    def samples(self, name: str, model: str) -> Iterator[Sample]:
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
        found = await self._extracted(text)
        if isinstance(found, Score):
            return found
        targets = sample.target if isinstance(sample.target, list) else [sample.target]
        prediction = normalized(found, self.normalize)
        correct = right(prediction, [normalized(target, self.normalize) for target in targets], self.match)
        return Score(Status.scored, prediction, {self.match.value: float(correct)})

    def fingerprint(self) -> Json:
        shots = {"fewshot": digest(self.fewshot_path)} if self.fewshot and self.fewshot_path else {}
        return {"items": digest(self.path), **shots, **self._reading()}

    def _reading(self) -> dict[str, Json]:
        """Return the version of the rules by which answers are read, where one has changed."""
        changed = {Normalize.punctuation, Normalize.number} & set(self.normalize)
        return {"reading": 2} if changed or self.match is not Match.exact_match or self.fewshot else {}

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
        if not any(text.strip() and matchable(normalized(text, self.normalize), self.match) for text in texts):
            wanted = f"match={self.match.value} needs a {'number' if self.match is Match.numeric else 'text'}"
            raise TaskError(f"{item.where}: no answer can equal the target {str(target)[:200]!r}; {wanted}")
        return target

    def _target(self, item: Item) -> str | list[str]:
        if not self.targets:
            return render(self.target, item)
        found = item.get(self.targets)
        if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
            raise TaskError(f"{item.where}: field '{self.targets}' must be a list of texts, this is {found!r}")
        return found

    async def _extracted(self, text: str) -> str | Score:
        if not text.strip():
            return Score(Status.unparsed, reason="the answer is empty")
        if self.extract:
            try:
                found = await extract(self.extract, text, last=self.pick is Pick.last)
            except bounded.TooSlow as error:
                return Score(Status.unparsed, reason=f"extract={self.extract!r} took {error} on this answer")
            if found is None:
                return Score(Status.unparsed, reason=f"nothing in the answer matches {self.extract!r}")
            text = found
        if self.match is Match.numeric and numbers.parse(normalized(text, self.normalize)) is None:
            return Score(Status.unparsed, reason=f"{text[:80]!r} is not a number")
        return text
