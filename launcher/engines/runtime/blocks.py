"""The blocks of a paged key-value cache: reference counts, and the prefix cache of full blocks."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from launcher.engines.base import TokenLogprob

BlockHash = bytes
"""Identifies the tokens of a full block together with all tokens before it."""


def hash_block(before: BlockHash, tokens: Sequence[int]) -> BlockHash:
    """Return the hash of a full block from its tokens and the hash of the block before it (empty for the first)."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Counts references to blocks ``1 .. num_blocks - 1``, and caches full blocks by their hash.

    Block 0 is reserved. A cached block without references stays usable until its place is needed; the least recently
    used one is evicted first.
    """

    def __init__(self, num_blocks: int) -> None:
        self._references = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, 0, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[BlockHash, int] = {}
        self._hash_of: dict[int, BlockHash] = {}
        self._logprobs: dict[BlockHash, Sequence[TokenLogprob]] = {}

    @property
    def num_usable(self) -> int:
        return len(self._references) - 1

    @property
    def num_free(self) -> int:
        """The number of blocks without a reference."""
        return len(self._empty) + len(self._evictable)

    def allocate(self) -> int:
        """Return a block for new tokens. Raises `LookupError` when every block is in use."""
        if self._empty:
            block = self._empty.pop()
        elif self._evictable:
            block, _ = self._evictable.popitem(last=False)
            self._evict(block)
        else:
            raise LookupError("every block is in use")
        self._references[block] = 1
        return block

    def incref(self, blocks: Iterable[int]) -> None:
        """Add a reference to each block that `match_prefix` returned."""
        for block in blocks:
            self._evictable.pop(block, None)
            self._references[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Remove a reference from each block, the last first: early blocks are the likeliest to be shared."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._hash_of:
                self._evictable[block] = None
            else:
                self._empty.append(block)

    def match_prefix(self, block_hashes: Sequence[BlockHash], depth: int | None = None) -> list[int]:
        """Return the cached blocks of the longest prefix of ``block_hashes``.

        With ``depth``, the blocks must also have cached log-probabilities with that many alternatives.
        """
        blocks: list[int] = []
        for block_hash in block_hashes:
            block = self._block_of.get(block_hash)
            if block is None or (depth is not None and not self._has_depth(block_hash, depth)):
                break
            blocks.append(block)
        return blocks

    def cache_block(self, block: int, block_hash: BlockHash, logprobs: Sequence[TokenLogprob] | None) -> None:
        """Cache a full block under its hash, with the log-probabilities of its tokens where they were computed."""
        held = self._block_of.setdefault(block_hash, block)
        if held == block:
            self._hash_of[block] = block_hash
        if logprobs is not None and not self._has_depth(block_hash, _depth(logprobs)):
            self._logprobs[block_hash] = logprobs

    def logprobs(self, block_hash: BlockHash) -> Sequence[TokenLogprob]:
        """Return the log-probabilities of a cached block's tokens; `KeyError` if they were never computed."""
        return self._logprobs[block_hash]

    def _has_depth(self, block_hash: BlockHash, depth: int) -> bool:
        cached = self._logprobs.get(block_hash)
        return cached is not None and _depth(cached) >= depth

    def _evict(self, block: int) -> None:
        block_hash = self._hash_of.pop(block)
        del self._block_of[block_hash]
        self._logprobs.pop(block_hash, None)


def _depth(logprobs: Sequence[TokenLogprob]) -> int:
    """Return the number of alternatives per token; the first token of a prompt has none."""
    return len(logprobs[-1].top)
