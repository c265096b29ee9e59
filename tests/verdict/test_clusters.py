"""Questions that share a passage are no independent ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.core.records import from_line, to_line
from launcher.verdict import collect, comparison, runs
from tests.report.report_records import record
from tests.verdict.run_folders import run_folder


def folder(path, right, passages, count=200, **changes):
    made = [replace(record(number, right=right(number)), cluster=f"p{number % passages}") for number in range(count)]
    return run_folder(path, made, **changes)


def row(tmp_path, passages):
    """The second run answers all questions of some passages better."""
    a = folder(tmp_path / "a", lambda number: number % max(passages, 5) >= max(passages, 5) // 5, passages, model="a")
    b = folder(tmp_path / "b", lambda number: True, passages, model="b")
    (found,) = comparison.rows(runs.read_all([a, b]))
    (entry,) = collect.collect(runs.read_all([a, b]))["rows"]
    return found, entry["sentence"]


def test_an_error_is_clustered_by_passage(tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "alone").mkdir()
    few, sentence = row(tmp_path / "few", 20)
    alone, _ = row(tmp_path / "alone", 200)
    assert (few.found.test, few.found.clusters, alone.found.test, alone.found.clusters) == (
        *("clustered t", 20),
        *("sign", None),
    )
    assert few.found.stderr > 2.5 * alone.found.stderr, "ten questions of a passage are worth about one"
    assert few.found.p > alone.found.p
    assert "200 questions in 20 passages)" in sentence


@pytest.mark.parametrize(
    ("passages", "said"),
    [
        (5, "5 passages are too few to tell (200 questions in 5 passages)"),
        (1, "1 passage is too few to tell (200 questions in 1 passage)"),
    ],
)
def test_too_few_passages_tell_nothing(tmp_path, passages, said):
    found, sentence = row(tmp_path, passages)
    assert (found.verdict, found.found.p) == ("may be chance", 1.0)
    assert said in sentence


@pytest.mark.parametrize("cluster", [None, "a1"])
def test_a_line_keeps_the_cluster(cluster):
    given = replace(record(1), cluster=cluster)
    line = to_line(given)
    assert (b"cluster" in line) is (cluster is not None)
    assert from_line(line).cluster == cluster
