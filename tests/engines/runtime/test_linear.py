"""Products by oneDNN equal torch's own, for any number of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from launcher.engines.runtime import linear as module
from launcher.engines.runtime.linear import Linear, linear, packed, replace_linears


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute by oneDNN on any CPU, and from the smallest product on."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(module, "FAST", True)
    monkeypatch.setattr(module, "PLAIN", True)
    monkeypatch.setattr(module, "LEAST_WORK", 0)
    monkeypatch.setattr(module, "LEAST_PACKED", 0)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 9, 61, 64, 65, 200])
@pytest.mark.parametrize("bias", [False, True])
def test_every_number_of_rows(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    x, weight, b = torch.randn(rows, 1, 48), torch.randn(40, 48), torch.randn(40) if bias else None
    torch.testing.assert_close(linear(x, weight, b), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(x, packed(weight), b), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)


def test_a_packed_weight_is_the_weight() -> None:
    weight = torch.randn(40, 48)
    assert packed(weight).is_mkldnn
    assert torch.equal(packed(weight).to_dense(), weight)


@pytest.mark.parametrize(
    ("described", "intel"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n", True),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: as fast as GenuineIntel\n", False),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", False),
        ("", False),
    ],
)
def test_the_maker_of_a_cpu(described: str, intel: bool) -> None:
    assert module._is_intel(described) is intel


def test_plain_weights_are_left_to_torch_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN", False)
    x, weight = torch.randn(9, 48), torch.randn(40, 48)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert packed(weight).is_mkldnn
    torch.testing.assert_close(linear(x, packed(weight)), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_no_row() -> None:
    assert linear(torch.empty(0, 8), torch.ones(4, 8)).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(9, 16).to(dtype), torch.randn(8, 16).to(dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_rows_that_are_not_contiguous() -> None:
    x, weight = torch.randn(16, 9, 2).transpose(0, 1)[..., 0], torch.randn(8, 16)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_layers_of_a_model_compute_by_it() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 4, bias=False)))
    x = torch.randn(2, 12, 16)
    with torch.no_grad():
        before = model(x)
        replace_linears(model)
        assert [type(m) for m in model.modules() if isinstance(m, nn.Linear)] == [Linear, Linear]
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
