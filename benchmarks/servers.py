"""Compare scores and texts of one checkpoint behind the launcher's own engine and behind other servers.

    python benchmarks/servers.py --program vllm="/opt/vllm/bin/vllm serve" \\
        --program llama_cpp="/opt/llama/bin/python -m llama_cpp.server" [--model FOLDER] [--output docs/servers.md]

Each server is started as a user does, by its ready-made backend, which converts the checkpoint where it must. It
computes in fp32 and is asked the shipped tasks: choices where it returns log-probabilities of a prompt, and greedy
texts. ``transformers serve`` is that of this environment; a server whose program is missing is left out. ``--output``
replaces the table in a file, between the two comments that name this program.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from launcher.core.run_folder import RunFolder  # noqa: E402
from launcher.core.types import Record  # noqa: E402

BEGIN, END = "<!-- benchmarks/servers.py -->", "<!-- end -->"
CHOICES, TEXTS = ("capitals",), ("addition", "sequences")
NO_STOP = "validate.skip=[stop_trimmed,stop_list]"
"""transformers keeps the stop string at the end of a text, which is cut off here."""
HEAD = (
    "| server | version | type | capitals: acc | choices equal | log-likelihoods differ by | addition | sequences | "
    "texts equal |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Server:
    """A backend to start, with its settings; ``echoes`` says that it returns log-probabilities of prompts."""

    backend: str
    settings: tuple[str, ...] = ()
    echoes: bool = True


SERVERS = (
    Server("inline", ("engine=megatron",)),
    Server("vllm", ('backend.arguments="--enforce-eager --kv-cache-memory-bytes 1G"',)),
    Server("transformers_serve", (NO_STOP,), echoes=False),
    Server("llama_cpp", echoes=False),
)


def run(server: Server, program: str | None, model: str | None, folder: Path) -> Path | None:
    """Evaluate behind a server; return the run folder, or None if its program is not here."""
    tasks = TEXTS if not server.echoes else (*CHOICES, *TEXTS)
    command = [
        *(sys.executable, "launch.py", f"backend={server.backend}", f"tasks=[{','.join(tasks)}]"),
        *("optimizations.dtype=fp32", f"hydra.run.dir={folder / server.backend}", *server.settings),
        *([f"backend.program={json.dumps(program)}"] if program else ()),
        *([f"model.path={model}"] if model else ()),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return folder / server.backend
    print(f"{server.backend}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return None


def records(folder: Path) -> dict[str, Record]:
    return {record.key: record for record in RunFolder(folder).records()}


def text(record: Record) -> str:
    """Return the generated text up to the first stop string, which some servers keep."""
    said = record.responses[0]["choices"][0]["text"]
    return re.split("|".join(map(re.escape, record.requests[0]["body"]["stop"])), said)[0]


def row(server: Server, folder: Path, ours: Mapping[str, Record]) -> str:
    results = json.loads((folder / "results.json").read_text())
    theirs, engine = records(folder), results["engine"]
    scores = {task: next(iter(found["metrics"].values()))["value"] for task, found in results["tasks"].items()}
    choices = [key for key in theirs if key.split("/")[0] in CHOICES]
    texts = [key for key in theirs if key.split("/")[0] in TEXTS]
    same = sum(theirs[key].prediction["index"] == ours[key].prediction["index"] for key in choices)
    apart = [
        abs(a - b)
        for key in choices
        for a, b in zip(*(found[key].prediction["loglikelihoods"] for found in (theirs, ours)), strict=True)
    ]
    cells: list[Any] = [
        f"`backend={server.backend}`",
        engine.get("version", "this one"),
        engine.get("dtype", "of the file"),
        f"{scores['capitals']:.4f}" if choices else "-",
        f"{same} of {len(choices)}" if choices else "-",
        (f"{max(apart):.1e}" if max(apart) else "0") if apart else "-",
        *(f"{scores[task]:.4f}" for task in TEXTS),
        f"{sum(text(theirs[key]) == text(ours[key]) for key in texts)} of {len(texts)}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def table(programs: Mapping[str, str], model: str | None, folder: Path) -> str:
    lines, ours = [HEAD], dict[str, Record]()
    for server in SERVERS:
        if (found := run(server, programs.get(server.backend), model, folder)) is not None:
            ours = ours or records(found)
            lines.append(row(server, found, ours))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", action="append", default=[], metavar="BACKEND=COMMAND")
    parser.add_argument("--model", help="the checkpoint; by default the shipped one")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = table(dict(each.split("=", 1) for each in given.program), given.model, Path(folder))
    print(made)
    if given.output is not None:
        before, after = given.output.read_text().split(BEGIN)
        given.output.write_text(f"{before}{BEGIN}\n{made}\n{END}{after.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
