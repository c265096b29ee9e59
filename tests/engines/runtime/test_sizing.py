"""The settings of batched engines: the message that refuses a number names one that works."""

from __future__ import annotations

import re

import pytest

from launcher.core.errors import UserError
from launcher.engines.megatron import Megatron
from launcher.engines.runtime import flash
from launcher.engines.runtime.sizing import cache_blocks, context_length
from launcher.settings.model import Model


def test_blocks_hold_the_tokens_and_one_is_reserved() -> None:
    assert [cache_blocks(tokens, 16) for tokens in (1, 16, 17, 33)] == [2, 2, 3, 4]


@pytest.mark.parametrize("per_token", [7, 1024, 123_457, 2**20])
@pytest.mark.parametrize("context", [1, 512, 131_071])
def test_the_cache_size_that_the_message_names_works(per_token: int, context: int) -> None:
    with pytest.raises(UserError, match=r"engine\.kv_cache_gib=1e-10: holds 0 tokens") as refused:
        Megatron(kv_cache_gib=1e-10).cache_tokens(per_token, context, 16)
    least = re.search(r"at least (\S+) is needed", str(refused.value))
    assert least is not None
    assert Megatron(kv_cache_gib=float(least[1])).cache_tokens(per_token, context, 16) >= context


def test_by_default_the_cache_holds_all_sequences_up_to_one_gib() -> None:
    engine = Megatron(max_sequences=4)
    assert engine.cache_tokens(1, 100, 16) == 4 * cache_blocks(100, 16) * 16
    assert engine.cache_tokens(2**20, 1000, 16) == 1024
    assert engine.cache_tokens(2**20, 4000, 16) == cache_blocks(4000, 16) * 16


def test_the_context_is_what_is_asked_for_within_what_the_files_allow() -> None:
    assert context_length(Model(), 10, "x") == 10
    assert context_length(Model(context_length=5), 10, "x") == 5
    assert context_length(Model(context_length=50), None, "x") == 50
    with pytest.raises(UserError, match=r"model\.context_length=11: the checkpoint allows 1 to 10: because"):
        context_length(Model(context_length=11), 10, "x", "because")
    with pytest.raises(UserError, match=r"model\.context_length: must be set; x does not state it"):
        context_length(Model(), None, "x")


def test_small_models_compute_on_one_thread() -> None:
    assert Megatron().threads_for(1_000_000, 8) == 1
    assert Megatron().threads_for(100_000_000, 8) == 8
    assert Megatron(threads=3).threads_for(1_000_000, 8) == 3


def test_pages_are_as_large_as_the_kernel_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "installed", lambda: False)
    assert [Megatron().resolve_block_size(decode) for decode in (False, True)] == [16, 16]
    monkeypatch.setattr(flash, "installed", lambda: True)
    assert [Megatron().resolve_block_size(decode) for decode in (False, True)] == [16, 256]
    assert [Megatron(block_size=512).resolve_block_size(decode) for decode in (False, True)] == [512, 512]
    assert Megatron(block_size=8).resolve_block_size(False) == 8
    with pytest.raises(UserError, match=r"engine\.block_size=16: must be a multiple of 256 for flash decode"):
        Megatron(block_size=16).resolve_block_size(True)
