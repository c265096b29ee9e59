"""A tolerance follows from what rounding does, and from nothing that a broken engine could make large."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.validate import tolerance
from launcher.validate.tolerance import EPSILON, WIDER, EngineFacts, Tolerance

ERRORS = st.lists(st.floats(-1e3, 1e3), min_size=20, max_size=60)
DTYPES = st.sampled_from(sorted(WIDER))


def derived(dtype: str, errors: list[float], layers: int = 12, experts: bool = False) -> Tolerance:
    return tolerance.measured(EngineFacts(dtype, layers, experts), [(-2.0 + error, -2.0) for error in errors])


@given(DTYPES, ERRORS, st.integers(1, 200))
def test_no_measured_error_makes_a_tolerance_that_is_no_rounding(dtype: str, errors: list[float], layers: int) -> None:
    found = derived(dtype, errors, layers)
    most = max(1e-4, 24 * EPSILON[dtype] * math.sqrt(layers + 4))
    assert 1e-4 <= found.value <= most
    assert found.typical <= found.value


@given(DTYPES, st.floats(1e-6, 1.0), st.floats(0.0, 1e3))
def test_the_larger_the_error_the_larger_the_tolerance(dtype: str, error: float, more: float) -> None:
    assert derived(dtype, [error] * 20).value <= derived(dtype, [error + more] * 20).value


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e6])
def test_a_plain_pass_that_is_no_number_or_far_off_is_no_rounding(wrong: float) -> None:
    found = derived("fp16", [wrong] * 20)
    assert found.exceeds_rounding
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["dtype"] == "fp16"
    assert not derived("fp16", [0.002] * 20).exceeds_rounding


def test_bf16_is_allowed_more_than_fp16_and_that_more_than_fp32() -> None:
    values = [derived(dtype, [EPSILON[dtype]] * 20).value for dtype in ("bf16", "fp16", "fp32")]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3


def test_one_token_that_is_far_off_is_found_but_with_experts_it_may_be_another_expert_s() -> None:
    differences = [0.01] * 39 + [3.0]
    assert derived("bf16", [0.01] * 20).violation(differences)
    assert derived("bf16", [0.01] * 20, experts=True).violation(differences) is None
    assert derived("bf16", [0.01] * 20, experts=True).violation([0.01] * 30 + [3.0] * 10)


def test_many_small_differences_are_found_by_their_median() -> None:
    found = derived("bf16", [0.01] * 20)
    shifted = [0.05] * 40
    assert max(shifted) < found.value
    assert "in the median" in str(found.violation(shifted))


def test_a_difference_that_is_no_number_is_found() -> None:
    assert derived("bf16", [0.01] * 20).violation([0.0] * 20 + [math.inf])


@pytest.mark.parametrize(
    ("told", "dtype", "said"),
    [
        ({"dtype": "fp16"}, "fp16", "as the server reports"),
        ({"dtype": "fp32"}, "fp32", "as the server reports"),
        ({"dtype": "fp32", "precision": "tf32"}, "tf32", "as the server reports"),
        ({}, "bf16", "assumed"),
        ({"dtype": "int4"}, "bf16", "assumed"),
    ],
)
def test_a_server_without_a_reference_has_the_tolerance_of_the_type_that_it_reports_else_of_bf16(
    told: dict[str, str], dtype: str, said: str
) -> None:
    found = tolerance.assumed(EngineFacts.of(told).dtype, "why")
    assert (found.dtype, found.source) == (dtype, "assumed")
    assert said in found.why


def test_a_number_given_overrides() -> None:
    found = tolerance.given(0.5, "bf16")
    assert (found.value, found.typical, found.source) == (0.5, 0.5, "given")
    assert not found.exceeds_rounding
