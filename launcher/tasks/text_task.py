"""A task over items whose answers are generated text: how its questions and examples are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from launcher.core.errors import UserError
from launcher.core.ranges import Count, NonNegative
from launcher.core.types import Json, Request, Sample
from launcher.tasks.item_task import ItemTask
from launcher.tasks.items import Item
from launcher.tasks.messages import assistant, system, user
from launcher.tasks.template import render


@dataclass
class TextTask(ItemTask):
    """What tasks with generated answers have in common.

    ``prompt`` is a jinja template over an item's fields. With ``chat`` it is the user's message, after ``system`` if
    that is given, and examples are messages. An example shows ``fewshot_answer`` after its prompt and
    ``fewshot_delimiter``. ``max_tokens``, ``temperature`` and ``stop`` are sent with every request.

    An answer that ended at ``max_tokens`` is truncated and not scored. ``accept_truncated`` scores it, but never
    unfinished reasoning.
    """

    prompt: str = "{{prompt}}"
    chat: bool = False
    system: str = ""
    fewshot_answer: str = ""
    fewshot_delimiter: str = ""
    max_tokens: Count = 256
    temperature: NonNegative = 0.0
    stop: list[str] = field(default_factory=list)
    accept_truncated: bool = False

    def check_settings(self, *templates: str) -> None:
        super().check_settings("prompt", "system", "fewshot_answer", *templates)

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        self.check_packages()
        path = "/v1/chat/completions" if self.chat else "/v1/completions"
        for key, item in self.rows():
            body = {
                "model": model,
                **self._question(item, self.examples.of(item)),
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                **({"stop": list(self.stop)} if self.stop else {}),
            }
            yield Sample(name, key, (Request(path, body),), self.target_of(item), **self.labels_of(item))

    def check_packages(self) -> None:
        """Raise `UserError` for what the scoring needs and is missing, before the first sample is made."""
        return

    def target_of(self, item: Item) -> Json:
        """Return what the answer to an item is scored with. Raises `TaskError` if no answer can be."""
        raise NotImplementedError

    def shown_answer(self, shot: Item) -> str:
        """Return the answer that an example shows. Raises `UserError` where none is set."""
        if not self.fewshot_answer:
            raise UserError(f"fewshot={self.fewshot}: set fewshot_answer, a template of the answer of an example")
        return render(self.fewshot_answer, shot)

    def prompt_of(self, item: Item) -> str:
        return render(self.prompt, item)

    def _question(self, item: Item, shots: Sequence[Item]) -> dict[str, Json]:
        if self.chat:
            opening = system(render(self.system, item), self.described(item))
            return {"messages": [*opening, *self._turns(shots), user(self.prompt_of(item))]}
        shown = [self.prompt_of(shot) + self.fewshot_delimiter + self.shown_answer(shot) for shot in shots]
        return {"prompt": self.described(item) + self.fewshot_separator.join([*shown, self.prompt_of(item)])}

    def _turns(self, shots: Sequence[Item]) -> Iterator[Json]:
        for shot in shots:
            yield user(self.prompt_of(shot))
            yield assistant(self.shown_answer(shot))
