"""What must fail a sample, or stay as it is, where lm-eval's own client goes on silently."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.core.errors import TaskError
from launcher.core.types import Ask, Endpoint, Response, Sample, Score, Status
from launcher.settings.evaluate import Evaluate
from launcher.tasks.lm_eval import gold as gold_module
from launcher.tasks.lm_eval import metrics, results
from launcher.tasks.lm_eval.task import LmEval
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Watch
from tests.running import program, wait_for
from tests.tasks.lm_eval.conftest import ROOT

OWN = """
def scores(doc, results):
    return {"f1": 100.0, "longest": (len(results[0]), {"id": doc["question"]}), "unlisted": 1.0}


def longest(items):
    assert all(isinstance(item, tuple) and item[1]["id"] for item in items)
    return max(item[0] for item in items)
"""
OWN_YAML = """
include: texts.yaml
task: local_own
num_fewshot: 0
filter_list: null
process_results: !function own.scores
metric_list:
  - {metric: f1, aggregation: mean, higher_is_better: true}
  - {metric: longest, aggregation: !function own.longest, higher_is_better: false}
"""
LATER = "{{9 if question == '4+7' else label}}"
ODD = """
def scores(doc, results):
    return {"length": len(results[0]), "said": results[0], **({"late": 1} if results[0] else {})}
"""
SLOW = """
def scores(doc, results):
    if doc["question"] == "2+5":
        while True:
            try:
                while True:
                    pass
            except:  # as the code of many tasks does
                return {"f1": 0.0}
    return {"f1": 100.0}
"""
SLOW_YAML = """
include: texts.yaml
task: local_slow
num_fewshot: 0
filter_list: null
process_results: !function slow.scores
metric_list:
  - {metric: f1, aggregation: mean, higher_is_better: true}
"""
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant>{% endif %}"


async def nothing(*_: Any) -> Any:
    raise AssertionError("a task of lm-eval asks nothing more")


def prepared(task: LmEval, endpoint: Endpoint) -> list[Sample]:
    task.prepare(endpoint)
    return list(task.samples("t", endpoint.model))


async def scored(task: LmEval, sample: Sample, *bodies: Any) -> Score:
    ask: Ask = nothing  # type: ignore[assignment]
    return await task.score(sample, [Response(200, body) for body in bodies], ask)


def answer(tokens: int, **changes: Any) -> dict[str, Any]:
    """Return the echo of a prompt as a server gives it, with ``changes`` of its log-probabilities."""
    values: list[Any] = [None, *[-1.0] * tokens]
    logprobs = {"token_logprobs": values, "top_logprobs": [None, *[{"a": -1.0}] * tokens]}
    return {"index": 0, "text": "x", "finish_reason": "length", "logprobs": logprobs | changes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_logprobs": [None, -1.0]}, "'token_logprobs' has 2 entries"),
        ({"top_logprobs": None}, "'top_logprobs' has no entries"),
    ],
)
async def test_too_few_log_probabilities_fail_a_sample(
    server: Endpoint, lm_eval_tasks: Path, changes: Mapping[str, Any], reason: str
) -> None:
    task = LmEval(task="local_ends", include_path=str(lm_eval_tasks), limit=1)
    sample = (await asyncio.to_thread(prepared, task, server))[0]
    tokens = len(sample.requests[0].body["prompt"][0])
    good = await scored(task, sample, {"choices": [answer(tokens)]})
    assert good.status is Status.scored
    bad = await scored(task, sample, {"choices": [answer(tokens, **changes)]})
    assert (bad.status, bad.scores) == (Status.failed, {})
    assert reason in str(bad.reason)
    none = answer(tokens)
    none["logprobs"]["token_logprobs"][-2] = None
    assert (await scored(task, sample, {"choices": [none]})).status is Status.failed


@pytest.mark.slow
async def test_an_answer_without_text_is_not_scored_as_an_empty_one(server: Endpoint, lm_eval_tasks: Path) -> None:
    task = LmEval(task="local_texts", include_path=str(lm_eval_tasks), limit=1, chat=True)
    sample = (await asyncio.to_thread(prepared, task, server))[0]
    for content, status in ((None, Status.refused), ("", Status.scored), ("7", Status.scored)):
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        assert (await scored(task, sample, {"choices": [choice]})).status is status, content


@pytest.mark.slow
async def test_a_prompt_that_is_too_long_is_refused_and_counted(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path
) -> None:
    """lm-eval's client cuts it on the left, and scores what is left."""
    task = LmEval(task="local_texts", include_path=str(lm_eval_tasks), limit=3, system_instruction="0 " * 5000)
    other = LmEval(task="local_texts", include_path=str(lm_eval_tasks), limit=3)
    found = await evaluate(server, {"long": task, "short": other}, [], Evaluate(), tmp_path, None, Watch())
    assert found.tasks["long"].coverage["scored"] == 0
    assert found.tasks["long"].coverage["total"] == 3
    assert found.tasks["short"].coverage["scored"] == 3
    results.write(tmp_path, {"long": task, "short": other}, [], server)
    [file] = tmp_path.glob("lm_eval/*/results_*.json")
    assert json.loads(file.read_text())["n-samples"] == {"short": {"original": 12, "effective": 3}}


@pytest.mark.slow
async def test_the_results_are_written_without_a_fork(
    server: Endpoint,
    lm_eval_tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """lm-eval would fork for the standard error of BLEU: with the threads of an engine, that may never end."""
    monkeypatch.delenv("DISABLE_MULTIPROC")
    monkeypatch.setattr("os.fork", lambda: pytest.fail("the process forks"))
    task = LmEval(task="local_texts", include_path=str(lm_eval_tasks), limit=3)
    await evaluate(server, {"t": task}, [], Evaluate(), tmp_path, None, Watch())
    capfd.readouterr()
    results.write(tmp_path, {"t": task}, [], server)
    assert capfd.readouterr() == ("", "")
    assert "DISABLE_MULTIPROC" not in os.environ
    [file] = tmp_path.glob("lm_eval/*/results_*.json")
    assert json.loads(file.read_text())["results"]["local_texts"]["bleu_stderr,strict"] >= 0


@pytest.mark.slow
async def test_own_scoring_may_give_per_cent_and_pairs(server: Endpoint, lm_eval_tasks: Path, tmp_path: Path) -> None:
    (lm_eval_tasks / "own.py").write_text(OWN)
    (lm_eval_tasks / "own.yaml").write_text(OWN_YAML)
    task = LmEval(task="local_own", include_path=str(lm_eval_tasks))
    found = await evaluate(server, {"t": task}, [], Evaluate(), tmp_path, None, Watch())
    assert found.tasks["t"].coverage["scored"] == 12
    assert found.tasks["t"].metrics["f1"].value == 100.0
    lengths = [len(json.loads(line)["response"]["choices"][0]["text"]) for line in (tmp_path / "samples.jsonl").open()]
    assert found.tasks["t"].metrics["longest"].value == max(lengths)


@pytest.mark.slow
async def test_every_number_that_a_scoring_gives_is_kept_and_said(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path
) -> None:
    """lm-eval takes the mean of what no metric declares, and ends with an error for a text."""
    (lm_eval_tasks / "odd.py").write_text(ODD)
    (lm_eval_tasks / "odd.yaml").write_text(
        "include: texts.yaml\ntask: local_odd\nnum_fewshot: 0\nfilter_list: null\nprocess_results: !function odd.scores"
    )
    task = LmEval(task="local_odd", include_path=str(lm_eval_tasks))
    assert [metric.name for metric in task.metrics] == ["length", "exact_match", "bleu", "truncated"]
    found = await evaluate(server, {"t": task}, [], Evaluate(), tmp_path, None, Watch())
    assert {"length", "truncated"} == found.tasks["t"].metrics.keys()
    notes = found.tasks["t"].notes
    assert notes["the task's scoring gives late, which no metric of the task declares"] == 12
    results.write(tmp_path, {"t": task}, [], server)
    [file] = tmp_path.glob("lm_eval/*/results_*.json")
    official = json.loads(file.read_text())["results"]["local_odd"]
    assert (official["late,none"], official["length,none"]) == (1.0, found.tasks["t"].metrics["length"].value)


@pytest.mark.slow
@pytest.mark.parametrize(("gold", "counted"), [(-1, 12), (LATER, 1)])
async def test_a_right_answer_that_is_no_choice_is_said(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path, gold: Any, counted: int
) -> None:
    """The score stays that of lm-eval, which is 0 for any answer."""
    text = json.dumps({"include": "choices.yaml", "task": "local_gold", "doc_to_target": gold, "num_fewshot": 0})
    (tmp_path / "gold.yaml").write_text(text)
    for file in lm_eval_tasks.glob("choices.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    task = LmEval(task="local_gold", include_path=str(tmp_path))
    found = await evaluate(server, {"t": task}, [], Evaluate(), tmp_path / "run", None, Watch())
    assert found.tasks["t"].coverage["scored"] == 12
    assert found.tasks["t"].notes.get(gold_module.NOTE, 0) == counted
    assert (found.tasks["t"].metrics["acc"].value == 0) or not counted


@pytest.mark.slow
async def test_a_task_under_two_keys_stays_in_the_result_of_its_group(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path
) -> None:
    tasks = {
        "again": LmEval(task="local_choices", include_path=str(lm_eval_tasks), num_fewshot=0),
        "lm_eval_local_choices": LmEval(task="local_choices", include_path=str(lm_eval_tasks)),
        "lm_eval_local_inputs": LmEval(task="local_inputs", include_path=str(lm_eval_tasks)),
    }
    found = await evaluate(server, tasks, [], Evaluate(), tmp_path, None, Watch())
    results.write(tmp_path, tasks, ["lm_eval_local_group"], server)
    [file] = tmp_path.glob("lm_eval/*/results_*.json")
    official = json.loads(file.read_text())
    assert official["results"].keys() == {"again", "local_choices", "local_inputs", "local_group"}
    assert official["group_subtasks"] == {"local_group": ["local_choices", "local_inputs"]}
    values = [found.tasks[key].metrics["acc"].value for key in ("lm_eval_local_choices", "lm_eval_local_inputs")]
    assert official["groups"]["local_group"]["acc,none"] == pytest.approx(sum(values) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local_texts", "local_unbounded", "local_mixed", "local_plain"])
def test_a_bound_of_the_user_wins(server: Endpoint, lm_eval_tasks: Path, name: str) -> None:
    """lm-eval puts 256 into a YAML file without settings, and a class in Python may not look at its configuration."""
    unbounded = {"include": "texts.yaml", "task": "local_unbounded", "generation_kwargs": None}
    (lm_eval_tasks / "unbounded.yaml").write_text(json.dumps(unbounded))
    official = {"local_texts": 6, "local_unbounded": 256, "local_mixed": 5, "local_plain": 4}[name]

    def bounds(**settings: Any) -> set[int]:
        task = LmEval(task=name, include_path=str(lm_eval_tasks), limit=2, **settings)
        bodies = [request.body for sample in prepared(task, server) for request in sample.requests]
        return {body["max_tokens"] for body in bodies if not body.get("echo")}

    assert bounds() == {official}
    assert bounds(max_gen_toks=9) == {9}
    assert bounds(gen_kwargs={"max_gen_toks": 11}) == {11}
    assert bounds(gen_kwargs={"max_new_tokens": 12}) == {12}
    with pytest.raises(TaskError, match=r"gen_kwargs.max_gen_toks=11 and max_gen_toks=9 differ; give one of them"):
        bounds(max_gen_toks=9, gen_kwargs={"max_gen_toks": 11})


def test_code_is_in_the_fingerprint(lm_eval_tasks: Path, tmp_path: Path) -> None:
    from launcher.tasks.lm_eval import loading

    for name in ("greedy_yaml", "mixed.yaml", "more.yaml", "own_code.py"):
        (tmp_path / name).write_text((lm_eval_tasks / name).read_text())

    def fingerprints() -> list[Any]:
        loading.load.cache_clear()
        names = ("local_mixed", "local_more")
        return [LmEval(task=name, include_path=str(tmp_path)).fingerprint() for name in names]

    first = fingerprints()
    assert fingerprints() == first
    (tmp_path / "own_code.py").write_text((tmp_path / "own_code.py").read_text() + "\n# changed\n")
    assert all(one["code"] != other["code"] for one, other in zip(fingerprints(), first, strict=True))
    bounded = LmEval(task="local_more", include_path=str(tmp_path), max_gen_toks=3)
    assert bounded.fingerprint()["config"] != first[1]["config"]


@pytest.mark.slow
async def test_prompts_depend_neither_on_other_tasks_nor_on_an_earlier_pass(
    server: Endpoint, lm_eval_tasks: Path
) -> None:
    import random

    import numpy as np

    def bodies(*before: str) -> list[Any]:
        for name in before:
            prepared(LmEval(task=name, include_path=str(lm_eval_tasks)), server)
        task = LmEval(task="local_choices", include_path=str(lm_eval_tasks))
        return [[request.body for request in sample.requests] for sample in prepared(task, server)]

    states = str((random.getstate(), np.random.get_state()))
    first = await asyncio.to_thread(bodies)
    assert await asyncio.to_thread(bodies, "local_texts", "local_inputs") == first
    assert str((random.getstate(), np.random.get_state())) == states
    assert all(len(requests) == 1 and len(requests[0]["prompt"]) == 8 for requests in first)


def test_what_changes_a_score_is_in_the_fingerprint(lm_eval_tasks: Path, tmp_path: Path) -> None:
    for name in ("texts", "choices"):
        text = (lm_eval_tasks / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text)
    from launcher.tasks.lm_eval import loading

    def fingerprint() -> Any:
        loading.load.cache_clear()
        return LmEval(task="local_texts", include_path=str(tmp_path)).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    config = json.loads((tmp_path / "texts.yaml").read_text())
    (tmp_path / "texts.yaml").write_text(json.dumps(config | {"doc_to_target": "{{question}}"}))
    assert fingerprint() != first
    (tmp_path / "texts.yaml").write_text(json.dumps(config))
    assert fingerprint() == first
    data = Path(config["dataset_kwargs"]["data_files"]["test"])
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(data.open().readlines()[:-1]))
    source = {"data_files": {"test": str(fewer)}, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "texts.yaml").write_text(json.dumps(config | {"dataset_kwargs": source}))
    assert fingerprint()["documents"] != first["documents"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with a chat template, as in the folder of a checkpoint."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate([*letters, "</s>"])}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_local_tokenizer_applies_its_chat_template(lm_eval_tasks: Path, tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    nowhere = Endpoint("http://127.0.0.1:9/v1", "m", "external", "none")
    settings: dict[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True, "num_fewshot": 1}
    task = LmEval(
        task="local_texts",
        include_path=str(lm_eval_tasks),
        tokenizer=str(tokenizer_folder),
        system_instruction="Add.",
        limit=2,
        **settings,
    )
    sample = prepared(task, nowhere)[0]
    body = sample.requests[0].body
    text = AutoTokenizer.from_pretrained(tokenizer_folder).decode(body["prompt"][0])
    assert text.startswith("<system>Add.\n<user>")
    assert text.count("<user>") == 2
    assert text.endswith("2+5=\n<assistant>")
    assert "</s>" in body["stop"]


def test_settings_that_cannot_be_are_named_before_anything_is_asked(lm_eval_tasks: Path) -> None:
    base = LmEval(include_path=str(lm_eval_tasks))
    for changes, said in (
        ({"task": "local_ends", "chat": True}, r"needs log-likelihoods \(loglikelihood\)"),
        ({"task": "local_texts", "apply_chat_template": True}, "apply_chat_template needs tokenizer="),
        ({"task": "local_texts", "tokenizer": "/nope"}, "tokenizer=/nope is not a folder"),
        ({"task": "local_group"}, "is a group or a tag"),
        ({"task": ""}, "task is empty"),
    ):
        with pytest.raises(TaskError, match=said):
            list(dataclasses.replace(base, **changes).preview("t", "m"))


@pytest.mark.slow
def test_an_endpoint_without_tokenizer_is_one_line(lm_eval_tasks: Path) -> None:
    nowhere = Endpoint("http://127.0.0.1:9/v1", "m", "external", "none")
    with pytest.raises(TaskError, match=r"gives no tokenizer"):
        prepared(LmEval(task="local_ends", include_path=str(lm_eval_tasks)), nowhere)


@pytest.mark.soak
def test_a_killed_run_goes_on_where_it_was(lm_eval_tasks: Path, tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    line = [sys.executable, str(ROOT / "launch.py")]
    run = ["engine=echo", "model=none", f"lm_eval.include_path={lm_eval_tasks}", "tasks=[lm_eval/local_texts]"]
    slow = [*run, "engine.latency_s=0.3", "evaluate.concurrency=1", f"hydra.run.dir={folder}"]

    def lines(of: Path) -> list[str]:
        return (of / "samples.jsonl").read_text().splitlines() if (of / "samples.jsonl").exists() else []

    with program([*line, *slow], tmp_path) as process:
        wait_for(lambda: len(lines(folder)) >= 3, process, 120)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = lines(folder)[:3]
    assert len(lines(folder)) < 12
    for arguments in ([*run, f"hydra.run.dir={whole}"], [f"resume={folder}", "engine.latency_s=0"]):
        with program([*line, *arguments], tmp_path) as process:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, out + err
    assert lines(folder)[:3] == kept
    scores = [{json.loads(row)["id"]: json.loads(row)["scores"] for row in lines(of)} for of in (folder, whole)]
    prompts = [{json.loads(row)["id"]: json.loads(row)["request"] for row in lines(of)} for of in (folder, whole)]
    assert len(lines(folder)) == len(scores[0]) == 12
    assert scores[0] == scores[1]
    assert prompts[0] == prompts[1]


@pytest.mark.slow
async def test_a_scoring_that_never_ends_fails_its_sample_and_holds_up_nothing(
    server: Endpoint, lm_eval_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It catches its interruption, as well as that of the trial which shows the metrics of a task."""
    monkeypatch.setattr(metrics, "TRIAL_S", 0.1)
    (lm_eval_tasks / "slow.py").write_text(SLOW)
    (lm_eval_tasks / "slow.yaml").write_text(SLOW_YAML)
    task = LmEval(task="local_slow", include_path=str(lm_eval_tasks))
    asking = Evaluate(score_timeout_s=2, retry_failed=False)
    found = await evaluate(server, {"t": task}, [], asking, tmp_path, None, Watch())
    assert (found.tasks["t"].coverage["scored"], found.tasks["t"].coverage["failed"]) == (11, 1)
    assert found.tasks["t"].metrics["f1"].value == 100.0
    [reason] = found.tasks["t"].reasons["failed"]
    assert reason == "scoring failed: it took more than evaluate.score_timeout_s=2"
