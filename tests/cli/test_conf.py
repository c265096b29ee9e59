"""Every option of every group composes, and what is misspelt is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from launcher import __version__
from launcher.cli.composition_crashes import describe_crash
from launcher.cli.config_errors import describe
from launcher.core.files import conf_folder
from launcher.pipeline.config import Run
from launcher.settings.component import COMPONENTS
from launcher.settings.overrides import FLAGS, CommandLine, check_flags
from tests.running import launch_here

ROOT = Path(__file__).parents[2]
OPTIONS = sorted(p.relative_to(conf_folder()).with_suffix("").as_posix() for p in conf_folder().glob("*/*.yaml"))
LISTS = ("adapters", "tasks")
ENGINE_FREE = {
    "backend/external": ["engine=none", "model=none", "backend.url=http://127.0.0.1:1/v1"],
    "backend/command": ["engine=none", "model=none", "backend.command='serve --port {port}'"],
}
REQUIRED = {
    "judge/url": ["judge.url=http://127.0.0.1:1/v1"],
    "judge/command": ["judge.backend.command='serve --port {port}'"],
    "model/checkpoint": ["model.path=/somewhere"],
    "adapters/drop_params": ["adapters.drop_params.names=[user]"],
    "adapters/rate_limit": ["adapters.rate_limit.requests_per_minute=60"],
}
WITHOUT_FILE = {"tasks/lm_eval"}
"""Components whose options are no files."""


def composed(*overrides: str) -> Run:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        typed = OmegaConf.to_object(compose("config", list(overrides)))
    assert isinstance(typed, Run)
    return typed


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    group, name = option.split("/")
    choice = f"{group}=[{name}]" if group in LISTS else f"{group}={name}"
    composed(choice, *ENGINE_FREE.get(option, []), *REQUIRED.get(option, []))


def test_options_of_single_choice_groups_are_components_of_the_same_name() -> None:
    for option in OPTIONS:
        group = option.split("/")[0]
        if group in ("backend", "engine", "adapters"):
            assert option in COMPONENTS, f"conf/{option}.yaml has no component of that name"


def test_every_component_can_be_chosen() -> None:
    included = "".join(p.read_text() for p in conf_folder().rglob("*.yaml"))
    for path in COMPONENTS.keys() - WITHOUT_FILE:
        assert f"/schema/{path}@" in included, f"no option file includes /schema/{path}"


def test_adapters_keep_the_order_they_are_given_in() -> None:
    assert list(composed("adapters=[reasoning,retry]").adapters) == ["reasoning", "retry"]
    assert list(composed("adapters=[retry,reasoning]").adapters) == ["retry", "reasoning"]


def test_a_judge_has_each_adapter_of_the_program() -> None:
    of_runs, of_judges = (
        {file.name: file.read_text().splitlines()[-1] for file in (conf_folder() / group).glob("*.yaml")}
        for group in ("adapters", "judge/adapters")
    )
    assert of_judges.keys() == of_runs.keys()
    run = composed("judge=url", "judge.url=http://127.0.0.1:1/v1", "judge/adapters=[caching,retry]", "adapters=[retry]")
    assert run.judge is not None
    assert (list(run.judge.adapters), list(run.adapters)) == (["caching", "retry"], ["retry"])


def launch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return launch_here(cwd, *arguments)


@pytest.mark.parametrize(
    ("argument", "accepted"),
    [
        ("bakend=inline", ["bakend", "did you mean backend"]),
        ("hydra.job.env_set.A=1", ["hydra.job.env_set.A", "write +hydra.job.env_set.A=<value>"]),
        ("backend=inlin", ["backend=inlin", "did you mean inline", "external"]),
        ("backend.prt=1", ["backend.prt", "did you mean port"]),
        ("backend.port=many", ["backend.port", "many", "expected a whole number"]),
        ("evaluate.timeout_s=soon", ["evaluate.timeout_s", "soon", "expected a number"]),
        ("watch.once=maybe", ["watch.once", "maybe", "expected true or false"]),
        ("mode=[run]", ["mode", "expected one of run, serve"]),
        ("model.name=[a]", ["model.name", "expected a text"]),
        ("validate.skip=echo", ["validate.skip", "expected a list: [a,b]"]),
        ("groups=7", ["groups", "expected a mapping"]),
        ("tasks.addition.stop=[[a]]", ["tasks.addition.stop[0]", "a mapping or list; expected one value"]),
        ("backend.aliases=[{a: b}]", ["backend.aliases[0]", "a mapping or list; expected one value"]),
        ("engine=7", ["engine=7: not the name of an option", "echo, huggingface"]),
        ("engine=null", ["engine=null: not the name of an option", "echo, huggingface"]),
        ("engine=[echo,megatron]", ["engine: Echo and Megatron cannot be combined", "choose one"]),
        ("adapters=null", ["adapters=null: not the name of an option", "retry", "or [] for none"]),
        ("tasks=[7]", ["tasks=[7]: not the name of an option", "addition"]),
        ("hydra.verbose=7", ["hydra.verbose", "Hydra cannot set up logging"]),
        ("--config-dir=nowhere", ["--config-dir", "nowhere' not found", "expected a folder"]),
        ("mode=sevre", ["mode", "sevre", "serve", "validate"]),
        ("adapters=[retri]", ["adapters=retri", "did you mean retry"]),
        ("tasks.adition.limit=3", ["tasks.adition", "did you mean addition"]),
        ("tasks=[]", ["tasks=[]", "at least one task"]),
        ("evaluate.concurrency=0", ["evaluate.concurrency is 0; must be at least 1"]),
        ("tasks.addition.limit=0", ["tasks.addition.limit is 0; must be at least 1"]),
        ("load.in_flight=[0,4]", ["load.in_flight[0] is 0; must be at least 1"]),
        ("tasks.addition.fewshot_indices=[2,-1]", ["tasks.addition.fewshot_indices[1] is -1; must be at least 0"]),
        ("backend.limits.headers=0", ["backend.limits.headers is 0; must be at least 1"]),
        ("resume=nowhere", ["resume=nowhere", "not a run folder"]),
        ("engine=none", ["engine=none", "engine=megatron"]),
        ("model.path=/missing", ["/missing"]),
        ("model.path=null", ["model.path", "null is not allowed"]),
        ("model=tiny,smollm2", ["model=tiny,smollm2", "-m"]),
        ("+experiment=smollm2_arc", ["+experiment=smollm2_arc", "leave out the +"]),
        ("resume=", ["resume=", "folder"]),
        ("run=somewhere", ["run=somewhere", "mode=status"]),
        ("validate.tolerance=-1", ["validate.tolerance is -1.0; must be above 0"]),
        ("validate.timeout_s=0", ["validate.timeout_s is 0.0; must be above 0"]),
        ("--modle", ["--modle: no such flag", "--help", "modle=<value>"]),
        ("--tasks=addition", ["--tasks: no such flag", "tasks=<value>"]),
        ("--1x", ["--1x: no such flag", "key=value"]),
        ("tasks.arc_easy.limit=5", ["tasks.arc_easy: arc_easy is not chosen", "tasks=[arc_easy]", "addition"]),
        ("tasks.lm_eval_arc_easy.limit=5", ["tasks.lm_eval_arc_easy: no task of lm-eval", "tasks=[lm_eval/<name>]"]),
        ("adapters.caching.folder=x", ["adapters.caching: caching is not chosen", "adapters=[caching]"]),
        ("tasks.addition=[1]", ["tasks.addition: a list stands where a mapping is due", "{key: value}"]),
        ("backend.aliases={a: 1}", ["backend.aliases: a mapping stands where a list is due", "[a,b]"]),
        ("backend.limits=7", ["backend.limits: one value stands where a mapping is due"]),
        ("evaluate.budget=500", ["evaluate.budget: one value", "evaluate.budget.NAME=value", "tokens, usd"]),
        ("+tasks.mine=[1]", ["tasks.mine: a new Task needs an option file"]),
        ("adapters=[retry,request_log,retry]", ["adapters=[retry,request_log,retry]: retry is there twice"]),
        ("tasks=[addition,addition]", ["addition is there twice; name it once"]),
        ("tasks={}", ["tasks={}: an empty mapping takes no entry away", "tasks=[]"]),
        ("evaluate={}", ["evaluate={}: an empty mapping takes no entry away", "evaluate.<key>=<value>"]),
        ("objective=capitals.f1", ["objective=capitals.f1: no such metric", "capitals.acc, capitals.acc_norm"]),
        ("objective=[addition.exact_match,capitals.f1]", ["objective=capitals.f1: no such metric"]),
        ("hydra.run.dir=/proc/x", ["hydra.run.dir: /proc/x: ", "expected a folder"]),
        ("lm_eval.include_path=nowhere", ["lm_eval.include_path=nowhere: not a folder"]),
        ("lm_eval.include_path=${model.name}", ["lm_eval.include_path=${model.name}", "only ${oc.env:...}"]),
        ("--model=tiny", ["--model: no such flag"]),
        ("objective=adition.acc", ["objective=adition.acc", "<task>.<metric>", "addition"]),
        ("validate.prompt=", ["validate.prompt", "empty"]),
        ("hydra/launcher=bassic", ["hydra/launcher=bassic", "did you mean basic", "shared"]),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_accepted(argument: str, accepted: list[str], tmp_path: Path) -> None:
    done = launch(argument, cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    for word in accepted:
        assert word in lines[0]


def test_a_launcher_that_is_not_installed_names_the_extra() -> None:
    error = MissingConfigException("", missing_cfg_file="hydra/launcher/submitit_local", options=["basic"])
    said = describe(error)
    wanted = "hydra-submitit-launcher is not installed: pip install 'nemo-megatron-launcher[slurm]'"
    assert said == f"hydra/launcher=submitit_local: {wanted}"


def test_what_is_wrong_with_an_option_file_is_said_with_it(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "bad.yaml").write_text("marks: 1\n")
    done = launch(f"--config-dir={tmp_path}", "adapters=[bad]", cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert "adapters/bad" in line
    assert "its first line is to be '# @package adapters.<name>'" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"limit: [1", "evaluate/bad.yaml: line 1: expected ',' or ']'"),
        (b"limit: 1\nlimit: 2", "evaluate/bad.yaml: line 2: found duplicate key limit"),
        (b"limit: \xff", "evaluate/bad.yaml: not UTF-8 text"),
        (b"# @package a b\nlimit: 1", "evaluate/bad.yaml: Too many components in '@package a b'"),
        (b"defaults: 7", "evaluate/bad: Invalid defaults list"),
        (b"defaults: [7]", "evaluate/bad: Unsupported type in defaults"),
        (b"defaults: [bad]", "evaluate=bad: its defaults include themselves"),
    ],
)
def test_an_option_file_that_cannot_be_read_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "bad.yaml").write_bytes(content)
    done = launch(f"--config-dir={tmp_path}", "evaluate=bad", "mode=plan", cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert reason in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("limits: [1]", "a list stands where a mapping is due"),
        ("limits: {headers: [1]}", "a list stands at"),
        ("aliases: {a: b}", "a list stands where a mapping is due, or a mapping stands where a list is due"),
    ],
)
def test_a_list_or_a_mapping_out_of_place_is_named_with_its_file(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    content = f"defaults: [/schema/backend/inline@_here_, _self_]\n{content}\n"
    (tmp_path / "backend" / "bad.yaml").write_text(content)
    done = launch(f"--config-dir={tmp_path}", "backend=bad", "mode=plan", cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "backend/bad" in line
    assert said in line


@pytest.mark.parametrize("name", ["my_global_facts", "facts"])
def test_a_package_that_hydra_would_cut_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    content = "# @package tasks.my_global_facts\ndefaults: [/schema/tasks/generation@_here_]\npath: x.jsonl\n"
    (tmp_path / "tasks" / f"{name}.yaml").write_text(content)
    done = launch(f"--config-dir={tmp_path}", f"tasks=[{name}]", "mode=plan", cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert f"tasks/{name}.yaml: @package tasks.my_global_facts: Hydra takes _global_ in it as a keyword" in line


@pytest.mark.parametrize("launcher", ["basic", "shared"])
def test_a_folder_of_a_sweep_that_cannot_be_made_is_named_with_its_key(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = ["-m", "engine=echo", "model=none", "evaluate.seed=1,2", "hydra.sweep.dir=file"]
    done = launch(*asked, f"hydra/launcher={launcher}", cwd=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "hydra.sweep.dir: file: File exists; expected a folder" in line


def test_what_changes_nothing_may_be_an_empty_mapping(tmp_path: Path) -> None:
    done = launch("groups={}", "lm_eval.gen_kwargs={}", "objective=capitals.acc", "mode=plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_plan_without_tasks_says_which_modes_need_one(tmp_path: Path) -> None:
    done = launch("mode=plan", "tasks=[]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tasks: 'none: mode=run needs at least one" in done.stdout


def test_an_error_outside_of_the_composition_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="seven") as caught:
        int("seven")
    assert describe_crash(caught.value) is None


def test_every_flag_of_hydra_is_known() -> None:
    assert set(FLAGS) == {flag for action in get_args_parser()._actions for flag in action.option_strings}
    check_flags(["-m", "-cjob", "--multi", "--info=config", "model.name=-1"])


def test_a_sweep_is_asked_for_anywhere_on_the_line() -> None:
    assert CommandLine.parse(["a=1", "-m", "b=1,2"]).arguments == ["--multirun", "a=1", "b=1,2"]


def test_help_lists_what_can_be_chosen(tmp_path: Path) -> None:
    done = launch("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "backend: command, external, inline, llama_cpp, nim, pytriton, ray, sglang," in done.stdout
    assert "schema" not in done.stdout


def test_version_is_ours(tmp_path: Path) -> None:
    assert launch("--version", cwd=tmp_path).stdout == f"launcher {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["mode=plan"]])
def test_help_and_plan_load_no_heavy_package(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from launcher.cli.app import launch\n"
        "try: status = launch(sys.argv[1:])\n"
        "except SystemExit as e: status = e.code or 0\n"
        f"heavy = {HEAVY!r}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=_environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"


HEAVY = {"torch", "ray", "tritonclient", "pytriton", "megatron", "transformers", "nemo", "lm_eval", "datasets"}


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_plan_says_what_would_happen(tmp_path: Path) -> None:
    done = launch("mode=plan", "tasks=[capitals]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("world_size: 1", "capitals", "inline", "80 samples"):
        assert word in done.stdout
