"""Values of secrets that the program has read are in nothing that it writes."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core import redaction
from launcher.core.errors import UserError
from launcher.core.files import append, replace

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=redaction.MIN_LENGTH)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    redaction.forget()
    yield
    redaction.forget()


@given(TEXTS)
def test_every_spelling_of_a_value_is_redacted(value: str) -> None:
    redaction.forget()
    redaction.hide(value, "MY_KEY")
    for spelled in (value, json.dumps(value), json.dumps(value, ensure_ascii=False), html.escape(value), quote(value)):
        bare = spelled.removeprefix('"').removesuffix('"') if spelled.startswith('"') and spelled != value else spelled
        assert bare not in redaction.redact(f"<<{spelled}>>").replace("[redacted: MY_KEY]", "")
    assert json.loads(redaction.redact(json.dumps({"said": f"<<{value}>>"})))


def test_a_variable_is_read_when_it_is_needed_and_hidden_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HEADER", "Bearer abcdef123")
    assert redaction.redact("abcdef123") == "abcdef123"
    assert redaction.reveal("MY_HEADER", "key") == "Bearer abcdef123"
    assert redaction.redact("they said: abcdef123") == "they said: [redacted: MY_HEADER]"
    assert redaction.redact_json({"a": ["Bearer abcdef123", 1], "abcdef123": None}) == {
        "a": ["[redacted: MY_HEADER]", 1],
        "[redacted: MY_HEADER]": None,
    }
    monkeypatch.delenv("MY_HEADER")
    with pytest.raises(UserError, match="key=MY_HEADER: this environment variable is not set"):
        redaction.reveal("MY_HEADER", "key")


def test_short_values_are_left_alone() -> None:
    redaction.hide("a", "MY_KEY")
    assert redaction.redact("a cat") == "a cat"


def test_files_are_written_without_them(tmp_path: Path) -> None:
    redaction.hide("abcdef123", "MY_KEY")
    assert replace(tmp_path / "a", "it is abcdef123").read_text() == "it is [redacted: MY_KEY]"
    assert replace(tmp_path / "b", [b"1 abcdef123\n", b"2\n"]).read_bytes() == b"1 [redacted: MY_KEY]\n2\n"


def test_a_log_of_what_others_say_is_its_owners_only(tmp_path: Path) -> None:
    append(tmp_path / "server.log").close()
    assert (tmp_path / "server.log").stat().st_mode & 0o777 == 0o600
    shared = tmp_path / "shared.log"
    shared.touch(0o644)
    append(shared).close()
    assert shared.stat().st_mode & 0o777 == 0o644, "what its owner has opened to others stays so"
