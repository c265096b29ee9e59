"""Hold the project's English: no word of a short list, no retired name, and no sentence of more than 25 words.

It reads the docstrings, comments, messages and names of Python files, the prose of Markdown and the comments of YAML:

    python .ci/words.py [PATH ...]      # all tracked files, or those under the paths; exit status 1 with findings
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

LONGEST = 25
WORDS = {
    "nobody": "name who, or write 'no client', 'no process'",
    "whoever": "name who",
    "whatever": "name what, or write 'any'",
    "meanwhile": "write 'during X' or 'while X'",
    "anew": "write 'again'",
    "in vain": "write 'without effect' or 'inactive'",
    "for ever": "write 'indefinitely' or 'without a timeout'",
    "accepted is": "write 'must be' or 'expected'",
    "accepted are": "write 'expected one of'",
    "heed": "write 'follow' or 'check'",
    "hears of": "write 'is notified of'",
    "hear of": "write 'be notified of'",
}
RETIRED = {
    "keeper": "supervisor",
    "crew": "workers",
    "roll call": "heartbeat",
    "sign of life": "heartbeat",
    "undertaker": "cleanup process",
    "outbox": "output buffer",
    "scout": "checkpoint watcher",
    "sighting": "checkpoint state",
    "ledger": "run record",
    "follower": "worker",
    "meeting": "rendezvous",
    "absorb": "postprocess",
}
"""Names that the code had once, with the field's term: they must not come back, neither in prose nor as a name."""
FORBIDDEN = WORDS | {name: f"a retired name; write '{term}'" for name, term in RETIRED.items()}
BANNED = re.compile(r"(?<![\w'-])(" + "|".join(FORBIDDEN) + r")s?(?![\w'-])", re.IGNORECASE)
CODE_SPAN = re.compile(r"``?[^`]+``?")
# These quote the words on purpose.
EXEMPT = {".ci/words.py", "tests/test_words.py", "CONTRIBUTING.md"}
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".sh"}

Text = tuple[int, str, bool]  # line, text, whether sentences are counted


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a paragraph; a code span, a link or a path is one word."""
    text = CODE_SPAN.sub("CODE", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    yield from re.split(r"(?<=[.!?])[)\"'*_]*\s+(?=\S)|\n\s*\n", text)


def words(sentence: str) -> int:
    """Count the words of a sentence; a number or a mark that stands alone is none."""
    return len(re.findall(r"[A-Za-z][\w'/.=+-]*", sentence))


def paragraphs(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Yield blocks of lines that belong together. List items and rows stand alone; headings and code are left out."""
    block: list[str] = []
    start, fenced = first, False
    for number, line in enumerate(text.splitlines(), first):
        bare = line.strip()
        if bare.startswith(("```", "~~~")):
            fenced = not fenced
        alone = (
            not bare or fenced or bare.startswith(("```", "~~~", "|", "#", ">>>", "!!!")) or line.startswith("    " * 2)
        )
        if alone or re.match(r"([-*+]|\d+\.)\s", bare):
            if block:
                yield start, " ".join(block)
            block = []
        if bare.startswith("|") and not fenced:
            yield from ((number, cell) for cell in bare.strip("|").split("|"))
        if alone:
            continue
        start = start if block else number
        block.append(bare)
    if block:
        yield start, " ".join(block)


def python_texts(source: str) -> Iterator[Text]:
    """Yield docstrings and comments, whose sentences are counted, and other strings, of which only words count."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            yield from (
                (line, text, True) for line, text in paragraphs(ast.get_docstring(node) or "", node.body[0].lineno)
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, False
    yield from comments(source)
    yield from names(source)


def names(source: str) -> Iterator[Text]:
    """Yield the retired words of names: those of ``RollCallServer`` and ``roll_call_server`` are 'roll call'."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", token.string)
            found = re.search(rf"\b({'|'.join(RETIRED)})s?\b", " ".join(parts).lower())
            if found:
                yield token.start[0], found[0], False


def comments(source: str) -> Iterator[Text]:
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("#!", "# type:", "# noqa")):
            continue
        if block and token.start[0] != last + 1:
            yield start, " ".join(block), True
            block = []
        start, last = start if block else token.start[0], token.start[0]
        block.append(token.string.lstrip("#: "))
    if block:
        yield start, " ".join(block), True


def hash_comments(source: str) -> Iterator[Text]:
    block: list[str] = []
    start = 1
    for number, line in enumerate([*source.splitlines(), ""], 1):
        found = re.match(r"\s*#\s?(.*)|.*\s#\s(.*)", line)
        whole = bool(found and found[1] is not None)
        if block and not whole:
            yield start, " ".join(block), True
            block = []
        if found:
            start = start if block else number
            block.append(found[1] or found[2] or "")
    if block:
        yield start, " ".join(block), True


def texts(path: Path) -> Iterator[Text]:
    source = path.read_text()
    if path.suffix == ".py":
        return python_texts(source)
    if path.suffix == ".md":
        return ((line, text, True) for line, text in paragraphs(source, 1))
    return hash_comments(source)


def banned(text: str) -> Iterator[str]:
    """Yield the words of the list, apart from those in a code span: there, only a retired name is a fault."""
    yield from BANNED.findall(CODE_SPAN.sub("CODE", text))
    for span in CODE_SPAN.findall(text):
        yield from (found for found in BANNED.findall(span) if found.lower() in RETIRED)


def findings(path: Path, name: str) -> Iterator[str]:
    seen = set()
    for line, text, counted in texts(path):
        for found in banned(text):
            if (line, found) not in seen:
                seen.add((line, found))
                yield f"{name}:{line}: {found!r}: {FORBIDDEN[found.lower()]}"
        for sentence in sentences(text) if counted else ():
            if (count := words(sentence)) > LONGEST:
                yield f"{name}:{line}: a sentence of {count} words, the most is {LONGEST}: {sentence.strip()[:90]!r}"


def tracked(under: list[str]) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *under], check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if Path(name).suffix in SUFFIXES and name not in EXEMPT and Path(name).is_file()]


def main() -> int:
    found = [finding for name in tracked(sys.argv[1:]) for finding in findings(Path(name), name)]
    print("\n".join(found) or "words: no findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
