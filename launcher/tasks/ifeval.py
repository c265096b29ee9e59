"""A task whose answers have to follow instructions that a program can check (IFEval)."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import version
from typing import Any

from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count
from launcher.core.types import Aggregation, Ask, Json, Response, Sample, Score, Status
from launcher.settings.component import component
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.stats.resampling import Sums, made_of
from launcher.tasks import bounded
from launcher.tasks.answer import text_of
from launcher.tasks.items import Item
from launcher.tasks.text_task import TextTask

CPU_S = 10.0
INSTALL = "pip install 'nemo-megatron-launcher[ifeval]'"
NEED_PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
"""The instructions whose check divides a text with nltk."""
SEEDS = (1, 2, 3)
"""An instruction that is another with another seed lacks a value, which lm-evaluation-harness would draw."""


def _rows(values: Sequence[Json]) -> list[list[float]]:
    return [[sum(map(bool, value)), len(value)] for value in values]


def _shares(sums: Any) -> Any:
    return sums[:, 0] / sums[:, 1]


@made_of(Sums(_rows, _shares))
def of_instructions(values: Sequence[Json]) -> float:
    """Return the share of all instructions that were followed."""
    found = [bool(one) for value in values for one in value]
    return sum(found) / len(found)


@component("tasks/ifeval")
class IFEval(TextTask):
    """Asks for texts that follow instructions, and checks each with the code of lm-evaluation-harness.

    ``path`` is a file or data set of IFEval's prompts: an item has ``key``, ``prompt``, ``instruction_id_list`` and
    ``kwargs``. No package has it. Items, prompts and examples are as in ``tasks/generation``. With ``chat`` the prompt
    is the user's message. An example needs ``fewshot_answer``, a template of its answer.

    The metrics are the share of prompts of which all instructions are followed, and the share of instructions. The
    loose ones also try the answer without its first or last line, and without asterisks.

    An answer that ended at ``max_tokens`` is truncated unless ``accept_truncated``.
    """

    id: str = "key"
    chat: bool = True
    max_tokens: Count = 1280

    def __post_init__(self) -> None:
        self.check_settings()

    @property
    def metrics(self) -> Sequence[Metric]:
        corpus = Aggregation.corpus
        return (
            Metric("prompt_level_strict_acc"),
            Metric("inst_level_strict_acc", aggregation=corpus, combine=of_instructions),
            Metric("prompt_level_loose_acc"),
            Metric("inst_level_loose_acc", aggregation=corpus, combine=of_instructions),
        )

    def check(self, evaluate: Evaluate) -> None:
        if not self.path:
            raise UserError(
                "path is empty: no package has the prompts of IFEval; give their JSON lines file, "
                "input_data.jsonl of google/IFEval, with key, prompt, instruction_id_list and kwargs"
            )

    def check_packages(self) -> None:
        checkers()

    def target_of(self, item: Item) -> Json:
        return _checked(item)

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        text = text_of(responses[0], accept_truncated=self.accept_truncated)
        if isinstance(text, Score):
            return text
        try:
            found = await bounded.run(followed, sample.target, text, cpu_s=CPU_S)
        except bounded.TooSlow as error:
            return Score(Status.unparsed, reason=f"checking the answer took {error}")
        return Score(Status.scored, text, found)

    def fingerprint(self) -> Json:
        checkers()
        return {**self.item_digests(), "versions": [version("lm-eval"), version("langdetect")]}


def followed(target: Json, text: str) -> dict[str, Json]:
    """Return the value of each metric, as lm-evaluation-harness gives it."""
    found = checkers().process_results({"key": 0, **target}, [text])
    return {name: value if isinstance(value, list) else float(value) for name, value in found.items()}


@cache
def checkers() -> Any:
    """Return the module of lm-evaluation-harness that checks. Raises `UserError` where a package is missing."""
    try:
        import langdetect
        import nltk

        download, nltk.download = nltk.download, lambda *_, **__: False  # which its import would ask the network for
        try:
            with redirect_stdout(io.StringIO()):  # it says that it has downloaded what it asked for
                from lm_eval.tasks.ifeval import utils
        finally:
            nltk.download = download
    except ImportError as error:
        raise UserError(f"tasks/ifeval needs the package {error.name}: {INSTALL}") from None
    langdetect.DetectorFactory.seed = 0  # it would guess the language of a short text another way each time
    return utils


def _checked(item: Item) -> dict[str, Json]:
    """Return what the checks need of an item. Raises `TaskError` if they cannot be made."""
    names, values = item.get("instruction_id_list"), item.get("kwargs")
    prompt = item.get("prompt")
    if not isinstance(prompt, str):
        raise TaskError(f"{item.where}: field 'prompt' must be a text, this is {prompt!r}")
    if not isinstance(names, list) or not isinstance(values, list) or not names or len(names) != len(values):
        raise TaskError(f"{item.where}: 'instruction_id_list' and 'kwargs' must be lists of one length, at least one")
    for name, given in zip(names, values, strict=True):
        _check_instruction(item, name, given)
    return {"prompt": prompt, "instruction_id_list": names, "kwargs": values}


def _check_instruction(item: Item, name: Json, given: Json) -> None:
    known = checkers().instructions_registry.INSTRUCTION_DICT
    if name not in known:
        raise TaskError(f"{item.where}: {name!r} is no instruction of IFEval; expected one of {', '.join(known)}")
    try:
        built = [_built(known[name](name), given, seed) for seed in SEEDS]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise TaskError(f"{item.where}: {name} cannot be checked with kwargs {given!r}: {error}") from None
    if any(other != built[0] for other in built[1:]):
        raise TaskError(f"{item.where}: {name} lacks a value in kwargs {given!r}; it would be drawn by chance")
    _check_data(name)


def _built(instruction: Any, given: Json, seed: int) -> Json:
    """Return the values with which an instruction is checked; those that are missing depend on the seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        instruction.build_description(**{key: value for key, value in given.items() if value})
    finally:
        random.setstate(state)
    values = instruction.get_instruction_args()
    return {key: value for key, value in (values or {}).items() if key != "prompt"}


def _check_data(name: str) -> None:
    """Raise `UserError` if the data that an instruction's check needs is missing."""
    if name not in NEED_PUNKT:
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise UserError(
            f"the instruction {name} needs nltk's data punkt_tab: python -m nltk.downloader punkt_tab, "
            "or NLTK_DATA=<folder> with tokenizers/punkt_tab"
        ) from None
