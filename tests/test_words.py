"""The lint of the project's English finds each planted fault, and leaves code alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "words.py"
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen " + (
    "eighteen nineteen twenty alpha beta gamma delta epsilon zeta"
)


@pytest.fixture(scope="module")
def words() -> Any:
    spec = importlib.util.spec_from_file_location("words", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(words: Any, folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text)
    return list(words.findings(folder / name, name))


def test_every_word_of_the_list_is_found_in_every_kind_of_text(words: Any, tmp_path: Path) -> None:
    for word in words.FORBIDDEN:
        sentence = f"Here {word} stands."
        for name, text in {
            "docstring.py": f'"""{sentence}"""\n',
            "comment.py": f"x = 1  # {sentence}\n",
            "message.py": f'raise ValueError(f"{sentence} {{x}}")\n',
            "page.md": f"# Title\n\n{sentence.title()}\n",
            "row.md": f"| a | {sentence} |\n",
            "options.yaml": f"# {sentence}\nkey: 1\n",
        }.items():
            (line,) = found(words, tmp_path, name, text)
            assert word in line.lower(), name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docstring.py", f'"""Short.\n\n{LONG}.\n"""\n'),
        ("function.py", f'def f() -> None:\n    """{LONG}."""\n'),
        ("comment.py", f"# {LONG[:55]}\n# {LONG[56:]}.\n"),
        ("page.md", f"{LONG}.\n"),
        ("list.md", f"- short\n- {LONG}.\n"),
        ("row.md", f"| {LONG}. | b |\n"),
        ("options.toml", f"# {LONG}.\n"),
    ],
)
def test_a_long_sentence_is_found(words: Any, tmp_path: Path, name: str, text: str) -> None:
    (line,) = found(words, tmp_path, name, text)
    assert "a sentence of 26 words, the most is 25" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fence.md", f"```bash\n# {LONG}.\nfor nobody in anew; do {LONG}; done\n```\n"),
        ("span.md", f"A short line with `{LONG}` in it.\n"),
        ("word_in_a_span.md", "The option `in vain` of `nobody` exists.\n"),
        ("several.md", "One two three. " * 30 + "\n"),
        ("list.md", "".join(f"- item {number} has four words\n" for number in range(20))),
        ("literal.py", f'TEXT = "{LONG}"\n'),
        ("span.py", f'"""Short, with ``{LONG}``."""\n'),
        ("names.py", "nobody = anew = 1\nheeded = nobody\n"),
        ("parts.md", "The word-anew and somebody-whoever are parts of other words.\n"),
    ],
)
def test_code_and_short_sentences_are_left_alone(words: Any, tmp_path: Path, name: str, text: str) -> None:
    assert found(words, tmp_path, name, text) == []


def test_a_retired_name_is_found_in_names_and_code_spans(words: Any, tmp_path: Path) -> None:
    (line,) = found(words, tmp_path, "class.py", "class RollCallServer:\n    pass\n")
    assert line.startswith("class.py:1: 'roll call': a retired name; write 'heartbeat'")
    assert found(words, tmp_path, "name.py", "x = 1\nroll_calls = x\n")[0].startswith("name.py:2:")
    assert len(found(words, tmp_path, "page.md", "The module `outbox` and its `crew`.\n")) == 2


def test_the_program_names_file_and_line_and_fails(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "page.md").write_text("Fine.\n\nIt starts anew.\n")
    (tmp_path / "untracked.md").write_text("It starts anew.\n")
    subprocess.run(["git", "add", "page.md"], cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "page.md:3: 'anew': write 'again'\n")
    (tmp_path / "page.md").write_text("Fine.\n")
    assert subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True).returncode == 0
