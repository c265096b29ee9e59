"""The record that several tests change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from launcher.core.types import Record
from tests.sample_records import made


@pytest.fixture
def record() -> Callable[..., Record]:
    return made
