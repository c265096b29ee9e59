"""A task that lists the choices under letters, and reads the letter that the answer names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from launcher.core.errors import TaskError
from launcher.core.ranges import Count, NonNegative, Takes
from launcher.core.types import Ask, Json, Request, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.stats.metric import Metric
from launcher.tasks import bounded
from launcher.tasks.answer import text_of
from launcher.tasks.choices import LETTERS, ChoiceReader
from launcher.tasks.item_task import ItemTask
from launcher.tasks.items import Item
from launcher.tasks.letters import letter_of
from launcher.tasks.messages import assistant, system, user
from launcher.tasks.template import render

METRICS = (Metric("acc"),)


@component("tasks/letter_choice")
class LetterChoice(ItemTask):
    """Shows the choices as "A. ...", "B. ...", and reads the letter that the answer names; works over chat.

    Items and examples come as in all tasks over files (``path`` to ``fewshot_separator``); ``choices``, ``answer`` and
    ``labels`` as for multiple-choice tasks, with at most 26 choices. The prompt is ``context``, a line per choice, and
    ``instruction``, with line breaks between them. An example shows its letter as the answer.

    The answer has at most ``max_tokens`` tokens, sampled at ``temperature``. ``system`` is the system message of
    ``chat``. An answer cut at ``max_tokens`` is read if ``accept_truncated`` is set.

    The metric is ``acc``. An answer that names no choice, or several, is unparsed. These are read: "B", "(b)", "B.
    Paris", "**B**", "The answer is B", ``\\\\boxed{B}``, and the text of a choice. The A of "A cat" is no letter.
    """

    context: str = "{{question}}"
    choices: Annotated[Any, Takes("text, or a list of texts")] = "choices"
    answer: str = "answer"
    labels: Annotated[Any, Takes("text, or a list")] = ""
    instruction: str = "Answer with the letter of the right choice."
    chat: bool = True
    system: str = ""
    fewshot_delimiter: str = "\nAnswer: "
    max_tokens: Count = 256
    temperature: NonNegative = 0.0
    accept_truncated: bool = False

    def __post_init__(self) -> None:
        self.check_settings("context", "instruction", "system")
        self._reader.check()

    @property
    def _reader(self) -> ChoiceReader:
        return ChoiceReader(self.choices, (), self.answer, self.labels)

    @property
    def metrics(self) -> Sequence[Metric]:
        return METRICS

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        path = "/v1/chat/completions" if self.chat else "/v1/completions"
        for key, item in self.rows():
            choices = self._choices(item)
            index = self._reader.right(item, choices)
            asked = self._question(item, self.examples.of(item))
            body = {"model": model, **asked, "max_tokens": self.max_tokens, "temperature": self.temperature}
            target = {"letter": LETTERS[index], "text": choices[index], "choices": choices}
            yield Sample(name, key, (Request(path, body),), target, **self.labels_of(item))

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        answer = text_of(responses[0], accept_truncated=self.accept_truncated)
        if isinstance(answer, Score):
            return answer
        choices = sample.target["choices"]
        try:
            index = await bounded.run(letter_of, answer, choices, inline=True)
        except bounded.TooSlow as error:
            return Score(Status.unparsed, reason=f"reading the letter took {error}")
        if index is None:
            said = "the answer is empty" if not answer.strip() else f"no choice can be read from {answer[-80:]!r}"
            return Score(Status.unparsed, reason=said)
        prediction = {"letter": LETTERS[index], "text": choices[index]}
        return Score(Status.scored, prediction, {"acc": float(prediction["letter"] == sample.target["letter"])})

    def fingerprint(self) -> Json:
        return {**self.item_digests(), "reading": 1}

    def prompt_of(self, item: Item) -> str:
        lines = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, self._choices(item), strict=False))
        instruction = render(self.instruction, item)
        return "\n".join([render(self.context, item), *lines, *([instruction] if instruction else [])])

    def _choices(self, item: Item) -> list[str]:
        found = self._reader.of(item)
        if len(found) > len(LETTERS):
            raise TaskError(f"{item.where}: there are {len(found)} choices; letters are for at most {len(LETTERS)}")
        return found

    def _letter(self, item: Item) -> str:
        return LETTERS[self._reader.right(item, self._choices(item))]

    def _question(self, item: Item, shots: Sequence[Item]) -> dict[str, Json]:
        if self.chat:
            turns = [turn for shot in shots for turn in (user(self.prompt_of(shot)), assistant(self._letter(shot)))]
            instructions = system(render(self.system, item), self.described(item))
            return {"messages": [*instructions, *turns, user(self.prompt_of(item))]}
        shown = [self.prompt_of(shot) + self.fewshot_delimiter + self._letter(shot) for shot in shots]
        asked = self.prompt_of(item) + self.fewshot_delimiter.rstrip(" ")
        return {"prompt": self.described(item) + self.fewshot_separator.join([*shown, asked])}
