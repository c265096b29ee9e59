from __future__ import annotations

import pytest

from launcher.core.errors import UserError
from launcher.distributed.allocation import allocate
from launcher.engines.none import Nothing
from launcher.settings.model import Model, Optimizations, Parallelism


def test_there_is_nothing_to_load() -> None:
    parts = (Model(), Parallelism(), Optimizations(), allocate())
    assert Nothing().plan(*parts) == {"processes": 0}
    with pytest.raises(UserError, match="backend=external"):
        Nothing().load(*parts)
