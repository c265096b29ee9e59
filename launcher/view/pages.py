"""The parts of a page, each as HTML, and the page that holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from launcher.core.types import Status
from launcher.report import design, page, results
from launcher.view.run_state import RunState, as_values

RUN_PARTS = ("head", "scores", "speed", "servers", "pauses", "certificate", "logs", "about")
VERDICTS = {
    "running": "It goes on",
    "lost": "It has no heartbeat",
    "submitted": "It waits in the queue",
    "waiting": "It has written nothing yet",
    **page.VERDICTS,
}


def run_parts(state: RunState) -> dict[str, str]:
    """Return the parts of the page of a run."""
    values = {**as_values(state), "verdicts": VERDICTS}
    module = environment().get_template("run_parts.html.j2").make_module(values)
    return {name: _well_formed(getattr(module, name)()) for name in RUN_PARTS}


def fragment(template: str, values: Mapping[str, object]) -> str:
    """Render a template of this package that is no whole page."""
    return _well_formed(environment().get_template(template).render(values))


def whole(
    heading: str, parts: Mapping[str, str], home: str | None, trail: Sequence[tuple[str, str]], *, live: bool = True
) -> str:
    """Return the document with all parts; one that is ``live`` asks for what is new of them."""
    made = {name: Markup(html) for name, html in parts.items()}
    values = {"heading": heading, "parts": made, "home": home, "trail": trail, "live": live}
    return fragment("live.html.j2", values)


@cache
def environment() -> Environment:
    """Return the templates of this package and of the report."""
    made = design.environment("launcher.view")
    made.globals |= {"statuses": [status.value for status in Status]}
    return made


def _well_formed(html: str) -> str:
    return results.well_formed(html.strip())
