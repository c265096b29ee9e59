"""The head of a report: what was evaluated, and how to repeat it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.report import subject
from tests.report.report_records import report

ENGINE = {"parameters": 8_030_261_248, "dtype": "bf16", "layers": 32, "experts": 0, "context_length": 8192,
          "checkpoint_layout": "nemo_2"}  # fmt: skip


def test_what_is_known_of_a_model() -> None:
    run = {"config": {"model": {"path": "/ckpt/x"}}, "checkpoint": f"sha256:{'ab' * 32}"}
    assert subject.facts(report(engine=ENGINE, run=run)) == [
        ("Parameters", "8.03 billion"), ("Type", "bf16"), ("Layers", "32"), ("Context", "8,192 tokens"),
        ("Checkpoint", "/ckpt/x"), ("Layout", "nemo 2"), ("Fingerprint", "sha256:abababababab"),
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [None, True, -1, "x", [], 1e300, {"a": 1}])
def test_what_a_server_says_may_be_anything(odd: object) -> None:
    engine = dict.fromkeys([*ENGINE, "software", "version"], odd)
    found = subject.facts(report(engine=engine, run={"config": odd, "checkpoint": odd, "overrides": odd}))
    assert all(isinstance(text, str) and text for _, text in found)


@pytest.mark.parametrize(("count", "text"), [(624768, "625 thousand"), (7, "7"), (1_000_000, "1 million"),
                                             (671e9, "671 billion"), (1.2e12, "1.2 trillion")])  # fmt: skip
def test_numbers_of_parameters(count: float, text: str) -> None:
    assert subject.parameters(count) == text


def test_the_command(tmp_path: Path) -> None:
    words = ["tasks=[a,b]", "model.path=/a b/'c'", "resume=/run"]
    assert subject.command(report(run={"overrides": words}), tmp_path) == (
        "launcher 'tasks=[a,b]' 'model.path=/a b/'\"'\"'c'\"'\"''"
    )
    (tmp_path / ".hydra").mkdir()
    sources = "hydra: {runtime: {config_sources: [{provider: main, path: x}, {provider: command-line, path: /my own}]}}"
    (tmp_path / ".hydra/hydra.yaml").write_text(sources)
    assert subject.command(report(run={"overrides": []}), tmp_path) == "launcher '--config-dir=/my own'"
    assert subject.command(report(run={}), tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "path", "title"),
    [
        ("tiny", "/ckpt/base", "tiny"),
        ("model", "/ckpt/base/", "base"),
        ("model", "", "model"),
        ("model", "http://127.0.0.1:1/v1", "model"),
    ],
)
def test_a_model_without_a_name_is_called_as_its_folder(name: str, path: str, title: str) -> None:
    assert subject.title(name, path) == title
