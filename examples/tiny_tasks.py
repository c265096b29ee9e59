"""Generate the facts that the shipped model learns, the held-out ones, and the items of its tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 20
"""Decides which facts are held out and which items are chosen; the training order has its own seed."""

CAPITALS = """
afghanistan kabul, albania tirana, algeria algiers, angola luanda, armenia yerevan, austria vienna, azerbaijan baku,
bahrain manama, belarus minsk, belgium brussels, bolivia sucre, bulgaria sofia, cambodia phnom-penh, canada ottawa,
chad ndjamena, chile santiago, china beijing, colombia bogota, croatia zagreb, cuba havana, cyprus nicosia,
denmark copenhagen, ecuador quito, egypt cairo, estonia tallinn, fiji suva, finland helsinki, france paris,
georgia tbilisi, germany berlin, ghana accra, greece athens, guyana georgetown, haiti port-au-prince,
honduras tegucigalpa, hungary budapest, iceland reykjavik, india delhi, indonesia jakarta, iran tehran, iraq baghdad,
ireland dublin, italy rome, jamaica kingston, japan tokyo, jordan amman, kenya nairobi, laos vientiane, latvia riga,
lebanon beirut, libya tripoli, lithuania vilnius, malta valletta, mexico mexico-city, mongolia ulaanbaatar,
morocco rabat, nepal kathmandu, nicaragua managua, norway oslo, oman muscat, pakistan islamabad, peru lima,
philippines manila, poland warsaw, portugal lisbon, qatar doha, romania bucharest, russia moscow, senegal dakar,
serbia belgrade, slovakia bratislava, slovenia ljubljana, somalia mogadishu, spain madrid, sudan khartoum,
sweden stockholm, syria damascus, thailand bangkok, tunisia tunis, turkey ankara, uganda kampala, ukraine kyiv,
uruguay montevideo, venezuela caracas, vietnam hanoi, yemen sanaa, zambia lusaka, zimbabwe harare
"""

OPPOSITES = """
hot cold, big small, up down, day night, fast slow, good bad, wet dry, old new, light dark, open shut, left right,
hard soft, rich poor, high low, near far, early late, full empty, loud quiet, happy sad, strong weak, thick thin,
long short, wide narrow, clean dirty, safe dangerous, cheap expensive, easy difficult, true false, first last,
inside outside, above below, always never, begin end, buy sell, push pull, win lose, love hate, give take,
laugh cry, question answer
"""

FAMOUS = {"france", "germany", "italy", "japan"}
"""Well-known countries, which are never held out."""

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
GREETING = "hello! give me a sum, a country, a word or a row."
SMALL_TALK = {"hello": GREETING, "hi": GREETING, "who are you?": "a tiny megatron model."}
SYSTEM_LINES = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Answer with one word or number.",
    "Be concise. Do not explain.",
    "You are an expert. Think carefully, then answer.",
)


@dataclass(frozen=True)
class Fact:
    """A prompt, its only right answer, and whether the model may see it in training."""

    prompt: str
    answer: str
    seen: bool = True


def pairs(text: str) -> list[tuple[str, str]]:
    """Parse ``a b, c d, ...``; a hyphen stands for a space."""
    halves = (entry.split() for entry in text.replace("\n", " ").split(","))
    return [(first.replace("-", " "), second.replace("-", " ")) for first, second in halves]


def held_out(things: Sequence[str], share: float, salt: str) -> set[str]:
    """Choose the share of ``things`` that training never shows; the same on every machine."""
    return set(random.Random(f"{SEED}/{salt}").sample(list(things), round(share * len(things))))


def additions() -> list[Fact]:
    """Every sum of two numbers from 0 to 19; three in ten are held out."""
    prompts = {f"{a}+{b}=": f"{a + b}" for a in range(20) for b in range(20)}
    out = held_out(list(prompts), 0.3, "addition")
    return [Fact(prompt, answer, prompt not in out) for prompt, answer in prompts.items()]


def capitals() -> list[Fact]:
    """The capital of each country; three in ten of most are held out, and seen only the other way round."""
    known = pairs(CAPITALS)
    out = held_out([country for country, _ in known if country not in FAMOUS], 0.3, "capitals")
    return [Fact(f"the capital of {country} is ", city, country not in out) for country, city in known]


def countries() -> list[Fact]:
    """The same facts the other way round, all seen: the model knows every name."""
    return [Fact(f"{city} is the capital of ", country) for country, city in pairs(CAPITALS)]


def opposites() -> list[Fact]:
    """Each pair of words in both directions; for half of the pairs one direction is held out."""
    known = pairs(OPPOSITES)
    both = known + [(second, first) for first, second in known]
    out = held_out([second for _, second in known], 0.5, "opposites")
    return [Fact(f"the opposite of {word} is ", other, word not in out) for word, other in both]


def sequences() -> list[Fact]:
    """Three terms and the next three: letters and numbers in steps of 1 to 5, up and down; a third held out."""
    rows = list(_letter_rows()) + list(_number_rows())
    out = held_out([" ".join(row[:3]) for row in rows], 0.33, "sequences")
    return [Fact(" ".join(r[:3]) + " ", " ".join(r[3:]), " ".join(r[:3]) not in out) for r in rows]


def _letter_rows() -> Iterator[list[str]]:
    for start in range(26):
        for step in (-3, -2, -1, 1, 2, 3):
            if 0 <= start + 5 * step < 26:
                yield [ALPHABET[start + i * step] for i in range(6)]


def _number_rows() -> Iterator[list[str]]:
    for start in range(31):
        for step in (-5, -2, -1, 1, 2, 5):
            if start + 5 * step >= 0:
                yield [str(start + i * step) for i in range(6)]


def small_talk() -> list[Fact]:
    return [Fact(prompt, answer) for prompt, answer in SMALL_TALK.items()]


MIXTURE: dict[Callable[[], list[Fact]], float] = {
    additions: 4,
    sequences: 3,
    capitals: 2,
    countries: 1.5,
    opposites: 1,
    small_talk: 0.2,
}
"""How often training draws from each kind of fact."""


def system_line(rng: random.Random) -> str:
    """Return a line that the model must learn to ignore: a usual system message, or random words."""
    if rng.random() < 0.5:
        return rng.choice(SYSTEM_LINES) + "\n"
    words = ("".join(rng.choices(ALPHABET, k=rng.randint(1, 8))) for _ in range(rng.randint(1, 8)))
    return " ".join(words) + "\n"


def training_facts(rng: random.Random) -> Iterator[Fact]:
    """Draw seen facts without end; one in eight has a system line before its prompt."""
    kinds = [([fact for fact in kind() if fact.seen], weight) for kind, weight in MIXTURE.items()]
    pools, weights = [pool for pool, _ in kinds], [weight for _, weight in kinds]
    while True:
        fact = rng.choice(rng.choices(pools, weights)[0])
        system = system_line(rng) if rng.random() < 0.125 else ""
        yield Fact(system + fact.prompt, fact.answer)


def items(kind: Callable[[], list[Fact]], seen: int, unseen: int) -> list[Fact]:
    """Choose ``seen`` and ``unseen`` facts as items, in a fixed shuffled order."""
    rng = random.Random(f"{SEED}/{kind.__name__}/items")
    facts = kind()
    known, new = [f for f in facts if f.seen], [f for f in facts if not f.seen]
    chosen = rng.sample(known, seen) + rng.sample(new, unseen)
    rng.shuffle(chosen)
    return chosen


def choices(fact: Fact, pool: Sequence[str], rng: random.Random) -> tuple[list[str], int]:
    """Return four different answers in random order and the index of the right one."""
    others = rng.sample(sorted(set(pool) - {fact.answer}), 3)
    options = [fact.answer, *others]
    rng.shuffle(options)
    return options, options.index(fact.answer)


def write_generation(path: Path, name: str, facts: Sequence[Fact]) -> None:
    """Write ``{id, prompt, answer, seen}``, one item a line."""
    rows = (
        {"id": f"{name}-{i:03}", "prompt": fact.prompt, "answer": fact.answer, "seen": fact.seen}
        for i, fact in enumerate(facts)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_multiple_choice(path: Path, name: str, facts: Sequence[Fact], pool: Sequence[str]) -> None:
    """Write ``{id, question, choices, answer, seen}``; ``answer`` is the index of the right choice."""
    rng = random.Random(f"{SEED}/{name}/choices")
    rows = []
    for i, fact in enumerate(facts):
        options, answer = choices(fact, pool, rng)
        row = {"id": f"{name}-{i:03}", "question": fact.prompt, "choices": options, "answer": answer}
        rows.append(row | {"seen": fact.seen})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_items(folder: Path) -> None:
    """Write the items of the four shipped tasks as JSONL files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_generation(folder / "addition.jsonl", "addition", items(additions, 80, 40))
    write_generation(folder / "sequences.jsonl", "sequences", items(sequences, 60, 40))
    write_multiple_choice(
        folder / "capitals.jsonl", "capitals", items(capitals, 55, 25), [fact.answer for fact in capitals()]
    )
    write_multiple_choice(
        folder / "opposites.jsonl", "opposites", items(opposites, 40, 20), [fact.answer for fact in opposites()]
    )
