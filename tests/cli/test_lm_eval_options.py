"""``tasks=[lm_eval/<name>]`` composes as other options do, also with a folder of local YAML files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import launch_here

ECHO = ("engine=echo", "model=none")
SUM = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``included``, which has the tasks my_sum and my_global_sum, and the group my_group."""
    included = tmp_path / "included"
    included.mkdir()
    items = included / "items.jsonl"
    items.write_text("".join(json.dumps({"q": f"1+{n}=", "a": str(1 + n)}) + "\n" for n in range(3)))
    for name in ("my_sum", "my_global_sum"):
        (included / f"{name}.yaml").write_text(SUM.format(name=name, items=items))
    group = "group: my_group\ntask: [my_sum, my_global_sum]\naggregate_metric_list: [{metric: exact_match}]\n"
    (included / "group.yaml").write_text(group)
    return tmp_path


@pytest.mark.slow
def test_a_group_composes_to_its_tasks_and_its_aggregate(place: Path) -> None:
    asked = ["tasks=[lm_eval/my_group]", "lm_eval.include_path=included", "objective=lm_eval_my_group.exact_match"]
    done = launch_here(place, *ECHO, *asked, "tasks.lm_eval_my_sum.num_fewshot=1", "mode=plan")
    assert done.returncode == 0, done.stderr
    assert "lm_eval_my_group: lm_eval_my_sum, lm_eval_my_global_sum" in done.stdout


@pytest.mark.slow
def test_names_are_swept_over_and_the_folder_may_be_a_variable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCLUDED", str(place / "included"))
    swept = ["-m", "tasks=[lm_eval/my_sum],[lm_eval/my_global_sum]", "lm_eval.include_path=${oc.env:INCLUDED}"]
    done = launch_here(place, *ECHO, *swept, "mode=plan")
    assert done.returncode == 0, done.stderr
    for name in ("my_sum", "my_global_sum"):
        assert f"  lm_eval_{name}: lm_eval/{name} (lm_eval), 0-shot, 3 samples, about 3 requests\n" in done.stdout


@pytest.mark.slow
def test_a_folder_that_is_no_tokenizer_is_one_line(place: Path) -> None:
    (place / "empty").mkdir()
    asked = ["tasks=[lm_eval/my_sum]", "lm_eval.include_path=included", "lm_eval.tokenizer=empty"]
    done = launch_here(place, *ECHO, *asked, "hydra.run.dir=run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tasks.lm_eval_my_sum: tokenizer=empty: no tokenizer can be loaded from it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks=[lm_eval/arc_esy]"], "has no such task, group or tag (did you mean arc_easy"),
        (["tasks=[lm_eval/my_sum]"], "needs lm_eval.include_path=<folder of YAML files> on the command line"),
        (["-m", "lm_eval.include_path=a,b", "tasks=[lm_eval/my_sum]"], "it cannot be swept over"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, *ECHO, *arguments, "mode=plan")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert said in line


def test_a_folder_in_an_option_file_is_refused_also_where_its_tasks_are_known(place: Path) -> None:
    """Its options would be those of lm-eval, and its files those of the folder."""
    experiments = place / "options" / "experiment"
    experiments.mkdir(parents=True)
    (experiments / "local.yaml").write_text("# @package _global_\nlm_eval: {include_path: included}\n")
    line = ["--config-dir=options", "experiment=local", "mode=plan"]
    done = launch_here(place, *ECHO, "tasks=[capitals]", *line)
    (said,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert said.startswith("launcher: lm_eval.include_path=included: it is set in an option file")
    done = launch_here(place, *ECHO, "tasks=[lm_eval/my_sum]", *line, "lm_eval.include_path=included")
    assert done.returncode == 0, done.stderr
