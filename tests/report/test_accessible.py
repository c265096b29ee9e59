"""Every page can be read: contrast in both colour schemes, names of charts and columns, language and title."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from launcher.checkpoints.watch_record import WatchRecord
from launcher.core.types import Check
from launcher.report import page, sweep, watch
from tests.report.report_records import CHECKS, add_point, choice, first_right, mixed, report, write_samples

STYLE = files("launcher.report").joinpath("templates/style.css").read_text(encoding="utf-8")
TEXT, GRAPHIC = 4.5, 3.0
"""The least contrast of WCAG 2.1 AA for text, and for marks that carry a meaning."""


def palettes() -> dict[str, dict[str, str]]:
    """The colours of style.css by name, in both schemes."""
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)", 1)
    named = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")
    found = dict(named.findall(light))
    return {"light": found, "dark": found | dict(named.findall(dark.split("* {", 1)[0]))}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(scheme: str) -> None:
    colours = palettes()[scheme]
    paper, panel = colours["paper"], colours["panel"]
    for name, colour in colours.items():
        if name in ("ink", "soft", "accent"):
            assert min(contrast(colour, paper), contrast(colour, panel)) >= TEXT, name
        elif name.startswith("series-"):
            assert contrast(colour, paper) >= TEXT, f"{name}: its marks are text, too"
        elif name not in ("paper", "panel", "line"):
            assert min(contrast(colour, paper), contrast(colour, panel)) >= GRAPHIC, name


class Found(HTMLParser):
    """The attributes of the tags, and the text in each head of a column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.heads: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "th":
            self.heads.append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "th":
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.heads[-1] += data


@pytest.fixture
def pages(tmp_path):
    """A report, a sweep and a watch."""
    records = [*mixed(40), choice(0, True)]
    write_samples(tmp_path / "run", records)
    checks = (*CHECKS, Check("echo", False, "no", sent="{}", requests=1))
    made = [page.write(report(records, checks=checks), tmp_path / "run")]
    for number in (1, 2):
        add_point(tmp_path / "sweep", str(number), [f"x={number}"], first_right(number, 5))
        add_point(tmp_path / "watch", f"step_{number}", [], first_right(number, 5))
    sweep.write(tmp_path / "sweep")
    entries = [WatchRecord(f"step_{n}", f"/ckpt/{n}", n, float(n), "s", status="ok") for n in (1, 2)]
    watch.report(tmp_path / "watch", tmp_path, entries, over=True)
    return [*made, tmp_path / "sweep" / "sweep.html", tmp_path / "watch" / "watch.html"]


def test_pages_have_a_language_a_title_and_names(pages):
    for file in pages:
        text = file.read_text(encoding="utf-8")
        found = Found(text)
        assert ("html", {"lang": "en"}) in found.tags
        assert re.search(r"<title>[^<]+</title>", text)
        assert found.heads, "there are tables"
        assert all(head.strip() for head in found.heads), "a column without a head has no name for a screen reader"
        for tag, attributes in found.tags:
            if tag == "svg":
                assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true", file.name
            if "data-tip" in attributes:
                assert tag == "a" or attributes.get("tabindex") == "0" or tag == "circle", "a tip opens by keyboard"
