"""Names the parameters that adapters give to every request, or take from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from launcher.adapters.base import Adapter, Imposed
from launcher.core.errors import UserError

FORM = frozenset({"n", "best_of", "echo", "stream", "prompt", "messages", "suffix", "use_beam_search"})
"""Those that say what an answer is: a task that asks for one form reads another one wrongly, or not at all."""


def imposed(adapters: Iterable[Adapter], prefix: str = "") -> list[str]:
    """Return what adapters do to the parameters of every request, in their order; ``prefix`` comes before each key."""
    return [str(each) for each in _all(adapters, prefix)]


def check_form(adapters: Mapping[str, Adapter], prefix: str) -> None:
    """Refuse adapters of an evaluation that set what says the form of an answer. Raises `UserError`."""
    for each in _all(adapters.values(), prefix):
        if each.is_set and each.name in FORM:
            raise UserError(
                f"{each.key} sets '{each.name}' in every request, but each task sets it itself, "
                "and reads its answers so; leave it out"
            )


def _all(adapters: Iterable[Adapter], prefix: str) -> Iterable[Imposed]:
    for adapter in adapters:
        for each in adapter.imposes():
            yield replace(each, key=prefix + each.key)
