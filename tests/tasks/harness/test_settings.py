"""What is known before a harness runs is checked before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.running import launch_here

COMMAND = ("command=sh", "result.path={output}/a.json", "+result.metrics.a=$.a")
INSPECT = ("task=inspect_evals/x", "executable=sh")
LM_EVAL = ("task=arc_easy", "executable=sh")


def planned(folder: Path, harness: str, *settings: str, others: tuple[str, ...] = ()) -> tuple[int, str]:
    """Return the exit code and what is printed of the plan of a run with one harness; a later setting replaces one."""
    keys = [
        f"+tasks.harness_{harness}.{each[1:]}" if each[0] == "+" else f"tasks.harness_{harness}.{each}"
        for each in settings
    ]
    done = launch_here(folder, "engine=echo", "model=none", f"tasks=[harness/{harness}]", "mode=plan", *keys, *others)
    assert not list(folder.glob("outputs"))
    return done.returncode, done.stderr + done.stdout


@pytest.mark.parametrize(
    ("harness", "settings"), [("command", COMMAND), ("inspect", INSPECT), ("lm_eval_cli", LM_EVAL)]
)
def test_a_harness_can_be_planned(harness: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    code, said = planned(tmp_path, harness, *settings)
    assert code == 0, said
    assert f"harness/{harness} (harness_{harness}), " in said  # and the command


@pytest.mark.parametrize(
    ("harness", "settings", "others", "line"),
    [
        ("command", (), (), "tasks.harness_command: command: is empty"),
        ("command", ("command=sh",), (), "result.path is empty"),
        ("command", ("command=sh", "result.path=a"), (), "result.metrics is empty"),
        ("command", (*COMMAND, "command=no-such-program"), (), "the program no-such-program is not found; install it"),
        ("command", (*COMMAND, "command=evalscope"), (), "pip install evalscope"),
        ("command", (*COMMAND, "command='sh {bse_url}'"), (), "{bse_url} is unknown; expected one of base_url"),
        ("command", (*COMMAND, "command='sh {api_key}'"), (), "{api_key} is $OPENAI_API_KEY for the program"),
        ("command", (*COMMAND, "command='sh {limit}'"), (), "{limit} has no value; set evaluate.limit"),
        ("command", (*COMMAND, "command='sh {seed}'", "shell=true"), (), "{seed} has no value; set evaluate.seed"),
        ("command", COMMAND, ("evaluate.limit=3",), "put {limit} into command, or leave it out"),
        ("command", COMMAND, ("evaluate.budget.tokens=9",), "evaluate.budget: it does not bound"),
        ("command", (*COMMAND, "result.path='{here}/a'"), (), "result.path: {here} is unknown"),
        ("command", (*COMMAND, "+result.metrics.b='$.b['"), (), "result.metrics.b: '$.b[' is no path"),
        ("command", (*COMMAND, "+result.stderr.b=$.b"), (), "result.stderr.b: there is no such metric"),
        ("command", (*COMMAND, "lower_is_better=[b]"), (), "lower_is_better: b: there is no such metric"),
        ("command", (*COMMAND, "inputs=[nothing.py]"), (), "there is no file or folder nothing.py"),
        (
            "command",
            (*COMMAND, "+environment_env.A=NOT_SET"),
            (),
            "environment_env.A=NOT_SET: this environment variable",
        ),
        ("command", COMMAND, ("objective=harness_command.b",), "expected one of harness_command.a"),
        ("inspect", ("executable=sh",), (), "task is empty"),
        ("inspect", (*INSPECT, "task=nothing.py@x"), (), "nothing.py: there is no file"),
        ("inspect", (*INSPECT, "executable=/nowhere/inspect"), (), "/nowhere/inspect is not found"),
        (
            "inspect",
            INSPECT,
            ("evaluate.retry_truncated=2",),
            "evaluate.retry_truncated=2.0: this harness has no option",
        ),
        ("inspect", INSPECT, ("objective=harness_inspect.accuracy",), "name the metric before the run"),
        ("lm_eval_cli", ("executable=sh",), (), "task is empty"),
        ("lm_eval_cli", LM_EVAL, ("evaluate.repeats=2",), "evaluate.repeats=2: this harness has no option"),
        pytest.param(
            *("lm_eval_cli", ("task=arc_esy",), (), "has no such task, group or tag; did you mean arc_easy"),
            marks=pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed"),
        ),
        ("lm_eval_cli", (*LM_EVAL, "include_path=nothing"), (), "nothing: there is no file or folder"),
        ("lm_eval_cli", (*LM_EVAL, "+gen_kwargs.until='a,b'"), (), "takes no comma in a value"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(
    harness: str, settings: tuple[str, ...], others: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    last = {each.partition("=")[0]: each for each in settings}
    code, said = planned(tmp_path, harness, *last.values(), others=others)
    assert code == 1, said
    assert line in said
    assert said.startswith("launcher: ")
    assert said.count("\n") == 1


def test_the_names_in_double_braces_are_text(tmp_path: Path) -> None:
    code, said = planned(tmp_path, "command", *COMMAND[1:], "command='awk {{print}} {output}'")
    assert code == 0, said
