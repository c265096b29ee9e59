from __future__ import annotations

import pytest

from launcher.core.errors import UserError
from launcher.distributed.allocation import allocate
from launcher.engines.none import Nothing
from launcher.settings.model import Model
from tests.engines import deployments


def test_there_is_nothing_to_load() -> None:
    assert deployments.plan(Nothing(), Model(), allocate()) == {"processes": 0}
    with pytest.raises(UserError, match="backend=external"):
        deployments.load(Nothing(), Model(), allocate())
