"""The design that all pages share: the document, its style, its scripts, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from launcher.report import formatting

HERE = "launcher.report"
SHARED_SCRIPTS = ("page.js",)
"""The scripts of a page that sets no ``scripts`` of its own: copy buttons, and the values of marks."""


@cache
def environment(package: str = HERE) -> Environment:
    """Return the templates of ``package``, then those of this one, of which ``base.html.j2`` is the document.

    A template that extends it may set ``scripts``: the names of files beside the templates. It sets ``connect`` to true
    where its scripts ask the page's own server. No page loads anything else.
    """
    loaders = [PackageLoader(name, "templates") for name in dict.fromkeys((package, HERE))]
    made = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = formatting.number, formatting.duration, formatting.p_value, formatting.task_name, breakable
    made.filters |= {each.__name__: each for each in filters}

    def inline(name: str) -> Markup:
        return Markup(_source(made, name))

    def policy(scripts: Sequence[str], connect: bool) -> str:
        return _policy([_source(made, name) for name in scripts], connect)

    made.globals |= {"inline": inline, "policy": policy, "shared_scripts": SHARED_SCRIPTS, "formatting": formatting}
    return made


def breakable(name: str) -> Markup:
    """Return a name that a narrow page breaks after an underscore or a slash, and within a word only if it must."""
    return Markup(re.sub("([_/])", r"\1<wbr>", str(escape(name))))


def _source(made: Environment, name: str) -> str:
    assert made.loader is not None, "the environment has one"
    return made.loader.get_source(made, name)[0]


def _policy(scripts: Sequence[str], connect: bool) -> str:
    """Return the content security policy: these scripts, inline style, and with ``connect`` the page's server."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes) or "'none'"
    own, forms = ("connect-src 'self'; ", "'self'") if connect else ("", "'none'")
    rest = f"{own}base-uri 'none'; form-action {forms}"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; {rest}"
