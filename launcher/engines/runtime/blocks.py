"""The blocks of a paged key-value cache: who holds them, and which contents can be used again."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from launcher.engines.base import TokenLogprob

BlockHash = bytes
"""Identifies the content of a full block together with everything before it."""


def digest(before: BlockHash, tokens: Sequence[int]) -> BlockHash:
    """Identify a full block by its tokens and the digest of the block before it (empty for the first)."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Counts references to blocks ``1 .. num_blocks - 1``, and remembers full ones by content.

    Block 0 belongs to nobody. A remembered block that nobody holds stays usable until its place is needed; the one
    that was used longest ago goes first.
    """

    def __init__(self, num_blocks: int) -> None:
        self._references = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, 0, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._by_content: dict[BlockHash, int] = {}
        self._content: dict[int, BlockHash] = {}
        self._logprobs: dict[BlockHash, Sequence[TokenLogprob]] = {}

    @property
    def total(self) -> int:
        return len(self._references) - 1

    @property
    def free(self) -> int:
        """How many blocks nobody holds."""
        return len(self._blank) + len(self._unused)

    def take(self) -> int:
        """Return a block for new content. Raises `LookupError` when every block is held."""
        if self._blank:
            block = self._blank.pop()
        elif self._unused:
            block, _ = self._unused.popitem(last=False)
            self._forget(block)
        else:
            raise LookupError("every block is held")
        self._references[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `find` returned once more."""
        for block in blocks:
            self._unused.pop(block, None)
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks, the last first: a sequence's early blocks are the likeliest to be shared."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._content:
                self._unused[block] = None
            else:
                self._blank.append(block)

    def find(self, contents: Sequence[BlockHash], depth: int | None = None) -> list[int]:
        """Return the blocks that hold the longest remembered beginning of ``contents``.

        With ``depth``, only blocks whose tokens' log-probabilities are known with so many alternatives.
        """
        blocks: list[int] = []
        for content in contents:
            block = self._by_content.get(content)
            if block is None or (depth is not None and not self._deep(content, depth)):
                break
            blocks.append(block)
        return blocks

    def remember(self, block: int, content: BlockHash, logprobs: Sequence[TokenLogprob] | None) -> None:
        """Note what a full block holds, with the log-probabilities of its tokens where they were computed."""
        held = self._by_content.setdefault(content, block)
        if held == block:
            self._content[block] = content
        if logprobs is not None and not self._deep(content, _depth(logprobs)):
            self._logprobs[content] = logprobs

    def logprobs(self, content: BlockHash) -> Sequence[TokenLogprob]:
        """Return the log-probabilities of a remembered block's tokens; `KeyError` if they were never computed."""
        return self._logprobs[content]

    def _deep(self, content: BlockHash, depth: int) -> bool:
        known = self._logprobs.get(content)
        return known is not None and _depth(known) >= depth

    def _forget(self, block: int) -> None:
        content = self._content.pop(block)
        del self._by_content[content]
        self._logprobs.pop(content, None)


def _depth(logprobs: Sequence[TokenLogprob]) -> int:
    """How many alternatives are known of each token; the first token of a prompt has none to know."""
    return len(logprobs[-1].top)
