"""A scoring function of a user: found, checked, run in another process, and part of the fingerprint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Status
from launcher.tasks import scorer as scorers
from launcher.tasks.generation import Generation
from tests.running import UNVALIDATED
from tests.scoring import score

ROOT = Path(__file__).parents[2]
BODY = """
import os
from helper import half
METRICS = ["overlap", "words"]
def score(prediction, item):
    return {"overlap": half() * (prediction == item["gold"]), "words": len(prediction.split()) / 10}
async def later(prediction, item):
    return {"overlap": prediction == "x"}
def slow(prediction, item):
    while True: pass
def wrong(prediction, item):
    return "good"
def other(prediction, item):
    return {"overlap": 1, "new": 1}
def broken(prediction, item):
    return item["missing"]
def dies(prediction, item):
    os._exit(3)
def one(prediction): return 1
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    scorers.load.cache_clear()
    for name in ("helper", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "helper.py").write_text("def half(): return 0.5\n")
    (tmp_path / "mine.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "mine.py"


def scored(jsonl, completion, name, text="x"):
    task = Generation(path=jsonl({"prompt": "p", "gold": "x"}), scorer=name)
    (sample,) = task.samples("t", "m")
    return score(task, sample, completion(text))


@pytest.mark.parametrize("form", ["mine.py:score", "mine.score"])
def test_a_scorer_of_a_file_or_a_module(file, jsonl, completion, form):
    assert scored(jsonl, completion, form).scores == {"overlap": 0.5, "words": 0.1}
    task = Generation(path=jsonl({"prompt": "p"}), scorer=form, extract={"a": "x", "b": "."})
    assert [metric.name for metric in task.metrics] == ["overlap,a", "words,a", "overlap,b", "words,b"]


def test_an_asynchronous_scorer(file, jsonl, completion):
    assert scored(jsonl, completion, "mine.py:later").scores == {"overlap": 1.0}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong", "gave 'good'; expected finite numbers"),
        ("other", "gave 'new'; METRICS of its module has"),
        ("broken", "KeyError: 'missing'"),
        ("dies", "ended with code 3"),
        ("slow", "took more than 0.2 s of CPU time"),
    ],
)
def test_what_a_scorer_does_wrong_fails_the_sample(file, jsonl, completion, monkeypatch, name, words):
    monkeypatch.setattr(scorers, "CPU_S", 0.2)
    found = scored(jsonl, completion, f"mine.py:{name}")
    assert (found.status, found.scores) == (Status.failed, {})
    assert words in str(found.reason)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.py:none", "has no function 'none'"),
        ("mine.py:one", "it is called as one(prediction, item)"),
        ("mine.py:half", "is defined elsewhere, as helper.half"),
        ("other.py:score", "there is no file or folder"),
        ("no_such.module.score", "cannot be imported: ModuleNotFoundError"),
        ("score", "expected package.module.function"),
    ],
)
def test_what_cannot_be_a_scorer_is_refused_when_composing(file, name, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Generation(scorer=name)


def test_the_source_is_in_the_fingerprint(file, jsonl, tmp_path):
    task = Generation(path=jsonl({"prompt": "p"}), scorer="mine.py:score")
    before = task.fingerprint()
    (tmp_path / "helper.py").write_text("def half(): return 0.7\n")
    assert task.fingerprint() != before


OWN = """
from launcher.stats.metric import Aggregation, Metric
def most(values): return max(values) + len(values) / 100
METRICS = [Metric("most", aggregation=Aggregation.corpus, combine=most, range=(0, None))]
def score(prediction, item): return len(item["question"]) / 10
"""


def test_a_metric_of_the_corpus_is_computed_by_the_function_of_the_scorers_module(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    questions = ["a", "bcd", "efghi"]
    (tmp_path / "items.jsonl").write_text("".join(f'{{"question": "{each}"}}\n' for each in questions))
    task = ("tasks=[addition]", "tasks.addition.path=items.jsonl", "tasks.addition.prompt='{{question}}'")
    own = ("tasks.addition.scorer=own.py:score", f"hydra.run.dir={tmp_path / 'run'}")
    given = [sys.executable, str(ROOT / "launch.py"), "engine=echo", "model=none", UNVALIDATED, *task, *own]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "run/results.json").read_text())["tasks"].values()
    found = result["metrics"]["most"]
    assert (found["value"], found["aggregation"]) == (pytest.approx(0.5 + 0.03), "corpus")


def test_a_file_without_a_function_is_one_line() -> None:
    with pytest.raises(UserError, match=r"scorer=mine\.py names no function; expected mine\.py:<function>"):
        scorers.load("mine.py")
