"""``launcher gate RUN --policy FILE``: decide whether a run may pass, as an exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.cli.commands import parser
from launcher.core.console import printable

TONES = {"GO": "bold green", "NO-GO": "bold red", "INCONCLUSIVE": "bold yellow"}


def run(arguments: Sequence[str]) -> int:
    """Print the findings and the verdict; return its code. Raises `UserError`, and `SystemExit` after ``--help``."""
    from launcher.verdict import exports, gate, policy, runs

    asked = _parsed(arguments)
    rules = policy.read(asked.policy, asked.baseline)
    baseline = runs.read(rules.baseline, "baseline") if rules.baseline else None
    findings = gate.decide(runs.read(asked.run, "run"), baseline, rules)
    console, outcome = Console(), gate.overall(findings)
    for finding in findings:
        word = (f"{finding.outcome.word:<12}", TONES[finding.outcome.word])
        console.print(Text.assemble(word, f"  {printable(finding.name)}: {printable(finding.detail)}"))
    console.print(Text(outcome.word, style=TONES[outcome.word]))
    if asked.junit:
        exports.junit(findings, asked.junit)
    if asked.markdown:
        exports.markdown(findings, asked.markdown)
    return outcome.value


def _parsed(arguments: Sequence[str]) -> Namespace:
    asked = parser("gate")
    asked.add_argument("run", metavar="RUN", type=_folder, help="the folder of a run")
    asked.add_argument("--policy", metavar="FILE", type=Path, required=True, help="the YAML file with the rules")
    asked.add_argument("--baseline", metavar="RUN", type=_folder, help="the run to be held against")
    asked.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML there")
    asked.add_argument("--markdown", metavar="FILE", type=Path, help="write Markdown there")
    return asked.parse_args(list(arguments))


def _folder(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)
