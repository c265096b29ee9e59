"""Script that opens and tries one tokenizer file within limits, in a process that can be killed.

The libraries are written in Rust and C++. A file can make them panic, never return or take all memory. The script
imports only the standard library and the library that reads the file, so that it starts fast.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GROWTH = 256
"""A text may become so many times longer in a pipeline; T5's, one of the most, makes one byte 33."""
SURROUND = 1024
"""A tokenizer may put so many tokens around a text."""
LONGEST = 4096
"""Characters of the longest text that is tried, a few milliseconds of work."""
REPEATED = 64
"""Equal characters on which a pattern with exponential backtracking does not end."""
PATTERN = 10_000
"""Characters of a pattern; the longest of known models have some five hundred."""
COPIES = 64
"""The address space that opening takes, as a multiple of the file's size."""
SHOWN = 200

FACTORS = {
    "NFC": 3, "NFD": 4, "NFKC": 11, "NFKD": 11, "Precompiled": 11, "Nmt": 1, "Lowercase": 2, "BertNormalizer": 4,
    "ByteLevel": 2, "Metaspace": 3,
}  # fmt: skip
"""How many bytes a stage makes of one at most, by Unicode's tables."""
TEXTS = ("", "a", "The quick brown fox, 12 naïve cafés.\n\n  世界 🙂👍🏽\t e", "\x00\ufdfa\u0344\u1e9e")


class Refused(Exception):
    """A tokenizer that cannot be served, for the reason in the message."""


def refuse_growth(spec: Mapping[str, Any]) -> None:
    """Raise `Refused` for stages that together make a text far longer, and for patterns that match nothing."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        factor = 1.0
        for stage in _stages(spec.get(name)):
            factor *= _factor(stage, name)
            if factor > GROWTH:
                raise Refused(f"{name} makes a text more than {GROWTH} times longer")


def _stages(stage: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a stage, which may be absent, one, or a sequence."""
    if not isinstance(stage, dict):
        return
    if stage.get("type") == "Sequence":
        for key in ("normalizers", "pretokenizers", "decoders"):
            for each in stage.get(key) or ():
                yield from _stages(each)
    else:
        yield stage


def _factor(stage: Mapping[str, Any], name: str) -> float:
    if stage.get("type") != "Replace":
        return 1 if name == "decoder" else FACTORS.get(str(stage.get("type")), 1)
    pattern, content = stage.get("pattern"), len(str(stage.get("content")).encode("utf-8", "replace"))
    text = pattern.get("String") if isinstance(pattern, dict) else pattern
    if text == "":
        raise Refused(f"{name} replaces the empty text")
    return max(1.0, content / (1 if text is None else len(str(text).encode("utf-8", "replace"))))


def patterns(spec: Any) -> Iterator[str]:
    """Yield the patterns of a pipeline, in whichever part they are."""
    for key, value in spec.items() if isinstance(spec, dict) else enumerate(spec if isinstance(spec, list) else ()):
        if key in ("Regex", "String") and isinstance(value, str):
            yield value
        elif key not in ("model", "added_tokens"):
            yield from patterns(value)


def texts(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is tried: plain texts, and repetitions of the characters that the patterns name."""
    yield from TEXTS
    named = list(patterns(spec))
    if any(len(pattern) > PATTERN for pattern in named):
        raise Refused(f"a pattern has more than {PATTERN} characters")
    characters = dict.fromkeys("a A1.\n" + "".join(named))
    for character in list(characters)[:200]:
        yield character * REPEATED
        yield character * REPEATED + "\x01"
    for character in "a 1\n":
        yield character * LONGEST
    yield from (pattern[:LONGEST] for pattern in named[:200])


def try_json(file: Path) -> None:
    """Open a ``tokenizer.json`` and encode texts. Raises `Refused`, or what the library raises."""
    from tokenizers import Tokenizer

    spec = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(spec, dict):
        refuse_growth(spec)
    backend = Tokenizer.from_file(str(file))
    backend.no_truncation()
    backend.no_padding()
    plain, full = (backend.encode(TEXTS[2], add_special_tokens=special).ids for special in (False, True))
    around = len(full) - len(plain)
    if not plain or not any(full[at : at + len(plain)] == plain for at in range(min(around, SURROUND) + 1)):
        raise Refused("it leaves out the text, or its post_processor changes it")
    if around > SURROUND:
        raise Refused(f"it puts {around} tokens around a text (expected at most {SURROUND})")
    for text in texts(spec):
        ids = backend.encode(text.encode("utf-8", "replace").decode()).ids
        backend.decode(ids[:LONGEST])


def try_sentencepiece(file: Path) -> None:
    """Open a SentencePiece model and encode texts."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    for text in texts({}):
        model.decode(model.encode(text))


def tried(file: Path) -> str | None:
    """Return why a file cannot be served, None if it can."""
    try:
        (try_json if file.suffix == ".json" else try_sentencepiece)(file)
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        return "it takes too much memory"
    except BaseException as error:  # a panic of Rust is no Exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0][:SHOWN]
    return None


def main() -> None:
    """Try the file that the first argument names; the others bound seconds of computing and bytes of memory."""
    file, cpu_s, memory = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's, which ends this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory + COPIES * file.stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    sys.stdout.write(json.dumps({"error": tried(file)}))


if __name__ == "__main__":
    main()
