"""Places in a JSON document."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.core.errors import UserError
from launcher.tasks.harness import json_path

DOCUMENT = {"results": {"a.b": {"acc,none": 0.5}}, "runs": [{"score": 1}, {"score": 2}], "": 3, "0": 4}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.results['a.b'].acc,none", 0.5),
        ('$["results"]["a.b"]["acc,none"]', 0.5),
        ("runs[1].score", 2),
        ("$.runs.0.score", 1),
        ("$.runs[-1].score", 2),
        ("$['']", 3),
        ("$.0", 4),
        ("0", 4),
        ("$", DOCUMENT),
    ],
)
def test_a_path_leads_to_a_value(path: str, value: Any) -> None:
    assert json_path.find(DOCUMENT, path) == value


@pytest.mark.parametrize("path", ["$.a[", "$.a[x]", "a..b", "$['a", "$.a]", "."])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="is no path; expected one such as"):
        json_path.parse(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("$.results.acc", "$.results is an object of a.b, without 'acc'"),
        ("$.runs[2].score", "$.runs is a list of 2, without 2"),
        ("$.runs.score", "$.runs is a list of 2, without 'score'"),
        ("$.results[0]", "$.results is an object of a.b, without 0"),
        ("$.runs[0].score.x", "$.runs[0].score is 1, without 'x'"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_leads(path: str, said: str) -> None:
    with pytest.raises(LookupError) as caught:
        json_path.find(DOCUMENT, path)
    assert said in str(caught.value)
