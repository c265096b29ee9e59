from __future__ import annotations

from dataclasses import fields

import pytest

from launcher.pipeline import components  # noqa: F401  (registers all tasks)
from launcher.settings.component import COMPONENTS
from launcher.tasks.item_task import ItemTask

OVER_TEXTS = {"tasks/perplexity"}
"""Their items may be whole files, so that examples and prompts have no meaning."""
OVER_FILES = {path for path, made in COMPONENTS.items() if path.startswith("tasks/") and hasattr(made, "path")}
OVER_ITEMS = sorted(OVER_FILES - OVER_TEXTS)


@pytest.mark.parametrize("path", OVER_ITEMS)
def test_every_task_over_a_file_of_items_has_the_settings_of_all(path: str) -> None:
    """So each has splits, examples, and the resume after a repaired file."""
    made = COMPONENTS[path]
    assert issubclass(made, ItemTask)
    assert {each.name for each in fields(ItemTask)} <= {each.name for each in fields(made)}


def test_most_tasks_are_over_items() -> None:
    assert {"tasks/code", "tasks/ifeval", "tasks/judge", "tasks/continuation", "tasks/generation"} <= set(OVER_ITEMS)
