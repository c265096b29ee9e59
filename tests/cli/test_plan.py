"""``mode=plan`` reads the items of every task, and says how much would be asked, without loading a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from launcher.core.types import Json
from launcher.pipeline import config
from tests.running import launch_here

ECHO = ("engine=echo", "model=none", "mode=plan")


def planned(folder: Path, *arguments: str) -> dict[str, Json]:
    done = launch_here(folder, *ECHO, *arguments)
    assert done.returncode == 0, done.stderr
    plan: dict[str, Json] = yaml.safe_load(done.stdout)
    return plan


def test_it_counts_examples_samples_and_requests_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Once upon a time.\n")
    chosen = ["tasks=[addition,capitals,judged_addition,perplexity]", "tasks.perplexity.path=texts.txt", "judge=url"]
    settings = ["judge.url=http://127.0.0.1:9/v1", "tasks.addition.fewshot=2", "tasks.capitals.limit=5"]
    found = planned(tmp_path, *chosen, *settings, "evaluate.repeats=3", "evaluate.limit=7")
    assert found["tasks"] == {
        "addition": "generation, 2-shot, 21 samples, 21 requests",
        "capitals": "multiple_choice, 0-shot, 15 samples, 15 requests",
        "judged_addition": "judge, 0-shot, 21 samples, 21 requests and those to the judge",
        "perplexity": "perplexity, as many samples as its tokens need",
    }


def test_a_bad_item_is_one_line_though_it_is_the_last(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(50)] + [{"prompt": "1+1="}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = launch_here(tmp_path, *ECHO, "tasks=[addition]", "tasks.addition.path=items.jsonl")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("launcher: tasks.addition: items.jsonl:51: 'answer' is undefined")


def test_a_data_set_that_is_not_here_is_said_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user forbids to fetch it, a run would fail, and so does its plan."""
    pytest.importorskip("lm_eval")
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\ntest_split: test\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\nmetric_list: [{metric: exact_match}]\n"
    )
    asked = ["tasks=[lm_eval/own]", "lm_eval.include_path=."]
    for forbidden in False, True:
        monkeypatch.setattr(config, "fetches_nothing", lambda here=forbidden: not here)
        done = launch_here(tmp_path, *ECHO, *asked)
        assert done.returncode == int(forbidden), done.stderr
        said = done.stderr if forbidden else done.stdout
        where = "tasks.lm_eval_own: lm_eval/own cannot be loaded" if forbidden else "its data are not on this machine"
        assert where in said


TINY = Path(__file__).parents[2] / "launcher" / "assets" / "tiny"


def of_another_model(file: Path) -> None:
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"word{n}": 1000 + n for n in range(9)}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("engine", ["auto", "megatron", "huggingface"])
def test_a_tokenizer_that_cannot_serve_is_said_before_the_weights_are_read(engine: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, "mode=convert", f"model.path={TINY}", "convert.path=made")
    assert done.returncode == 0, done.stderr
    asked = ["mode=plan", f"engine={engine}", "model=checkpoint", "model.path=made"]
    file = tmp_path / "made" / "tokenizer.json"
    assert launch_here(tmp_path, *asked).returncode == 0
    of_another_model(file)
    said = launch_here(tmp_path, *asked).stderr
    assert said == "launcher: made: its tokenizer has 1009 tokens; the model's embedding has 264 rows\n"
    file.write_text(file.read_text()[:1000])
    assert "made/tokenizer.json: the tokenizer cannot be read" in launch_here(tmp_path, *asked).stderr
    file.unlink()
    assert launch_here(tmp_path, *asked).stderr.endswith("set model.tokenizer to its folder\n")
    own = f"model.tokenizer={TINY / 'iter_0000800' / 'tokenizer'}"
    assert launch_here(tmp_path, *asked, own).returncode == 0
    assert "no such file or folder" in launch_here(tmp_path, *asked, "model.tokenizer=nowhere").stderr


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of a run of two samples, with what a scoring reads of it."""
    folder = tmp_path / "earlier"
    done = launch_here(tmp_path, *ECHO[:2], "tasks=[addition]", "evaluate.limit=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_what_a_scoring_would_do_is_shown_and_nothing_is_written(tmp_path: Path, earlier: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = launch_here(tmp_path, "score", str(earlier), "mode=plan", "tasks.addition.match=contains")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert found == {
        "mode": "score: no server is started",
        "tasks": {"addition": "generation"},
        "answers of": str(earlier),
        "scored again": 2,
        "not scored again": 0,
        "left out": 0,
    }
    found = planned(tmp_path, f"run={earlier}", "tasks.addition.max_tokens=9")
    assert (found["scored again"], found["not scored again"]) == (0, {"max_tokens: 8 -> 9": 2})
    assert sorted(tmp_path.rglob("*")) == before
    done = launch_here(tmp_path, "score", str(earlier), "mode=run")
    assert (done.returncode, done.stderr) == (
        1,
        "launcher: score: mode=run: expected no mode, or mode=plan to see what would be scored\n",
    )
