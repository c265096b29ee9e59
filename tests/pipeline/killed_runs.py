"""A run with tasks of every kind, which tests kill again and again; what it comes to, to compare with another one."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.running import program

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, str(ROOT / "launch.py")]
SERVER = "mode=serve"
INCOMPLETE = 3
SESSION_S = 240.0
"""The longest that one session may take on a busy machine."""
SCORER = """
def score(prediction, item):
    if item["answer"].endswith("3"):
        raise ValueError("this item is not scored")
    return float(prediction == item["answer"])
"""
GENERATION = "defaults: [/schema/tasks/generation@_here_]\npath: sums.jsonl\nprompt: '{{question}}'\ntarget: answer\n"
OPTIONS = {
    "cut": f"{GENERATION}max_tokens: 1\nstop: ['\\n']\n",
    "failing": f"{GENERATION}max_tokens: 4\nstop: ['\\n']\nscorer: scorer.py:score\n",
    "programs": """
defaults: [/schema/tasks/code@_here_]
path: sums.jsonl
limit: 2
prompt: "{{question}}"
code: all
accept_truncated: true
max_tokens: 4
temperature: 1.0
test: "assert True"
k: [1, 2]
""",
    "rated": """
defaults: [/schema/tasks/judge@_here_]
path: sums.jsonl
chat: false
prompt: "{{question}}"
target: answer
max_tokens: 4
stop: ["\\n"]
rubric: "Is {{answer}} the sum {{prompt}}?\\nVerdict: [[{{'CORRECT' if answer == target else 'INCORRECT'}}]]"
labels: {CORRECT: 1, INCORRECT: 0}
judge_stop: ["\\nassistant"]
""",
}
LM_EVAL = {
    "task": "local_sums",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{['1', answer]}}",
    "doc_to_target": 1,
    "num_fewshot": 2,
    "fewshot_split": "test",
    "metric_list": [{"metric": "acc"}],
}
COMMON = (
    "--config-dir=options",
    "tasks.perplexity.path=text.txt",
    "evaluate.seed=7",
    "evaluate.repeats=2",
    "evaluate.retry_truncated=3",
    "evaluate.min_coverage=0",
    "evaluate.concurrency=2",
    "judge=deployment",
    "engine@judge.engine=echo",
)
TASKS = ("cut", "failing", "programs", "rated", "perplexity")
SERVED = {
    "echo": ("engine=echo", "model=none"),
    "tiny": ("optimizations.batch_invariant=true",),
}
MODELS = {
    "echo": ("engine=echo", "model=none", "validate.skip=[greedy repeats]"),
    "tiny": ("optimizations.batch_invariant=true",),
}


@dataclass(frozen=True)
class Kind:
    """A run: how it is served, with which model, and whether it has a task of lm-eval."""

    backend: str
    model: str
    lm_eval: bool

    def arguments(self) -> list[str]:
        tasks = [*TASKS, "lm_eval/local_sums"] if self.lm_eval else TASKS
        chosen = [*COMMON, f"tasks=[{','.join(tasks)}]", "lm_eval.include_path=lm"]
        if self.backend == "inline":
            return [*chosen, *MODELS[self.model]]
        served = " ".join([*LAUNCH, SERVER, *SERVED[self.model], "backend.port={port}", "hydra.run.dir=served-{port}"])
        return [*chosen, "backend=command", f"backend.command='{served}'"]


def written(folder: Path) -> Path:
    """Write the option files, items and texts into a folder to start runs in; return it."""
    (folder / "options" / "tasks").mkdir(parents=True)
    (folder / "lm").mkdir()
    (folder / "scorer.py").write_text(SCORER)
    (folder / "text.txt").write_text("".join(f"{n}+{n}={2 * n} is what she said.\n" for n in range(60)))
    items = [{"id": str(n), "question": f"{n}+{n + 3}=", "answer": str(2 * n + 3)} for n in range(2, 10)]
    sums = folder / "options" / "tasks" / "sums.jsonl"
    sums.write_text("".join(json.dumps(item) + "\n" for item in items))
    for name, text in OPTIONS.items():
        (folder / "options" / "tasks" / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{text}")
    source = {"dataset_kwargs": {"data_files": {"test": str(sums)}, "cache_dir": str(folder / "cache")}}
    (folder / "lm" / "local_sums.yaml").write_text(json.dumps(LM_EVAL | source))
    return folder


@contextmanager
def session(place: Path, *arguments: str) -> Iterator[Any]:
    """Start the launcher in a folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with program([*LAUNCH, *arguments], place, environment) as process:
        yield process


def finished(place: Path, *arguments: str) -> int:
    """Run a session to its end; return its exit code."""
    with session(place, *arguments) as process:
        out, err = process.communicate(timeout=SESSION_S)
        print(err[-3000:] if process.returncode else "", end="")
        assert "Traceback" not in out + err, err
        return int(process.returncode)


def lines(folder: Path) -> int:
    """Return how many samples a run folder has."""
    file = folder / "samples.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def server_of(process: psutil.Process) -> psutil.Process | None:
    """Return the process of the server that a launcher started, None while there is none."""
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if child.cmdline()[1:3] == [LAUNCH[1], SERVER]:  # not the reaper above it
                    return child
    return None


@dataclass(frozen=True)
class Moment:
    """When ``whom`` (evaluator or server) is killed: once there are so many samples, and some milliseconds later."""

    whom: str
    samples: int
    later_ms: int


def moments(seed: int, count: int, total: int, whom: Sequence[str]) -> list[Moment]:
    """Draw moments in the order of a run: the parties in turn."""
    draw = random.Random(seed)
    at = sorted(draw.sample(range(total), count))
    return [Moment(whom[n % len(whom)], samples, draw.randrange(40)) for n, samples in enumerate(at)]


def struck(place: Path, moment: Moment, folder: Path, number: signal.Signals, *arguments: str) -> int:
    """Start a session and send the signal at a moment; return its exit code."""
    with session(place, *arguments) as process:
        launcher = psutil.Process(process.pid)
        deadline = time.monotonic() + SESSION_S
        while process.poll() is None and (lines(folder) < moment.samples or _victim(launcher, moment) is None):
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.005)
        time.sleep(moment.later_ms / 1000)
        victim = _victim(launcher, moment)
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(number)
        out, err = process.communicate(timeout=SESSION_S)
        assert "Traceback" not in out + err, err
        return int(process.returncode)


def _victim(launcher: psutil.Process, moment: Moment) -> psutil.Process | None:
    return launcher if moment.whom == "evaluator" else server_of(launcher)


def results(folder: Path) -> dict[str, Any]:
    """Return what must not depend on what happened: the numbers of all tasks, and the status."""
    found = json.loads((folder / "results.json").read_text())
    return {name: found[name] for name in ("status", "tasks", "groups")}


def rows(folder: Path) -> dict[str, Any]:
    """Return the samples by their keys, without what differs from one answer to the next."""
    found = {}
    for line in (folder / "samples.jsonl").read_text().splitlines():
        row = _stable(json.loads(line))
        key = f"{row['task']}/{row['id']}/{row['repeat']}"
        assert key not in found, f"{key} is there twice"
        found[key] = row
    return found


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(inner) for key, inner in value.items() if not _varies(key, inner)}
    if isinstance(value, list):
        return [_stable(inner) for inner in value]
    return value


def _varies(key: str, value: Any) -> bool:
    """Tell whether a field is another one in each session: a time, or the id of an answer."""
    return key in ("latency_s", "created") or (key == "id" and str(value).startswith(("cmpl-", "chatcmpl-")))
