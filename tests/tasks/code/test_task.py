from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json, Response, Status
from launcher.settings.evaluate import Evaluate
from launcher.tasks.base import check_tasks
from launcher.tasks.code import isolation
from launcher.tasks.code.blocks import Code
from launcher.tasks.code.executor import SandboxFault, execute
from launcher.tasks.code.task import CUT, UNSAFE, CodeGeneration, assembled
from tests.scoring import score

ITEM = {"id": "a", "prompt": "def double(x):\n", "test": "assert double(2) == 4", "code": "    return 2 * x"}


@pytest.fixture
def task(jsonl: Callable[..., str]) -> Callable[..., CodeGeneration]:
    def make(**settings: Any) -> CodeGeneration:
        settings = {"before": "{{prompt}}", "k": [1], **settings}
        return CodeGeneration(path=jsonl(ITEM, {**ITEM, "id": "b", "prompt": "def double(x):  # b\n"}), **settings)

    return make


@pytest.fixture(autouse=True)
def _isolated() -> None:
    if isolation._tried()[0] is None:
        pytest.skip(f"no sandbox works here: {isolation._tried()[1]}")


@pytest.mark.parametrize(
    ("answer", "passes", "result"),
    [("    return 2 * x\n", 1.0, "passed"), ("    return x\n", 0.0, "wrong"), ("    return y\n", 0.0, "error")],
)
def test_tests_judge_what_continues_the_prompt(
    task: Any, completion: Callable[..., Response], answer: str, passes: float, result: str
) -> None:
    (sample, _) = task().samples("code", "m")
    found = score(task(), sample, completion(answer))
    assert (found.status, found.scores) == (Status.scored, {"pass@1": passes})
    assert (found.prediction["program"], found.prediction["result"]) == (answer, result)


def test_a_chat_answer_has_its_program_in_a_block(task: Any, chat_answer: Callable[..., Response]) -> None:
    chat = task(chat=True, code=Code.first_block, before="{{prompt}}    pass\n", k=[1, 2])
    (sample, _) = chat.samples("code", "m")
    assert sample.requests[0].body["messages"][-1]["content"] == ITEM["prompt"]
    right = "It doubles:\n```python\nfrom __future__ import annotations\ndef double(x): return 2 * x\n```\nDone."
    assert score(chat, sample, chat_answer(right)).scores == {"pass@1": 1.0, "pass@2": 1.0}
    lost = score(chat, sample, chat_answer("I would multiply it by 2."))
    assert (lost.status, lost.reason) == (Status.unparsed, "the answer has no block of Python")


def test_imports_of_the_future_come_first() -> None:
    assert (
        assembled("x = 1\n", "from __future__ import annotations\ny") == "from __future__ import annotations\nx = 1\ny"
    )
    assert assembled("", "y") == "y"


def test_a_cut_program_runs_where_the_official_evaluation_runs_it(
    task: Any, completion: Callable[..., Response]
) -> None:
    (sample, _) = task().samples("code", "m")
    cut = completion("    return 2 * x\n", "length")
    assert score(task(), sample, cut).status is Status.truncated
    found = score(task(accept_truncated=True), sample, cut)
    assert (found.scores, found.notes) == ({"pass@1": 1.0}, (CUT,))


def test_examples_come_before_the_question(task: Any) -> None:
    shown = next(iter(task(fewshot=1, fewshot_path="").samples("code", "m"))).requests[0].body["prompt"]
    assert shown == "def double(x):  # b\n" + ITEM["code"] + "\n\n" + ITEM["prompt"]


def test_pass_at_k_needs_k_different_samples(task: Any) -> None:
    check_tasks({"code": task(k=[1, 5])}, Evaluate(repeats=5, temperature=0.2))
    for evaluate, message in (
        (Evaluate(repeats=4, temperature=0.2), r"tasks.code: k=\[1, 5\]: pass@5 needs 5 .* evaluate.repeats=5"),
        (Evaluate(repeats=5), "tasks.code: .* at temperature 0 all samples of an item are the same"),
    ):
        with pytest.raises(UserError, match=message):
            check_tasks({"code": task(k=[1, 5])}, evaluate)
    for k in [], [2, 2]:
        with pytest.raises(UserError, match="expected one or more different"):
            task(k=k)


def test_a_sandbox_that_fails_twice_fails_the_sample(
    task: Any, completion: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sample, _) = task().samples("code", "m")
    broken = isolation.Isolation("broken", ("/nowhere",))
    monkeypatch.setattr("launcher.tasks.code.task.isolation", lambda unsafe: broken)
    found = score(task(), sample, completion("    return 2 * x\n"))
    assert (found.status, found.scores) == (Status.failed, {})
    assert found.reason is not None
    assert "the sandbox does not start" in found.reason


def test_where_no_sandbox_works_nothing_is_loaded_and_unsafe_is_said(
    task: Any, completion: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_tried", lambda: (None, ("nothing works",)))
    with pytest.raises(UserError, match="need a sandbox, and none works here"):
        list(task().samples("code", "m"))
    (sample, _) = task(unsafe=True).samples("code", "m")
    found = score(task(unsafe=True), sample, completion("    return 2 * x\n"))
    assert (found.scores, found.notes) == ({"pass@1": 1.0}, (UNSAFE,))


def test_one_failure_of_a_sandbox_gets_another_try(
    task: Any, completion: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Json] = []

    async def flaky(*arguments: Any) -> Any:
        tries.append(arguments)
        if len(tries) == 1:
            raise SandboxFault("once")
        return await execute(*arguments)

    monkeypatch.setattr("launcher.tasks.code.task.execute", flaky)
    (sample, _) = task().samples("code", "m")
    assert score(task(), sample, completion("    return 2 * x\n")).scores == {"pass@1": 1.0}
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("", "items.jsonl:1: the test is empty, so that every program would pass"),
        ("# assert double(2) == 4", "the test is empty"),
        ("assert double(2 == 4", "the test is no Python, so that no program can pass it: .*never closed"),
        ("assert double(2) == 4\0", "the test is no Python"),
    ],
)
def test_a_test_that_decides_nothing_is_refused_with_its_line(
    jsonl: Callable[..., str], test: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        list(CodeGeneration(path=jsonl({**ITEM, "test": test})).samples("code", "m"))


def test_templates_of_code_tasks_are_checked() -> None:
    def made(key: str) -> CodeGeneration:
        settings: dict[str, Any] = {key: "{{"}
        return CodeGeneration(**settings)

    for key in "before", "test", "prompt", "system", "description":
        with pytest.raises(UserError, match=f"tasks: {key}: template '{{{{': line 1"):
            made(key)


def test_a_repaired_file_leaves_the_rest_of_the_fingerprint(task: Any) -> None:
    one, other = task(), task(max_tokens=5)
    other.path = str(Path(one.path).with_name("mended.jsonl"))
    Path(other.path).write_text(Path(one.path).read_text().replace("== 4", "== 2 + 2"))
    before, after = one.fingerprint(), other.fingerprint()
    assert before.pop("item_files") != after.pop("item_files")
    assert before == after
