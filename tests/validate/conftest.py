"""The right server into which faults are planted, started once per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launcher.checkpoints.tokenizers.huggingface import from_folder
from tests.checkpoints.tokenizer_inputs import tokenizer_folder
from tests.validate.mock import Mock, serve


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    folder = tmp_path_factory.mktemp("mock")
    place = tokenizer_folder(folder / "tokenizer")
    tokenizer = from_folder(place)
    try:
        with serve(folder, tokenizer) as (wrapped, endpoint):
            yield Mock(wrapped, endpoint, place)
    finally:
        tokenizer.close()
