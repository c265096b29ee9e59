"""A budget over the run's endpoint and its judge, from the command line to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.planted_judge import planted_judge
from tests.running import launch_here

ECHO = ("engine=echo", "model=none", "tasks=[judged_addition]", "validate.skip=[greedy repeats]", "evaluate.limit=8")
JUDGE_PRICES = (
    "evaluate.budget.judge.usd_per_million_prompt_tokens=1000",
    "evaluate.budget.judge.usd_per_million_completion_tokens=10000",
)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_a_judge_has_prices_of_its_own_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    """An answer of this judge has 3 tokens of prompt and 2 of completion: 0.023 dollars."""
    folder = tmp_path / "run"
    with planted_judge(lambda prompt: "Verdict: [[CORRECT]]") as judge:
        asked = (*ECHO, "judge=url", f"judge.url={judge.url}", *JUDGE_PRICES, "evaluate.concurrency=1")
        done = launch_here(tmp_path, *asked, "evaluate.budget.usd=0.06", f"hydra.run.dir={folder}")
        assert done.returncode == 3, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert "evaluate.budget.usd=0.06 is spent: 0.0690 USD" in last
        assert f"continue with resume={folder}" in last
        assert "0.0690 of 0.06 USD" in done.stderr, "the progress says it"
        assert len(judge.asked) == 3
        found = results(folder)
        assert found["tasks"]["judged_addition"]["coverage"]["scored"] == 3
        assert found["tasks"]["judged_addition"]["coverage"]["not_asked"] == 5
        done = launch_here(tmp_path, f"resume={folder}", "evaluate.budget.usd=1")
        assert done.returncode == 0, done.stderr
        assert len(judge.asked) == 8
    budget = results(folder)["throughput"]["budget"]
    assert budget["endpoints"]["judge"] == {"prompt_tokens": 24, "completion_tokens": 16, "usd": 0.184}
    assert budget["endpoints"]["model"]["usd"] == 0
    assert budget["usd"] == 0.184
    assert budget["bounds"] == {"tokens": None, "usd": 1}
    assert "judge 40 tokens, 0.1840 USD" in (folder / "report.html").read_text()
    assert "judge 40 tokens, 0.1840 USD" in " ".join(done.stdout.split())


def test_scoring_again_with_a_judge_has_a_budget_too(tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    with planted_judge(lambda prompt: "Verdict: [[CORRECT]]") as judge:
        asked = (*ECHO, "judge=url", f"judge.url={judge.url}", f"hydra.run.dir={run}")
        assert launch_here(tmp_path, *asked).returncode == 0
        scoring = ("score", str(run), "tasks.judged_addition.judge_seed=5", f"hydra.run.dir={again}")
        done = launch_here(tmp_path, *scoring, "evaluate.budget.usd=0.05", *JUDGE_PRICES, "judge.concurrency=1")
        assert done.returncode == 3, done.stderr
        assert "evaluate.budget.usd=0.05 is spent" in done.stderr.strip().splitlines()[-1]
        assert results(again)["throughput"]["budget"]["endpoints"].keys() == {"judge"}
        done = launch_here(tmp_path, f"resume={again}", "evaluate.budget.usd=1")
        assert done.returncode == 0, done.stderr
        assert results(again)["throughput"]["budget"]["usd"] == 0.184
        assert len(judge.asked) == 16


def test_a_large_number_of_tokens_is_no_secret(tmp_path: Path) -> None:
    plan = ("mode=plan", *ECHO, "judge=url", "judge.url=http://127.0.0.1:1/v1", "evaluate.budget.tokens=2000000")
    done = launch_here(tmp_path, *plan)
    assert done.returncode == 0, done.stderr
    assert "tokens: 2000000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ("backend=external", "backend.url=http://127.0.0.1:1/v1", "tasks=[addition]"),
            [
                "evaluate.budget.usd_per_million_prompt_tokens=",
                "evaluate.budget.usd_per_million_completion_tokens=",
            ],
        ),
        (
            ("judge=url", "judge.url=http://127.0.0.1:1/v1", "evaluate.budget.usd_per_million_prompt_tokens=1"),
            ["evaluate.budget.judge.usd_per_million_prompt_tokens="],
        ),
        (
            ("judge=url", "judge.url=http://127.0.0.1:1/v1", JUDGE_PRICES[0]),
            ["evaluate.budget.judge.usd_per_million_completion_tokens="],
        ),
        (("tasks=[addition]",), ["evaluate.budget.usd_per_million_prompt_tokens="]),
    ],
)
def test_money_needs_the_prices_of_each_endpoint_that_may_cost_some(
    tmp_path: Path, arguments: tuple[str, ...], wanted: list[str]
) -> None:
    served = () if "backend=external" in arguments else ("engine=echo", "model=none")
    done = launch_here(tmp_path, *served, "tasks=[judged_addition]", *arguments, "evaluate.budget.usd=5")
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert "evaluate.budget.usd=5 needs prices: give" in line
    assert all(key in line for key in wanted)
