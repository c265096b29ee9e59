"""Write the pages that are made from code and from decisions; ``--check`` only compares them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from launcher.adapters.base import Adapter, Part
from launcher.backends.preset import TELEMETRY, Preset
from launcher.backends.server_program import SETTINGS
from launcher.cli.setting_help import OWN_DEFAULTS, Setting, inner_groups, settings_of
from launcher.core.errors import CoverageTooLow, UserError, ValidationFailed
from launcher.core.files import conf_folder
from launcher.pipeline.config import Mode, Run
from launcher.settings.component import COMPONENTS
from launcher.tasks.group import Group
from launcher.validate.certificate import CHECKS
from launcher.validate.check import Family

DOCS = Path(__file__).parent
HEAD = """# Configuration reference

Generated from the schemas by `docs/generate.py`; do not edit. Any key is overridden on the command line as
`group.key=value`, for instance `evaluate.concurrency=32`; a key of an adapter or a task is `adapters.<name>.<key>`.
"""

CHECKS_HEAD = """# Checks and planted faults

Generated from `launcher/validate/` and `tests/validate/faults.py` by `docs/generate.py`; do not edit.
[The certificate](certificate.md) explains what the columns mean.

The tests plant each fault into a right server, which passes all checks. Every check named beside a fault must find it.
"""

FLAGS_HEAD = """# Flags of ready-made servers

Generated from `launcher/backends/` by `docs/generate.py`; do not edit. [Other servers](servers.md#ready-made) explains
what they do.

A setting without a flag in a column is refused there if it differs from its default. `model.peft` is merged into the
weights before, and needs no flag.
"""

FLAG_LISTS_HEAD = """
Tests walk every combination of these settings. Each command must be one that all listed versions accept: no unknown
flag, no value too many or too few, none of a wrong type. `make flags SERVER=vllm PYTHON_OF=/opt/vllm/bin/python` reads
the list of another version from its package.

| server | version | options | read on | from |
|---|---|---|---|---|"""

DECISIONS = """# Decisions

A decision with an alternative gets a record: context, decision, and what was rejected. Records are numbered in the
order of their writing. A decision that replaces an older one says so in both records. `docs/generate.py` writes this
index.

| number | decision | date | status |
|---|---|---|---|"""


def main() -> None:
    pages = {
        "reference.md": reference(),
        "modules.md": modules(),
        "checks.md": checks(),
        "decisions/index.md": decisions(),
        "server_flags.md": server_flags(),
    }
    pages |= {f"adapters/{name}.md": adapter(name, cls) for name, cls in adapters()}
    for name, lines in pages.items():
        target, text = DOCS / name, "\n".join(lines) + "\n"
        if "--check" not in sys.argv:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            sys.exit(f"docs/{name} is out of date: run .venv/bin/python docs/generate.py")


def server_flags() -> Iterator[str]:
    yield FLAGS_HEAD
    servers = {path.removeprefix("backend/"): cls.server for path, cls in COMPONENTS.items() if issubclass(cls, Preset)}
    yield f"| setting | {' | '.join(f'`backend={name}`' for name in sorted(servers))} |"
    yield f"|---|{'---|' * len(servers)}"
    for setting, key in SETTINGS.items():
        cells = [f"`{flag}`" if (flag := servers[name].flags.get(setting)) else "" for name in sorted(servers)]
        yield f"| `{key}` | {' | '.join(cells)} |"
    yield "\n| server | also gets | environment | ran here | installed by | note |\n|---|---|---|---|---|---|"
    for name, server in sorted(servers.items()):
        also = [f"`{' '.join(server.always)}`"] if server.always else []
        also += [f"on a GPU `{' '.join(server.on_gpu)}`"] if server.on_gpu else []
        environment = " ".join(f"`{key}={value}`" for key, value in (TELEMETRY | dict(server.environment)).items())
        row = [f"`backend={name}`", ", ".join(also), environment, server.tried, server.install, server.note]
        yield f"| {' | '.join(row)} |"
    yield FLAG_LISTS_HEAD
    for file in sorted((DOCS.parent / "tests" / "backends" / "flags").glob("*.json")):
        of = json.loads(file.read_text())
        yield f"| `backend={of['server']}` | {of['version']} | {len(of['options'])} | {of['read']} | {of['source']} |"


def modules() -> Iterator[str]:
    yield "# Modules\n\nGenerated from the modules' docstrings by `docs/generate.py`; do not edit.\n"
    yield "| module | what it is |\n|---|---|"
    root = DOCS.parent
    for file in sorted((root / "launcher").rglob("*.py")):
        first = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0]
        yield f"| `{file.relative_to(root)}` | {_cell(first)} |"


def checks() -> Iterator[str]:
    """The checks of the certificate by family, and the planted faults that they find."""
    yield CHECKS_HEAD
    faults = _faults()
    for family in Family:
        members = [check for check in CHECKS if check.family is family]
        yield f"## {family.value.capitalize()}\n\n| check | id | severity | needs | passes if |\n|---|---|---|---|---|"
        for check in members:
            needs = check.need.value.replace("_", " ")
            yield f"| `{check.name}` | `{check.id}` | {check.severity.value} | {needs} | {_cell(check.expected)} |"
        yield "\n| check | a failure means | to set |\n|---|---|---|"
        yield from (f"| `{check.name}` | {_cell(check.effect)} | {_cell(check.remedy)} |" for check in members)
        yield "\n| planted fault | found by |\n|---|---|"
        ids = {check.id for check in members}
        for fault in faults:
            if fault.checks[0] in ids:
                mark = " (seen in another server)" if fault.peers else ""
                yield f"| {fault.what}{mark} | {', '.join(f'`{id}`' for id in fault.checks)} |"
        yield ""


def _faults() -> list[Any]:
    """Return the faults of the tests, whose module imports nothing of the launcher."""
    spec = importlib.util.spec_from_file_location("faults", DOCS.parent / "tests" / "validate" / "faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["faults"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[Any] = module.FAULTS
    return found


def decisions() -> Iterator[str]:
    yield DECISIONS
    for file in sorted((DOCS / "decisions").glob("0*.md")):
        head = re.match(r"# (?P<title>.+)\n\n(?P<date>\d{4}-\d\d-\d\d), (?P<status>.+)\.\n", file.read_text())
        if head is None:
            sys.exit(f"{file.name}: must begin with '# Title', an empty line, and 'YYYY-MM-DD, status.'")
        yield f"| {file.name[:4]} | [{head['title']}]({file.name}) | {head['date']} | {head['status']} |"


def adapters() -> Iterator[tuple[str, type[Adapter]]]:
    """Yield the adapters of this program by their names."""
    for path, cls in sorted(COMPONENTS.items()):
        if cls.__module__.startswith("launcher.adapters.") and issubclass(cls, Adapter):
            yield path.removeprefix("adapters/"), cls


def adapter(name: str, cls: type[Adapter]) -> Iterator[str]:
    """The page of an adapter: what it does, when to use it, an example, its options, and what it touches."""
    summary, *paragraphs = _doc(cls).split("\n\n")
    use, example = use_and_example(cls)
    use = " ".join(use.split())
    yield f"# {name}\n\nGenerated from its docstring and fields by `docs/generate.py`; do not edit.\n\n{summary}\n"
    yield f"{use}\n\n```bash\n{example}\n```\n"
    yield from (f"{paragraph}\n" for paragraph in paragraphs[:-2])
    rows = list(_rows(settings_of(cls, f"adapters.{name}."), units=True))
    if rows:
        yield "## Options\n\n| option | type | unit | range | default |\n|---|---|---|---|---|"
        yield from (*rows, "")
    yield f"## What it touches\n\n{_touched(cls)}\n"
    yield "[All adapters](../adapters.md) · [How adapters are written](../extending.md#an-adapter)"


def use_and_example(cls: type[Adapter]) -> tuple[str, str]:
    """Return the last two paragraphs of an adapter's docstring, which say when to use it, and show a command."""
    *_, use, example = (inspect.getdoc(cls) or "").split("\n\n")
    shown = re.fullmatch(r"Example: ``(python launch\.py .*)``", " ".join(example.split()))
    if shown is None or not use.startswith("Use it "):
        sys.exit(f"{cls.__name__}: its docstring must end with 'Use it ...' and 'Example: ``python launch.py ...``'")
    return use.replace("``", "`"), shown[1]


def _touched(cls: type[Adapter]) -> str:
    if "self.reads" in inspect.getsource(cls):
        touched = "What it reads depends on its options."
    else:
        changed = f", and changes {_parts(cls.rewrites)}" if cls.rewrites else ", and changes nothing of it"
        touched = f"It reads {_parts(cls.reads)}{changed if cls.reads else ''}."
    if cls.observer:
        return f"{touched} It is an observer: what goes wrong in it is counted, and fails no request."
    can = "can change answers, so a run is resumed with the same ones only"
    return f"{touched} Its options {can if cls.changes_answers else 'cannot change an answer'}."


def _parts(parts: Part) -> str:
    named = {Part.request: "requests", Part.answer: "whole answers", Part.events: "the events of streams"}
    names = [name for part, name in named.items() if part in parts]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "no body"


UNITS = {"_s": "seconds", "_gib": "GiB", "_mb": "MiB", "_per_minute": "per minute", "_chars": "characters"}
"""The unit of an option by the end of its name."""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def reference() -> Iterator[str]:
    yield HEAD
    yield f"## The run\n\n{_doc(Run)}\n"
    yield from table(Run, deep=False)
    yield f"\n`mode`: {_doc(Mode)}\n"
    yield f"### groups.<name>\n\n{_doc(Group)}\n"
    yield from table(Group)
    yield "\n## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | all good |"
    for error in (UserError, ValidationFailed, CoverageTooLow):
        yield f"| {error.exit_code} | {_doc(error)} |"
    yield "| 4, 5 | `launcher gate` says NO-GO, INCONCLUSIVE (see [Verdicts](verdicts.md)). |"
    yield "| 130 | Interrupted; what was done is kept, and `resume=<run folder>` continues it. |\n"
    for group in sorted({path.rsplit("/", 1)[0] for path in COMPONENTS}):
        yield from section(group)


def section(group: str) -> Iterator[str]:
    """One config group: its option files, then every component that they can be."""
    options = sorted(p.stem for p in (conf_folder() / group).glob("*.yaml"))
    listed = fill(", ".join(f"{group}={option}" for option in options), 120, break_on_hyphens=False)
    yield f"## {group}\n\nOptions:\n\n```text\n{listed}\n```\n"
    for path, cls in sorted(COMPONENTS.items()):
        if path.rsplit("/", 1)[0] == group:
            yield f"### {path}\n\n{_doc(cls)}\n"
            yield from table(cls)
            yield ""
            yield from (f"{_doc(each)}\n" for each in inner_groups(cls) if each not in COMPONENTS.values())


def table(cls: type, *, deep: bool = True) -> Iterator[str]:
    rows = list(_rows(settings_of(cls, deep=deep)))
    if rows:
        yield "| key | type | range | default |\n|---|---|---|---|"
        yield from rows


def _rows(settings: Iterable[Setting], *, units: bool = False) -> Iterator[str]:
    for each in settings:
        unit = f" | {_unit(each.key)}" if units else ""
        default = each.default if each.default in ("required", OWN_DEFAULTS) else f"`{each.default}`"
        yield f"| `{each.key}` | {_cell(each.type)}{unit} | {each.range} | {default} |"


def _unit(name: str) -> str:
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


def _doc(cls: type) -> str:
    return (inspect.getdoc(cls) or "").replace("``", "`")


if __name__ == "__main__":
    main()
