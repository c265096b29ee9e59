"""``launcher check URL URL``: two servers on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.cli.commands.side_by_side import split
from launcher.core.types import Endpoint
from launcher.validate import certificate
from tests.checkpoints.tokenizer_inputs import tokenizer_folder
from tests.running import launch_here
from tests.validate.faults import FAULTS
from tests.validate.mock import Wrapped, serve

MADE = {"model_listed", "max_tokens", "unknown_model"}
SETTINGS = (
    f"validate.skip=[{','.join(sorted(certificate.IDS - MADE))}]",
    "load.in_flight=[1]",
    "load.seconds=0.2",
    "load.prompt_tokens=8",
    "load.max_tokens=2",
    "hydra.run.dir=pair",
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Wrapped, Endpoint]]]:
    folder = tmp_path_factory.mktemp("servers")
    tokenizer = from_folder(tokenizer_folder(folder / "tokenizer"))
    try:
        with serve(folder, tokenizer) as one, serve(folder, tokenizer) as other:
            yield [one, other]
    finally:
        tokenizer.close()


def checked(folder: Path, servers: list[tuple[Wrapped, Endpoint]], fault: str, code: int) -> tuple[Any, str, str]:
    """Plant a fault in the second server; return ``servers.json``, what was printed, and the page."""
    servers[0][0].plant(None)
    servers[1][0].plant(next(each for each in FAULTS if each.name == fault))
    done = launch_here(folder, "check", *(endpoint.url for _, endpoint in servers), *SETTINGS)
    assert done.returncode == code, done.stderr
    page = (folder / "pair/servers.html").read_text()
    return json.loads((folder / "pair/servers.json").read_text()), " ".join(done.stdout.split()), page


def test_two_servers_are_compared_in_speed_and_in_checks(
    servers: list[tuple[Wrapped, Endpoint]], tmp_path: Path
) -> None:
    found, said, page = checked(tmp_path, servers, "any_model_is_served", 0)
    assert [(one["label"], one["valid"], one["url"]) for one in found["servers"]] == [
        ("A", True, servers[0][1].url),
        ("B", True, servers[1][1].url),
    ]
    assert [difference["id"] for difference in found["differences"]] == ["unknown_model"]
    assert found["differences"][0]["outcomes"] == {"A": "passed", "B": "warning"}
    assert [level["in_flight"] for level in found["servers"][1]["load"]["levels"]][:1] == [1]
    best = found["ratios"][0]
    assert (best["a"], best["b"], best["figure"]) == ("A", "B", "generated_tokens_per_s")
    assert best["ratio"] > 0
    assert "1 check ended differently: unknown model" in said
    assert "tokens per second" in said
    assert "Tokens/s vs A" in page
    assert 'href="A/report.html"' in page
    for label, one in zip("AB", found["servers"], strict=True):
        assert json.loads((tmp_path / "pair" / label / "load.json").read_text()) == one["load"]
        assert json.loads((tmp_path / "pair" / label / "results.json").read_text())["load"] == one["load"]
    _folders_compare_as_they_are(tmp_path)


def _folders_compare_as_they_are(tmp_path: Path) -> None:
    done = launch_here(tmp_path, "check", "pair/A", "pair/B", "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "again/servers.json").read_text())
    assert [one["folder"] for one in found["servers"]] == ["pair/A", "pair/B"]
    assert "the load tests ran at different times" in found["warnings"][0]
    assert 'href="../pair/A/report.html"' in (tmp_path / "again/servers.html").read_text()


def test_what_a_run_did_not_need_to_check_is_no_difference(
    servers: list[tuple[Wrapped, Endpoint]], tmp_path: Path
) -> None:
    servers[0][0].plant(None)
    url = servers[0][1].url
    for name, mode in (("whole", ("mode=validate", "tasks=[]")), ("part", ("tasks=[addition]", "evaluate.limit=1"))):
        run = (*mode, "backend=external", f"backend.url={url}", f"hydra.run.dir={name}", "evaluate.min_coverage=0")
        assert launch_here(tmp_path, *run).returncode == 0
    done = launch_here(tmp_path, "check", "whole", "part", "hydra.run.dir=pair")
    found = json.loads((tmp_path / "pair/servers.json").read_text())
    assert found["differences"] == [], done.stderr
    whole, part = (one["counts"] for one in found["servers"])
    assert part["not needed"] > 10
    assert "not needed" not in whole
    assert f"{part['not needed']} not made, as no task of its run needs them" in found["verdict"][1]


def test_a_server_without_a_valid_certificate_is_not_measured(
    servers: list[tuple[Wrapped, Endpoint]], tmp_path: Path
) -> None:
    found, said, page = checked(tmp_path, servers, "limit_ignored", 2)
    assert [one["valid"] for one in found["servers"]] == [True, False]
    assert found["servers"][0]["load"] is not None
    assert found["servers"][1]["load"] is None
    assert "B failed its certificate: max_tokens" in said
    assert "B: load test left out, because the endpoint failed its certificate" in said
    assert "B: load test left out" in page
    assert found["ratios"] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["http://127.0.0.1:1/v1", "nowhere"], "check: nowhere: expected the URL of a running server"),
        (["http://127.0.0.1:1", "http://127.0.0.1:1"], "check: http://127.0.0.1:1 is given twice"),
        (
            ["http://127.0.0.1:1", "http://127.0.0.1:2", "--out", "x", "hydra.run.dir=y"],
            "check: hydra.run.dir=y contradicts --out",
        ),
        (
            ["http://127.0.0.1:1", "http://127.0.0.1:2", "load.test=false"],
            "check: load.test=false contradicts the comparison of several",
        ),
        (["http://127.0.0.1:1", "http://127.0.0.1:2"], "backend.url=http://127.0.0.1:1/v1: no server answers there"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, "check", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"launcher: {line}")
    assert "Traceback" not in done.stderr


def test_what_is_a_target() -> None:
    words = ["http://a/v1?key=1", "run", "--tasks", "addition", "load.seconds=1", "~adapters", "--config-dir", "conf"]
    targets, rest = split(words)
    assert targets == ["http://a/v1?key=1", "run"]
    assert rest == ["--tasks", "addition", "load.seconds=1", "~adapters", "--config-dir", "conf"]
