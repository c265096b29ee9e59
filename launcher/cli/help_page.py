"""``launcher --help``, made from the option files: Hydra would compose the configuration once for each group."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from launcher.cli import commands
from launcher.cli.options import groups, options_of
from launcher.core.console import terminal_width

USAGE = """\
Serve a NeMo, Megatron or Hugging Face checkpoint, validate the endpoint, evaluate it, report.

  launcher COMMAND ...                              one of the commands below
  launcher [group=option ...] [key=value ...]       one run, in Hydra's grammar
  launcher -m 'adapters=[],[reasoning]' ...         a sweep over every combination
  (in a checkout: python launch.py ...)"""
ALSO = """\
  group=option chooses, group.key=value sets; adapters=[a,b] and tasks=[a,b] are lists
  mode=run|serve|validate|plan    plan prints what would happen and starts nothing
  mode=proxy                      pass requests of any harness on, through the adapters
  mode=watch watch.folder=...     evaluate each checkpoint of a training run as it comes
  mode=score run=<run folder>     score stored answers again, with other settings
  resume=<run folder>             continue an interrupted run
  --cfg job                       print the composed configuration
  exit codes: 0 good, 1 user error, 2 endpoint invalid, 3 coverage too low,
              4 and 5 launcher gate says NO-GO or INCONCLUSIVE, 130 interrupted"""


def page() -> str:
    """Return the help: usage, the groups with their options, modes, and commands."""
    listed = "\n".join(_groups(terminal_width()))
    return (
        f"{USAGE}\n\n== Commands (launcher COMMAND --help describes one) ==\n\n{commands.listing()}\n\n"
        f"== Groups of settings (launcher help GROUP describes one) ==\n\n{listed}\n\n"
        f"== Also ==\n\n{ALSO}"
    )


def _groups(width: int) -> Iterator[str]:
    for group in groups():
        if "/" not in group:  # the others are chosen by options of these
            more = ", lm_eval/<name of lm-evaluation-harness>" if group == "tasks" else ""
            line = f"{group}: {', '.join(options_of(group))}{more}"
            yield textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False)
