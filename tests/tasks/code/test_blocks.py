from __future__ import annotations

import pytest

from launcher.tasks.code.blocks import Code, program


@pytest.mark.parametrize(
    ("answer", "first", "last"),
    [
        ("Sure:\n```python\nx = 1\n```\nIt prints:\n```\n1\n```", "x = 1\n", "1\n"),
        ("```py\nx\n```\n```bash\nrm x\n```", "x\n", "x\n"),
        ("```Python\nx", "x\n", "x\n"),
        ("~~~\nx\n~~~", "x\n", "x\n"),
        ("1. So:\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y\n", "if x:\n    y\n"),
        ('````python\ns = """\n```\n"""\n````', 's = """\n```\n"""\n', 's = """\n```\n"""\n'),
        ('```python\r\nx\r\n```', "x\n", "x\n"),
        ("no code at all", None, None),
        ("```bash\nls\n```", None, None),
        ("```python\n```", None, None),
    ],
)  # fmt: skip
def test_a_block_is_found(answer: str, first: str | None, last: str | None) -> None:
    assert program(answer, Code.first_block) == first
    assert program(answer, Code.last_block) == last
    assert program(answer, Code.all) == answer
