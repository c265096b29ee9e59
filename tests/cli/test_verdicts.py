"""``launcher compare`` and ``launcher gate`` from the command line, on runs of the program itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli.main import dispatch
from tests.verdict.run_folders import answered, run_folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    a = run_folder(tmp_path / "step=100,a", answered(set(range(40))), model="old")
    b = run_folder(tmp_path / "b", answered(set(range(60))), model="new", checks=())
    return str(a), str(b)


def test_compare_prints_the_verdict_and_writes_the_page(
    folders: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["compare", *folders, "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "addition exact_match 0.400 -> 0.600 B is better than A by 0.200 ± 0.080" in printed
    assert 'B checkpoint: "sha256:old" -> "sha256:new"' in printed
    assert "20 questions changed from A to B; 5 of them:" in printed
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["rows"][0]["verdict"] == "better"
    assert found["flips"][0]["total"] == 20
    page = (tmp_path / "out/comparison.html").read_text()
    assert "B is better than A by 0.200" in page
    assert page.count("<details") == 20


def test_runs_that_did_not_measure_the_same_need_force(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = run_folder(tmp_path / "a", answered({1}))
    b = run_folder(tmp_path / "b", answered({2}), evaluate={"seed": 5})
    assert dispatch(["compare", str(a), str(b)]) == 1
    assert "--force" in (error := capfd.readouterr().err)
    assert "evaluate.seed: null -> 5" in error
    assert dispatch(["compare", str(a), str(b), "--force"]) == 0
    assert "A and B did not measure the same: evaluate.seed: null -> 5" in " ".join(capfd.readouterr().out.split())


def test_runs_without_a_common_task_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = run_folder(tmp_path / "a", answered({1}))
    b = run_folder(tmp_path / "b", answered({1}, task="other"))
    assert dispatch(["compare", str(a), str(b), "--force"]) == 1
    assert "have no task in common: addition; other" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("rules", "code"),
    [("at_least: 0.1", 0), ("at_least: 0.9", 4), ("at_least: 0.41", 5), ("no_worse_by: 0.3", 0)],
)
def test_a_gate_is_an_exit_code(
    folders: tuple[str, str], tmp_path: Path, rules: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "gate.yaml"
    policy.write_text(f"tasks: {{addition: {{exact_match: {{{rules}}}}}}}")
    files = ["--junit", str(tmp_path / "gate.xml"), "--markdown", str(tmp_path / "gate.md")]
    assert dispatch(["gate", folders[0], "--policy", str(policy), "--baseline", folders[1], *files]) == code
    word = {0: "GO", 4: "NO-GO", 5: "INCONCLUSIVE"}[code]
    assert capfd.readouterr().out.splitlines()[-1] == word
    assert (tmp_path / "gate.md").read_text().startswith(f"## {word}\n")
    assert "<testsuite" in (tmp_path / "gate.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], ["the following arguments are required: RUN"]),
        (["compare", ""], ["RUN is empty"]),
        (["compare", "gone", "away"], ["gone: no such folder"]),
        (["gate", "x"], ["the following arguments are required: --policy"]),
        (["gate", "x", "--policy", "gone.yaml"], ["gone.yaml: cannot be read"]),
        (["gate", "", "--policy", "gone.yaml"], ["RUN"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert dispatch(arguments) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert [word for word in words if word not in line] == []
