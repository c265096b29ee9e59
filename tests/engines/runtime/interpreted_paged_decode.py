"""The Triton kernel of decode steps gives plain attention, on a CPU in Triton's interpreter.

``test_paged_decode.py`` runs this file in a process of its own, where Triton interprets.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from launcher.engines.runtime import decode_kernels, paged_decode
from launcher.engines.runtime.scheduler import SchedulerConfig
from tests.engines.answers import together
from tests.engines.megatron.test_executor import ARCHITECTURES, check_same, mixed_requests
from tests.engines.megatron.test_flash import PlainKernel, use
from tests.engines.megatron.tiny_models import running, worker_config


def pages(sequences: int, groups: int, channels: int, page: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return keys and values as the cache holds them, and blocks in any order."""
    cache = torch.randn(sequences * width + 1, groups, 2, page, channels).to(dtype)
    blocks = (torch.randperm(sequences * width) + 1).view(sequences, width).to(torch.int32)
    return cache[:, :, 0].transpose(1, 2), cache[:, :, 1].transpose(1, 2), blocks


# Heads, key heads and channels: SmolLM2, Llama 3, Qwen2.5 7B, Qwen3, Pythia and others.
SHAPES = [
    (9, 3, 64),
    (32, 8, 128),
    (28, 4, 128),
    (8, 8, 64),
    (8, 8, 80),
    (4, 4, 96),
    (8, 1, 256),
    (4, 2, 16),
]


@pytest.mark.parametrize("processors", [1, 108], ids=["one split", "many splits"])
@pytest.mark.parametrize(("heads", "groups", "channels"), SHAPES)
def test_it_is_exact_for_the_shapes_of_models(heads: int, groups: int, channels: int, processors: int) -> None:
    torch.manual_seed(heads + channels)
    lengths = torch.tensor([1, 17, 150, 300], dtype=torch.int32)
    queries = torch.randn(4, heads, channels)
    keys, values, blocks = pages(4, groups, channels, 16, 19, torch.float32)
    for window in (None, 100) if processors > 1 else (None,):
        given = (queries, keys, values, lengths, blocks, None, window)
        found = paged_decode.kernel(processors)(*given)
        torch.testing.assert_close(found, PlainKernel()(*given), atol=3e-6, rtol=0)


@pytest.mark.parametrize("page", [2, 16, 48, 256])
def test_pages_of_any_size(page: int) -> None:
    torch.manual_seed(page)
    lengths = torch.tensor([page, page + 1, 2 * page], dtype=torch.int32)
    keys, values, blocks = pages(3, 2, 32, page, 2, torch.float32)
    given = (torch.randn(3, 4, 32), keys, values, lengths, blocks, 0.3, None)
    torch.testing.assert_close(paged_decode.kernel(4)(*given), PlainKernel()(*given), atol=3e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_as_close_as_their_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    queries = torch.randn(2, 8, 64).to(dtype)
    keys, values, blocks = pages(2, 2, 64, 16, 30, dtype)
    lengths = torch.tensor([5, 470], dtype=torch.int32)
    found = paged_decode.kernel(16)(queries, keys, values, lengths, blocks, None, None)
    expected = PlainKernel()(queries.float(), keys.float(), values.float(), lengths, blocks, None, None)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=0)


def test_a_sequence_of_no_key_gives_zero_and_spoils_no_other() -> None:
    keys, values, blocks = pages(2, 1, 16, 16, 2, torch.float32)
    lengths = torch.tensor([0, 20], dtype=torch.int32)
    given = (torch.randn(2, 2, 16), keys, values, lengths, blocks, None, None)
    found, expected = paged_decode.kernel(64)(*given), PlainKernel()(*given)
    assert found[0].eq(0).all()
    torch.testing.assert_close(found[1], expected[1], atol=3e-6, rtol=0)


def test_what_a_page_holds_behind_the_end_is_not_seen() -> None:
    """The block of a new sequence has what an earlier one left there, be it infinite."""
    keys, values, blocks = pages(1, 1, 16, 16, 2, torch.float32)
    lengths = torch.tensor([20], dtype=torch.int32)
    given = (torch.randn(1, 2, 16), keys, values, lengths, blocks, None, None)
    expected = PlainKernel()(*given)
    keys[blocks[0, 1], 4:], values[blocks[0, 1], 4:] = torch.inf, torch.nan
    torch.testing.assert_close(paged_decode.kernel(64)(*given), expected, atol=3e-6, rtol=0)


def test_the_trial_before_use_tells_a_right_kernel_from_a_wrong_one() -> None:
    made, cpu = paged_decode.kernel(16), torch.device("cpu")
    assert decode_kernels.trial(made, cpu) < decode_kernels.TOLERANCE
    assert decode_kernels.trial(lambda *given: made(*given) * 1.05, cpu) > decode_kernels.TOLERANCE


@pytest.mark.parametrize(
    ("programs", "keys", "processors", "splits"),
    [(1, 100_000, 132, 264), (64, 100_000, 132, 5), (512, 100_000, 132, 1), (1, 256, 132, 1), (1, 257, 132, 2)],
)
def test_the_keys_are_split_as_far_as_it_pays(programs: int, keys: int, processors: int, splits: int) -> None:
    assert paged_decode.number_of_splits(programs, keys, processors) == splits


@pytest.mark.soak
@pytest.mark.parametrize("name", ["llama", "one_key_head", "sliding_window"])
async def test_an_engine_answers_the_same_with_it(name: str) -> None:
    requests, architecture = mixed_requests(6, seed=8), ARCHITECTURES[name]
    with running(worker_config(architecture)) as plain:
        expected = await together(plain, requests)
    with running(
        worker_config(architecture), SchedulerConfig(256, prefill_chunk=30), use(paged_decode.kernel(4))
    ) as made:
        check_same(requests, expected, await together(made, requests))
