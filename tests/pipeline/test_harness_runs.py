"""Harnesses of other programs in a run of the launcher: real ones, pointed at the run's endpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import psutil
import pytest

from launcher.report.results import SCHEMA
from tests.running import UNVALIDATED, launch_here, living, program, wait_for

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none", UNVALIDATED)
KEY = "the-key-of-the-endpoint-0123456789"

BLOCK = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<code>.*?)^```', re.M | re.S)
"""A file on the page about harnesses."""

INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, solver


@solver
def broken_for(number):
    async def solve(state, generate):
        if state.sample_id == number:
            raise RuntimeError("no tool for this sample")
        return state

    return solve


@task
def sums():
    items = [Sample(id=n, input=f"{n} + 0 =", target=str(n)) for n in range(1, 6)]
    return Task(dataset=items, solver=[broken_for(2), generate()], scorer=includes())
"""

LM_EVAL_TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: choices
doc_to_target: a
metric_list:
  - metric: acc
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *ECHO, *arguments]


def launch(
    folder: Path, *arguments: str, code: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, Any], str]:
    """Run the launcher; return its results, which follow their schema, and what it printed."""
    with program(command(*arguments, f"hydra.run.dir={folder}"), folder.parent, {**os.environ, **environment}) as done:
        out, err = done.communicate(timeout=240)
    assert done.returncode == code, err
    found = json.loads((folder / "results.json").read_text())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    return found, out + err


def sleeping(pid: int) -> list[psutil.Process]:
    """Return the processes ``sleep`` that a process has started, and what it has started."""
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [each] if each.name() == "sleep" else []
    return found


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@pytest.mark.services
def test_the_documented_script_with_the_openai_client_goes_through_the_adapters(tmp_path: Path) -> None:
    write_documented(tmp_path)
    with (tmp_path / "my_eval.py").open("a") as script:
        script.write('print("the key is", client.api_key)\n')
    harness = (
        f"--config-dir={tmp_path / 'options'}",
        "tasks=[addition,my_eval]",
        "evaluate.min_coverage=0",  # the adapter spoils the other task
        "backend.api_key_env=MY_KEY",
        "adapters=[system_message,request_log]",
        "adapters.system_message.text='Paris, Oslo.'",  # which the engine repeats
    )
    found, said = launch(tmp_path / "run", *harness, environment={"MY_KEY": KEY})
    assert list(found["tasks"]) == ["addition", "my_eval"]
    task = found["tasks"]["my_eval"]
    assert task["metrics"]["accuracy"] | {"value": 1.0, "n": 2, "direction": "higher"} == task["metrics"]["accuracy"]
    assert task["metrics"]["words"]["direction"] == "lower"
    assert task["coverage"] | {"scored": 2, "total": 2} == task["coverage"]
    assert task["harness"]["requests"] == 2
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY in file.read_text(errors="replace")]
    assert KEY not in said
    log = tmp_path / "run" / "harness" / "my_eval" / "harness.log"
    assert "the key is [redacted: proxy key]" in log.read_text()
    asked = (log.parent / "proxy" / "requests.jsonl").read_text().splitlines()
    assert [json.loads(line)["request"]["messages"][0]["role"] for line in asked] == ["system", "system"]
    assert "2 completions in" in (tmp_path / "run" / "report.html").read_text()

    began = log.stat()
    again, said = launch(tmp_path / "run", *harness, f"resume={tmp_path / 'run'}", environment={"MY_KEY": KEY})
    assert "my_eval: finished in an earlier session" in said
    assert again["tasks"] == found["tasks"]
    assert log.stat().st_mtime_ns == began.st_mtime_ns


RECIPES = {"lighteval": "em", "evalscope": "accuracy", "evalplus": "pass_at_1", "bfcl": "accuracy"}
"""The documented harnesses with the first of their metrics."""
ENVIRONMENTS = Path(os.environ.get("RECIPES", ROOT / "build" / "recipes"))
"""A folder with an environment of Python for each, as the page about harnesses says."""


def write_documented(folder: Path) -> None:
    """Write the files of the page about harnesses."""
    for block in BLOCK.finditer((ROOT / "docs" / "harnesses.md").read_text()):
        (folder / block["name"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / block["name"]).write_text(block["code"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_documented_recipe_composes(name: str, tmp_path: Path) -> None:
    write_documented(tmp_path)
    done = launch_here(tmp_path, f"--config-dir={tmp_path / 'options'}", "mode=plan", f"tasks=[{name}]", *ECHO)
    assert done.returncode == 0, done.stderr
    assert "harness_command, sh -c " in done.stdout


@pytest.mark.services
@pytest.mark.parametrize("name", RECIPES)
def test_a_documented_recipe_runs_where_its_harness_is_installed(name: str, tmp_path: Path) -> None:
    found = [each for each in (ENVIRONMENTS / name, ENVIRONMENTS / f"{name}-eval") if (each / "bin").is_dir()]
    if not found:
        pytest.skip(f"there is no environment with {name} in {ENVIRONMENTS}; set RECIPES to the folder of one")
    write_documented(tmp_path)
    path = os.pathsep.join([str(found[0] / "bin"), os.environ["PATH"]])
    options = (f"--config-dir={tmp_path / 'options'}", f"tasks=[{name}]", "evaluate.min_coverage=0")
    result, _ = launch(tmp_path / "run", *options, environment={"PATH": path})
    task = result["tasks"][name]
    assert next(iter(task["metrics"])) == RECIPES[name]
    assert task["harness"]["requests"] > 0
    assert all("does not say how many" in note for note in task.get("notes", ()))


@pytest.mark.services
@needs("inspect_ai")
def test_inspect(tmp_path: Path) -> None:
    """A sample that fails is counted; a resumed run asks nothing again."""
    (tmp_path / "sums.py").write_text(INSPECT_TASK)
    harness = (
        "tasks=[harness/inspect]",
        "tasks.harness_inspect.task=sums.py@sums",
        "evaluate.max_tokens=8",
        "evaluate.temperature=0",
    )
    found, said = launch(tmp_path / "run", *harness, "evaluate.min_coverage=0.7", "evaluate.limit=4")
    task = found["tasks"]["harness_inspect"]
    assert task["metrics"]["accuracy"]["value"] == 1.0
    assert task["metrics"]["accuracy"]["n"] == 3
    assert task["coverage"] | {"scored": 3, "failed": 1, "total": 4} == task["coverage"]
    assert task["harness"]["requests"] == 3
    assert "ended with an error" in said


@pytest.mark.services
@needs("lm_eval")
@needs("datasets")
def test_lm_evals_own_command_line(tmp_path: Path) -> None:
    """It gives what the launcher's own bridge to the same task gives."""
    items = tmp_path / "items.jsonl"
    rows = [
        ("The sky is", [" blue", " of cheese"], 0),
        ("Grass is", [" red", " green"], 1),
        ("Two is", [" 2", " 3"], 0),
    ]
    items.write_text("".join(json.dumps({"q": q, "choices": c, "a": a}) + "\n" for q, c, a in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(LM_EVAL_TASK.format(items=items))
    found, _ = launch(
        tmp_path / "run",
        "tasks=[lm_eval/colours,harness/lm_eval_cli]",
        f"lm_eval.include_path={tmp_path / 'tasks'}",
        "tasks.harness_lm_eval_cli.task=colours",
        f"tasks.harness_lm_eval_cli.include_path={tmp_path / 'tasks'}",
        environment={"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    ours, theirs = found["tasks"]["lm_eval_colours"], found["tasks"]["harness_lm_eval_cli"]
    for figure in ("value", "n"):
        assert theirs["metrics"]["acc"][figure] == ours["metrics"]["acc"][figure]
    assert theirs["metrics"]["acc"]["stderr"] == pytest.approx(ours["metrics"]["acc"]["stderr"])
    assert theirs["harness"]["requests"] == 6


MANY_FOR_LM_EVAL = """
task: many
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: generate_until
doc_to_text: q
doc_to_target: q
generation_kwargs: {{until: ["."], max_gen_toks: 8, do_sample: false, temperature: 0}}
metric_list:
  - metric: exact_match
"""

MANY_FOR_INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def many():
    items = [Sample(id=n, input=f"Number {n}.", target="x") for n in range(1, 41)]
    return Task(dataset=items, solver=generate(), scorer=includes())
"""


@pytest.mark.soak
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("harness", ["inspect", "lm_eval_cli"])
def test_a_harness_that_was_killed_asks_only_what_it_has_not_asked(harness: str, chat: bool, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai" if harness == "inspect" else "lm_eval")
    if harness == "inspect" and not chat:
        pytest.skip("inspect asks over chat only")
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"q": f"Number {n}."}) + "\n" for n in range(40)))
    (tmp_path / "many.yaml").write_text(MANY_FOR_LM_EVAL.format(items=items))
    (tmp_path / "many.py").write_text(MANY_FOR_INSPECT)
    key = f"tasks.harness_{harness}"
    own = [f"{key}.task=many.py"] if harness == "inspect" else [f"{key}.task=many", f"{key}.include_path={tmp_path}"]
    own += [f"{key}.chat=true"] if chat and harness != "inspect" else []
    settings = (
        *(f"tasks=[harness/{harness}]", *own, "evaluate.concurrency=1", "engine.latency_s=0.5"),
        *("evaluate.max_tokens=8", "adapters=[request_log]"),
    )
    folder, offline = tmp_path / "run", {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    asked = folder / "harness" / f"harness_{harness}" / "proxy" / "requests.jsonl"
    with program(command(*settings, f"hydra.run.dir={folder}"), tmp_path, {**os.environ, **offline}) as process:
        wait_for(lambda: asked.exists() and asked.read_bytes().count(b"\n") >= 24, process, 240)
        process.kill()
        process.communicate(timeout=60)
    found, _ = launch(folder, *settings, f"resume={folder}", environment=offline)
    task = found["tasks"][f"harness_{harness}"]
    assert task["coverage"] | {"scored": 40, "total": 40} == task["coverage"]
    assert 0 < task["harness"]["requests"] <= 30


@pytest.mark.services
def test_an_interrupted_harness_leaves_no_process_and_is_run_again(tmp_path: Path) -> None:
    """Once by Ctrl-C, once by SIGKILL; the third attempt of the command succeeds."""
    count = "echo x >> {output}/begun; [ $(wc -l < {output}/begun) = 3 ] && echo '[0.5]' > {output}/out.json && exit"
    harness = (
        "tasks=[harness/command]",
        f'tasks.harness_command.command="{count}; setsid sleep 300 & sleep 300"',
        "tasks.harness_command.shell=true",
        "tasks.harness_command.result.path='{output}/out.json'",
        "+tasks.harness_command.result.metrics.a='$[0]'",
    )
    folder = tmp_path / "run"
    for sign, place in ((signal.SIGINT, f"hydra.run.dir={folder}"), (signal.SIGKILL, f"resume={folder}")):
        with program(command(*harness, place), tmp_path) as process:
            wait_for(lambda process=process: len(sleeping(process.pid)) == 2, process, 120)
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(sign)
            process.communicate(timeout=60)
        psutil.wait_procs(family, timeout=60)
        assert not living(family)
        if sign is signal.SIGINT:
            found = json.loads((folder / "results.json").read_text())
            assert (process.returncode, found["status"]) == (130, "interrupted")
            assert found["tasks"]["harness_command"]["coverage"]["not_asked"] == 1
    found, _ = launch(folder, *harness, f"resume={folder}")
    assert found["tasks"]["harness_command"]["metrics"]["a"]["value"] == 0.5


@pytest.mark.services
def test_a_harness_that_fails_ends_the_run_as_incomplete(tmp_path: Path) -> None:
    harness = (
        "tasks=[harness/command]",
        "tasks.harness_command.command='{python} -c \"import json; json.loads(chr(120))\"'",
        "tasks.harness_command.result.path='{output}/out.json'",
        "+tasks.harness_command.result.metrics.a=$.a",
    )
    found, said = launch(tmp_path / "run", *harness, code=3)
    assert found["status"] == "incomplete"
    assert (
        found["tasks"]["harness_command"]["coverage"] | {"failed": 1, "total": 1, "scored": 0}
        == found["tasks"]["harness_command"]["coverage"]
    )
    assert "json.decoder.JSONDecodeError: Expecting value" in said
    scored = launch_here(tmp_path, "mode=score", f"run={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'again'}")
    assert scored.returncode == 1
    assert "harnesses asked all of its tasks" in scored.stderr
