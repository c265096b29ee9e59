"""Command lines that people get wrong: one line, which ends with what works."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.core.files import cache_folder
from launcher.core.types import expanded
from tests.running import launch_here


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with folders that are no whole checkpoints, and an empty cache of Hugging Face's."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("t/empty", "t/step=100", "t/gemma", "t/noweights", "t/run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "t/run/journal.json").write_text("{}")
    (tmp_path / "file").touch()
    (tmp_path / "t/gemma/config.json").write_text(
        json.dumps({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]})
    )
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    (tmp_path / "t/noweights/config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    return tmp_path


CHECKPOINT = "model=checkpoint model.path="


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=my_model"], ["model=my_model: no such option", f"tiny, or for a checkpoint {CHECKPOINT}<folder>"]),
        (["model=tinny"], ["(did you mean tiny?)"]),
        (["model=/ckpt/my_model"], [f"model=/ckpt/my_model: no such option; write {CHECKPOINT}/ckpt/my_model"]),
        (["model=t/empty"], [f"model=t/empty: no such option; write {CHECKPOINT}t/empty"]),
        (["model=t"], [f"write {CHECKPOINT}t"]),
        (["model=/ckpt/step=100"], [f"model=/ckpt/step=100: no such option; write {CHECKPOINT}/ckpt/step=100"]),
        (["model=checkpoint"], ["model.path: engine=megatron needs a checkpoint; give model.path=<folder>"]),
        (["model=checkpoint", "model.path=t/empty"], ["t/empty: not a checkpoint of a known layout"]),
        (["model=checkpoint", "model.path=t/step=100"], ["t/step=100: not a checkpoint of a known layout"]),
        (
            ["model=checkpoint", "model.path=t/gemma"],
            ["model_type is 'gemma2'", "supported: llama", "engine=huggingface"],
        ),
        (
            ["mode=convert", "model=checkpoint", "model.path=t/gemma", "convert.path=t/new"],
            ["model_type is 'gemma2'", "conversion takes what engine=megatron computes"],
        ),
        (["model=checkpoint", "model.path=t/noweights"], ["t/noweights/model.safetensors: missing"]),
        (
            ["model=checkpoint", "model.path=meta-llama/Llama-3.1-8B"],
            ["hf download meta-llama/Llama-3.1-8B --local-dir Llama-3.1-8B, then model.path=Llama-3.1-8B"],
        ),
        (["backend.url=http://127.0.0.1:8000/v1"], ["backend.url: no such key; url is a key of backend=external"]),
        (["backend.replicas=2"], ["replicas is a key of backend=ray"]),
        (["cluster.partition=gpu"], ["partition is a key of cluster=slurm"]),
        (["limit=10"], ["limit: no such key; did you mean evaluate.limit"]),
        (["temperature=0"], ["did you mean evaluate.temperature?"]),
        (["tensor=2"], ["did you mean parallelism.tensor?"]),
        (["tasks.fewshot=5"], ["tasks.addition.fewshot or tasks.capitals.fewshot"]),
        (["task=[addition]"], ["task: no such key (did you mean tasks?)"]),
        (["tasks.arc_easy.limit=5"], ["arc_easy is not chosen; tasks=[arc_easy] chooses it"]),
        (["engine=hf"], ["engine=hf: no such option; write engine=huggingface"]),
        (["engine=megatorn"], ["(did you mean megatron?)"]),
        (["engine=vllm"], ["engine=vllm: no such option; write backend=vllm"]),
        (["backend=llama.cpp"], ["write backend=llama_cpp"]),
        (["backend=triton"], ["write backend=pytriton"]),
        (["backend=external"], ["backend.url: a value is required"]),
        (["parallelism=tensor4"], ["(did you mean tensor2?)"]),
        (["adapters=[retry,cache]"], ["write adapters=[caching]"]),
        (["adapters.caching.folder=x"], ["caching is not chosen; adapters=[caching] chooses it"]),
        (["evaluate.limit=ten"], ["evaluate.limit: Value 'ten'", "expected a whole number"]),
        (["evaluate.limit=-1"], ["evaluate.limit is -1; must be at least 1"]),
        (["evaluate.temprature=0.5"], ["(did you mean temperature?)"]),
        (["evaluate.temperature=0,0.7"], ["several values; sweep over them with -m, or give one"]),
        (["validate.skip=n,stop_list"], ["several values; sweep over them with -m, or write a list as key=[a,b]"]),
        (["model.peft=one,two"], ["several values; sweep over them with -m, or write one text as", 'peft="one,two"']),
        (["-m", "evaluate.temperature=0", "0.7"], ["0.7: expected", "commas join the values of a sweep: key=1,2"]),
        (["--model", "tiny"], ["--model: no such flag", "a setting has no dashes: model=<value>"]),
        (["backend=command"], ["backend.command: a value is required"]),
        (["backend=command", 'backend.command="vllm serve x"'], ["has no {port}"]),
        (["objective=addition.acc"], ["no such metric; expected one of addition.exact_match"]),
        (
            ["proxy.authorization=forwards"],
            ["proxy.authorization: the value", "expected one of replace, forward, remove"],
        ),
        (
            ["model=checkpoint", "model.path=~nobody-here/x"],
            ["no such home folder; set HOME, or write the path without ~"],
        ),
        (
            ["model=checkpoint", "model.path=${nope}"],
            ["Interpolation key 'nope' not found; expected ${<key of a setting>}"],
        ),
        (["model.name=${oc.env:NOPE_X}"], ["set it, or give a default: ${oc.env:NAME,default}"]),
        (["backend=external", "backend.url=localhost:8000"], ["with nothing behind it: http://localhost:8000/v1"]),
        (["backend=external", "backend.url=http://a b/v1"], ["backend.url=http://a ...: expected http(s)://host"]),
        (["tasks=[addition,]"], ["it ends too early, or has a character too many: '[addition,]'"]),
        (["tasks=[addition capitals]"], ["write tasks=[addition,capitals]"]),
        (["tasks=[lm_eval]"], ["write tasks=[lm_eval/<name>]"]),
        (["optimizations.dtype=float32"], ["(did you mean fp32?)"]),
        (["model=checkpoint", f"model.path={'x' * 300}"], ["File name too long"]),
        (["--resolve"], ["--resolve: it needs --cfg job"]),
        (["--package", "evaluate"], ["--package: it needs --cfg job"]),
        (["--config-name=foo"], ["--config-name: the launcher has one configuration; --config-dir=<folder>"]),
        (["--multirun", "--cfg", "job"], ["--multirun --cfg: only one of these can be given"]),
        (["cluster=slurm", "cluster.timeout_min=1h"], ["cluster.timeout_min", "expected a whole number of minutes"]),
        (["evaluate.timeout_s=1m"], ["expected a number of seconds"]),
        (["cluster=slurm", "cluster.mem_gb=64G"], ["cluster.mem_gb: Value '64G'", "expected a number of GiB"]),
        (["cluster=slurm", "cluster.timeout_min=2"], ["cluster.signal_delay_s=120", "a larger timeout_min"]),
        (["cluster=slurm", "cluster.time=60"], ["cluster.time: no such key; write cluster.timeout_min=<minutes>"]),
        (["cluster=slurm", "cluster.nodelist=n7"], ["given as +cluster.additional_parameters.nodelist=<value>"]),
        (["cluster=slurm", "cluster.cpus_per_node=8"], ["cluster.gpus_per_node, which is 0", "cluster.cpus_per_task"]),
        (
            ["cluster=slurm", "cluster.environment=[HF_TOKEN=abc]"],
            ["give the name alone: cluster.environment=[NAME]"],
        ),
        (["slurm=true"], ["slurm: no such key; write cluster=slurm"]),
        (["harness=lm_eval"], ["harness: no such key; write tasks=[harness/<name>]"]),
        (["tasks=[harness]"], ["write tasks=[harness/<name>]; launcher tasks harness lists the names"]),
        (
            ["judge.model=tiny"],
            ["choose one of judge=command, judge=deployment, judge=url first (launcher help judge)"],
        ),
        (["backend=vllm", "backend.dtype=bf16"], ["an option of the server is given as backend.arguments='--dtype "]),
        (["-m", "evaluate.temperature=range(0,1,0)"], ["evaluate.temperature: its values cannot be listed"]),
        (["-m", "evaluate.limit=glob(*)"], ["evaluate.limit=glob(*): lists no value, and the sweep has no points"]),
        (["hydra.run.dir=file"], ["hydra.run.dir: file: File exists; expected a folder"]),
        (
            ["model.name=1e3"],
            ["model.name=1e3: a text is due; quote it, so that it stays as it is: \"model.name='1e3'\""],
        ),
        (["model.name=true"], ["model.name=true: a text is due"]),
        (["optimizations.prefix_caching=-1"], ["optimizations.prefix_caching=-1: expected true or false"]),
        (["validate.skip=[foo]"], ["there is no check 'foo'; expected one of ready"]),
        (["validate.skip=[greedy_repeat]"], ["there is no check 'greedy_repeat' (did you mean greedy_repeats?)"]),
    ],
)
def test_a_mistake_is_one_line_with_what_works(words: list[str], told: list[str], folder: Path) -> None:
    done = launch_here(folder, *words, "mode=plan")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert [part for part in told if part not in line] == []
    assert set(folder.iterdir()) == {folder / "t", folder / "file"}


@pytest.mark.parametrize(
    ("mode", "told"),
    [("srve", "expected one of"), ("compare", "write launcher compare RUN RUN"), ("eval", "write mode=run")],
)
def test_a_mode_that_is_none(mode: str, told: str, folder: Path) -> None:
    done = launch_here(folder, f"mode={mode}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "run: no such command; write launcher eval TARGET"),
        (["addition"], "write launcher eval TARGET --tasks addition"),
        (["http://127.0.0.1:8000/v1"], "write launcher eval http://127.0.0.1:8000/v1"),
        (["/ckpt/my_model"], "write launcher eval /ckpt/my_model"),
        (["eval", "tiny", "--task", "addition"], "(did you mean --tasks?)"),
        (["eval", "tiny", "--limit", "5"], "a setting has no dashes: evaluate.limit=<value>"),
        (["serve", "tiny", "--port", "8000"], "a setting has no dashes: backend.port=<value>"),
        (["eval", "tiny", "--model", "none"], "a setting has no dashes: model=<value>"),
        (["eval", "tiny", "--slurm"], "unrecognized arguments: --slurm; write cluster=slurm; usage"),
        (["eval", "tiny", "--wrong", "5"], "unrecognized arguments: --wrong 5; usage: launcher eval"),
        (["convert", "tiny", "folder", "--out", "x"], "--out x; FOLDER, the second argument, is the folder to write;"),
        (["race", "tiny", "tiny", "--plan"], "--plan; launcher eval A --plan plans the run of one model;"),
        (["eval", "tiny", "="], "=: no key stands before the sign; expected group=option or key=value"),
        (["eval", "tiny", "+=3"], "+=3: no key stands before the sign"),
        (["eval", "tiny", "tasks=[]", "--plan"], "tasks=[]: mode=run needs at least one task; launcher check TARGET"),
        (["eval", "tiny", "addition"], "addition: expected group=option or key=value"),
        (["eval", "nowhere", "--plan"], "nowhere: no such file or folder"),
        (["eval", "tiny", "evaluate.limit=-1"], "evaluate.limit is -1; must be at least 1"),
        (["backend=external", "backend.url=ftp://host/v1"], "expected http(s)://host[:port]/v1"),
        (["eval", "tiny", "--tasks", "addition;capitals"], "commas separate the names, and not ;"),
        (["eval", "tiny", "--tasks", ""], "eval: --tasks: the value is empty; leave the option out for the default"),
        (["eval", "tiny", "--out", ""], "eval: --out: the value is empty"),
        (["eval", "tiny", "--out", "file"], "hydra.run.dir: file: File exists; expected a folder"),
        (["eval", "t/run"], "t/run: the folder of a run, and no model; launcher compare RUN RUN compares runs"),
        (["race", "t/run", "t/run"], "t/run: the folder of a run, and no model"),
        (["gate", "t/run", "--policy", "file"], "file: empty, expected keys with values: baseline"),
        (["check", "tiny", "tiny"], "expected the URL of a running server, or the folder of a run"),
        (["engines", "vllm"], "there is backend=vllm"),
        (["compare", "t", "t/empty"], "t: no results.json in it; expected the folder of a finished run"),
        (["compare", "nowhere", "t"], "nowhere: no such folder; expected the folder of a finished run, or of a sweep"),
        (
            ["export", "nowhere", "--to", "csv"],
            "nowhere: no such folder; expected that of a finished run, or of a sweep",
        ),
        (["gate", "t", "--policy", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["view", "file"], "view: file: it is a file; expected a folder with runs, such as outputs"),
        (
            ["eval", "tiny", "engine.dtype=bf16"],
            "engine.dtype: no such key; did you mean optimizations.dtype or convert.dtype?",
        ),
        (
            ["eval", "tiny", "addition"],
            "addition: expected group=option or key=value; --help lists the groups; did you mean",
        ),
        (["eval", "tiny", "addition"], "did you mean tasks=[addition]?"),
        (["eval", "tiny", "pytriton"], "did you mean backend=pytriton?"),
        (["eval", "tiny", "t/gemma"], f"did you mean {CHECKPOINT}t/gemma?"),
        (["view", "nowhere"], "view: nowhere: no such folder; expected a folder with runs, such as outputs"),
        (["logs", "t"], "t: there are no logs; expected the folder of a run"),
        (["status", "t"], "t: no job was submitted for this folder"),
        (["score", "t"], "run=t: not a run folder"),
        (["race", "tiny"], "two models are needed: launcher race A B"),
        (["race", "--resume", "t"], "expected the folder of a race"),
        (["convert", "nowhere", "out"], "nowhere: no such file or folder"),
        (["--shell-completion"], "expected install=bash or install=fish"),
        (
            ["hydra.run.dir=/dev/null/x", "engine=echo", "model=none"],
            "expected a folder that can be made and written to",
        ),
    ],
)
def test_a_mistake_with_a_command_is_one_line_with_what_works(words: list[str], told: str, folder: Path) -> None:
    done = launch_here(folder, *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert told in line
    assert set(folder.iterdir()) == {folder / "t", folder / "file"}


@pytest.mark.parametrize("listed", ["addition,", "[addition, capitals]", " addition ,capitals"])
def test_names_of_tasks_may_have_spaces_and_brackets_around_them(listed: str, folder: Path) -> None:
    done = launch_here(folder, "eval", "tiny", "--tasks", listed, "--plan")
    assert done.returncode == 0, done.stderr
    assert "addition: generation" in done.stdout


def test_without_a_home_folder_the_cache_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is in no list of users."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cache_folder().parent == Path(tempfile.gettempdir())
    with pytest.raises(UserError, match="set HOME, or write the path without ~"):
        expanded("~/x")


@pytest.mark.parametrize("words", [["tasks=arc_easy"], ["adapters=retry"]])
def test_what_is_not_wrong_works(words: list[str], folder: Path) -> None:
    assert launch_here(folder, *words, "mode=plan").returncode == 0


def test_a_model_in_the_cache_of_a_hub_is_found(folder: Path) -> None:
    snapshot = folder / "hub/models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    done = launch_here(folder, "model=checkpoint", "model.path=org/name", "mode=plan")
    assert f"a copy of this model is in the Hugging Face cache: model.path={snapshot}" in done.stderr
