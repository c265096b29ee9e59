"""A task that makes a sample of each item of a file: where its items and examples come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TypedDict

from launcher.core.console import one_line
from launcher.core.errors import TaskError, UserError
from launcher.core.ranges import Count, CountFromZero, Seed
from launcher.core.types import Json
from launcher.tasks import items
from launcher.tasks.base import Task, cluster_name
from launcher.tasks.fewshot import Examples
from launcher.tasks.items import Item, identified
from launcher.tasks.template import check_template, render, value


class Labels(TypedDict):
    """What a `launcher.core.types.Sample` has of its item besides requests and target."""

    cluster: str | None
    category: str | None


@dataclass
class ItemTask(Task):
    """What generation and multiple-choice tasks have in common.

    ``path`` is a file of JSON lines (.jsonl), a JSON array (.json), .csv or .tsv, each also .gz, or .parquet. It may
    also be a folder of ``datasets.save_to_disk``, or ``package:<name>/<file>`` for one inside a Python package.
    ``hub:<name>`` is the cached copy of a hub's data set, with its ``config``. ``split`` is one of a folder's or a
    hub's. ``id`` is the field of the items' ids (empty: ``id``, or the row's number), ``limit`` takes the first items.

    ``cluster`` is a field or template by which items belong together, such as the ``passage`` that several share. A
    comparison of runs clusters its errors by it. ``category`` is one that says what an item is about, such as its
    ``subject``. The report shows the scores of each, and an evaluation that may stop early asks all of them evenly.

    ``description`` stands before the examples; in chat it is part of the system message. ``fewshot`` examples come
    first: the first items of ``fewshot_path`` and ``fewshot_split`` (both empty: those of the items) with other prompts
    than the item. ``fewshot_indices`` takes these rows instead, counted from 0. ``fewshot_seed`` draws them at random
    for each item. ``fewshot_delimiter`` stands between an example's prompt and answer, ``fewshot_separator`` behind
    each example.
    """

    path: str = ""
    config: str = ""
    split: str = ""
    id: str = ""
    cluster: str = ""
    category: str = ""
    limit: Count | None = None
    description: str = ""
    fewshot: CountFromZero = 0
    fewshot_path: str = ""
    fewshot_split: str = ""
    fewshot_indices: list[CountFromZero] = field(default_factory=list)
    fewshot_seed: Seed | None = None
    fewshot_separator: str = "\n\n"

    def check_settings(self, *templates: str) -> None:
        """Raise `UserError` for settings that do not fit each other, and for bad ``templates``, named as settings."""
        for key in ("description", "cluster", "category", *templates):
            check_template(getattr(self, key), key)
        if self.fewshot_indices and self.fewshot_seed is not None:
            raise UserError("tasks: fewshot_indices and fewshot_seed are both given; expected one of them")
        if 0 < len(self.fewshot_indices) < self.fewshot:
            raise UserError(f"tasks: fewshot={self.fewshot}, but fewshot_indices has {len(self.fewshot_indices)} rows")

    def check_data(self) -> None:
        for path in (self.path, self.fewshot_path or self.path):
            items.check_source(path)

    def rows(self) -> Iterator[tuple[str, Item]]:
        """Yield each item with its id. Ids that were all different are not compared again, which takes memory."""
        found = items.read(self.path, self.limit, config=self.config, split=self.split)
        first = next(found)
        version = items.version(self.path, config=self.config, split=self.split)
        yield from identified(chain([first], found), self.id, are_unique=version in self._unique_versions)
        self._unique_versions[:] = [version]

    @cached_property
    def _unique_versions(self) -> list[Json]:
        """The version of the items whose ids were all different, if there is one."""
        return []

    def labels_of(self, item: Item) -> Labels:
        """Return what a `Sample` has besides its requests: which others it belongs together with, and its category."""
        cluster = cluster_name(value(self.cluster, item)) if self.cluster else None
        return {"cluster": cluster, "category": self._category_of(item) if self.category else None}

    def _category_of(self, item: Item) -> str | None:
        """Return the category as text; None where the item has none. Raises `TaskError` for a list or an object."""
        found = value(self.category, item)
        if not isinstance(found, str | int | float | None):
            raise TaskError(f"{item.where}: category={self.category} is {one_line(str(found), 80)}, expected a text")
        return None if found is None else str(found).strip() or None

    def prompt_of(self, item: Item) -> str:
        """Return what is asked of an item, by which examples are compared with it."""
        raise NotImplementedError

    @cached_property
    def examples(self) -> Examples:
        """The examples that items are shown, read when they are first needed."""
        return Examples(
            path=self.fewshot_path or self.path,
            config=self.config if self._own_examples else "",
            split=self.fewshot_split or (self.split if self._own_examples else ""),
            count=self.fewshot or len(self.fewshot_indices),
            indices=tuple(self.fewshot_indices),
            seed=self.fewshot_seed,
            question=self.prompt_of,
        )

    @property
    def _own_examples(self) -> bool:
        """Whether the examples are from the file or data set of the items."""
        return self.fewshot_path in ("", self.path)

    def shots(self) -> int:
        return self.examples.count

    def described(self, item: Item) -> str:
        return render(self.description, item)

    def size(self) -> int:
        found = items.count(self.path, config=self.config, split=self.split)
        return found if self.limit is None else min(found, self.limit)

    def item_digests(self) -> dict[str, Json]:
        """Return digests of the files of items and of examples."""
        found: dict[str, Json] = {"items": items.digest(self.path, config=self.config, split=self.split)}
        shots = self.examples
        if shots.count and (self.fewshot_path or self.fewshot_split):
            found["fewshot"] = items.digest(shots.path, config=shots.config, split=shots.split)
        return {"item_files": found}
