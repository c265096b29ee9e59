"""Questions that share a passage are drawn together, and each category evenly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from launcher.core.run_folder import RunFolder
from launcher.core.types import Sample
from launcher.evaluate.units import Question, Units, drawn, sizes
from tests.evaluate.evaluation_server import Echoes, serving
from tests.evaluate.test_early_stop import run, sometimes


def questions(count: int, passages: int, categories: int = 1) -> list[Question]:
    """Return questions whose passage and category come in turn."""
    return [Question(f"t/{n}", f"p{n % passages}", f"c{n % passages % categories}") for n in range(count)]


def test_a_passage_is_one_unit_and_no_block_divides_it() -> None:
    given = questions(600, 100)
    units = Units.of("t", given)
    assert (units.count, units.largest) == (100, 6)
    passages = {each.name: each.cluster for each in given}
    blocks = drawn([units], seed=0)
    assert Counter(name for block in blocks for name in block) == Counter(list(passages))
    assert {size for block in blocks for size in sizes(block, passages.__getitem__)} == {6}


def test_each_category_is_spread_evenly() -> None:
    given = questions(3_000, 3_000, categories=3)
    category = {each.name: each.category for each in given}
    for block in drawn([Units.of("t", given)], seed=1):
        found = Counter(category[name] for name in block)
        assert max(found.values()) - min(found.values()) <= 1


def test_a_rare_category_is_not_left_to_the_end() -> None:
    given = [replace(each, category="rare" if each.name.endswith("00") else "c") for each in questions(2_560, 2_560)]
    blocks = drawn([Units.of("t", given)], seed=0)
    rare = [sum(name.endswith("00") for name in block) for block in blocks]
    assert (sum(rare), max(rare)) == (25, 1)


def test_questions_alone_are_drawn_as_before() -> None:
    alone = [Question(f"t/{n}") for n in range(50)]
    passages = [Question(f"t/{n}", f"p{n}") for n in range(50)]
    assert drawn([Units.of("t", alone)], 3) == drawn([Units.of("t", passages)], 3)


@dataclass
class Passages(Echoes):
    """Four questions of each passage, in categories by turns."""

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for number, sample in enumerate(super().samples(name, model)):
            passage = number // 4
            yield replace(sample, cluster=f"p{passage}", category="odd" if passage % 2 else "even")


async def test_a_run_asks_whole_passages_and_keeps_what_they_are(tmp_path) -> None:
    async with serving(sometimes) as server:
        found = await run(server, tmp_path, {"t": Passages(1_200)}, width=0.3, concurrency=1)
    asked = [int(prompt) // 4 for prompt in server.prompts]
    assert len(asked) < 1_200
    assert all(len(set(asked[start : start + 4])) == 1 for start in range(0, len(asked), 4))
    records = list(RunFolder(tmp_path).records())
    assert {record.cluster for record in records} == {f"p{passage}" for passage in asked}
    assert abs(2 * sum(record.category == "odd" for record in records) - len(records)) <= 8
    low, high = found.tasks["t"].metrics["exact_match"].ci_low, found.tasks["t"].metrics["exact_match"].ci_high
    assert low <= 5 / 6 <= high
