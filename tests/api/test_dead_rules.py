"""Rules of a grammar that lead to themselves without end are found before a token is generated."""

from __future__ import annotations

import pytest

from launcher.api.dead_rules import dead_rule


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ('start: "x" b\nb: "y" b\n', "b"),
        ('start: b | "z"\nb: "y" (b "x" | b+)\n', "b"),
        ('start: a\na: "x" c\nc: (a | b) "d"\nb: a\n', "a"),
        ('start: "a" b?\nb: "x" b\n', "b"),
        ('%llguidance {"no_forcing": true}\nstart[max_tokens=3]: ( start )\n', "start"),
        ('start: "x" b{2,}\nb: b\n', "b"),
        ('start: a | "z"\na: "(" a ")" | "()"\n', None),
        ('start: "x" b{0,3}\nb: "y" b{0,3}\n', None),
        ('start: [start] "x"\n', None),
        ('start: T+\nT: /[^\\/"]/i & ~"x" // start: start\n%ignore /\\s+/\n', None),
        ('start: %json {"a": {"b": "}"}} x\nx: <[5]> <think> "a"{2,3} [ x ]\n', None),
        ('start: A ".." B\nA: "a".."z"\nB: /[/]/\n# b: b\n', None),
        ('start: "unused"\nb: b\n', None),
        ("start: (start\n", None),
        ("start: start $ unknown syntax\n", None),
        ("start: " + "(" * 5000 + "start" + ")" * 5000, None),
        ("", None),
    ],
)
def test_the_rule_that_leads_to_itself_is_named(grammar: str, rule: str | None) -> None:
    assert dead_rule(grammar) == rule
