"""A score says which parameters adapters gave to its requests; those that break a task are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.adapters.parameters import FORM
from tests.running import UNVALIDATED, launch_here

ECHO = ("engine=echo", "model=none", "tasks=addition", UNVALIDATED)
IMPOSED = [
    ("payload", "+adapters.payload.add.temperature=0", "temperature = 0 (adapters.payload.add.temperature)"),
    ("payload", "+adapters.payload.add.stop=[a]", 'stop = ["a"] (adapters.payload.add.stop)'),
    ("payload", "adapters.payload.remove=[seed]", "seed left out (adapters.payload.remove)"),
    ("payload", "+adapters.payload.add_env.user=HOME", "user = $HOME (adapters.payload.add_env.user)"),
    ("payload", "+adapters.payload.rename.a=b", "a renamed to b (adapters.payload.rename.a)"),
    ("drop_params", "adapters.drop_params.names=[top_p]", "top_p left out (adapters.drop_params.names)"),
]


@pytest.mark.parametrize(("adapter", "option", "words"), IMPOSED)
def test_the_record_of_a_score_names_what_adapters_change(
    adapter: str, option: str, words: str, tmp_path: Path
) -> None:
    done = launch_here(tmp_path, *ECHO, f"adapters=[{adapter}]", option, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert words in json.loads((tmp_path / "run/results.json").read_text())["run"]["adapter_parameters"]
    assert "adapted in every request: " in done.stdout
    assert "Adapters change in every request: " in (tmp_path / "run/report.html").read_text()
    plan = launch_here(tmp_path, "mode=plan", *ECHO, f"adapters=[{adapter}]", option)
    assert words in plan.stdout


def test_a_score_without_such_adapters_says_nothing(tmp_path: Path) -> None:
    done = launch_here(tmp_path, *ECHO, f"hydra.run.dir={tmp_path}/run")
    assert "adapter_parameters" not in json.loads((tmp_path / "run/results.json").read_text())["run"]
    assert "adapted" not in done.stdout


@pytest.mark.parametrize("name", sorted(FORM))
@pytest.mark.parametrize("group", ["add", "rename.x", "add_env"])
def test_a_parameter_that_breaks_every_task_is_refused(name: str, group: str, tmp_path: Path) -> None:
    option = f"rename.x={name}" if group == "rename.x" else f"{group}.{name}={'HOME' if group == 'add_env' else 2}"
    done = launch_here(tmp_path, "mode=plan", *ECHO, "adapters=[payload]", f"+adapters.payload.{option}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"adapters.payload.{option.partition('=')[0]} sets '{name}'" in line
    assert "leave it out" in line


def test_clients_of_a_proxy_may_get_any_parameter(tmp_path: Path) -> None:
    """They read their answers themselves."""
    words = "mode=plan", *ECHO[:2], "tasks=[]", "proxy.port=0", "adapters=[payload]", "+adapters.payload.add.n=2"
    assert launch_here(tmp_path, *words).returncode == 0
