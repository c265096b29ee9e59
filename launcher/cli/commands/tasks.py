"""``launcher tasks``: list the tasks that ship, those of lm-evaluation-harness, or explain one."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path

from launcher.cli.catalogue import ITEMS, TaskOption, options
from launcher.cli.commands import parser
from launcher.core.errors import TaskError, UserError
from launcher.tasks.lm_eval import index

WIDTH = 80
LM_EVAL = "lm_eval"


def run(arguments: Sequence[str]) -> int:
    """Print what is asked for; return the exit code. Raises `UserError`."""
    asked = parser("tasks")
    asked.add_argument("words", metavar="WORD", nargs="*", help="a task's name, or lm_eval and parts of names")
    asked.add_argument("--include-path", default="", metavar="FOLDER", help="a folder of YAML files for lm-eval")
    asked.add_argument("--config-dir", default="", metavar="FOLDER", help="a folder of option files of your own")
    asked.add_argument("--json", action="store_true", help="print JSON")
    given = asked.parse_args(list(arguments))
    if given.words[:1] == [LM_EVAL]:
        return _print_lm_eval(given.words[1:], given.include_path, as_json=given.json)
    if given.words and all(word.startswith(f"{LM_EVAL}/") for word in given.words):  # as in tasks=[lm_eval/<name>]
        names = [word.removeprefix(f"{LM_EVAL}/") for word in given.words]
        return _print_lm_eval(names, given.include_path, as_json=given.json)
    known = _known(given.config_dir)
    if given.words:
        return _explain(given.words, known, given.config_dir, as_json=given.json)
    if given.json:
        print(json.dumps([_record(option) for option in known], indent=2))
    else:
        _print_all(known)
    return 0


def _known(config_dir: str) -> list[TaskOption]:
    """Return all options: those of the launcher, of other distributions, and of ``--config-dir``."""
    from launcher.cli.options import option_packages
    from launcher.core.files import conf_folder

    found = list(options(conf_folder() / "tasks"))
    for package in option_packages():
        with as_file(files(package)) as folder:
            found += options(folder / "tasks")
    if config_dir:
        if not Path(config_dir).is_dir():
            raise UserError(f"--config-dir={config_dir} is not a folder; expected one with tasks/<name>.yaml")
        found += options(Path(config_dir) / "tasks")
    return found


def _record(option: TaskOption) -> dict[str, object]:
    return {**asdict(option), "file": str(option.file), "is_demonstration": option.is_demonstration}


def _print_all(known: Sequence[TaskOption]) -> None:
    real = [option for option in known if not option.is_demonstration]
    for source in dict.fromkeys(_source(option) for option in real):
        print(f"\n{source}")
        _print_rows(option for option in real if _source(option) == source)
    print("\nDemonstrations, with items of the launcher's own")
    _print_rows(option for option in known if option.is_demonstration)
    print(f"\n{_lm_eval_line()}\nlauncher tasks NAME explains one; tasks=[NAME,NAME] asks it.")


def _source(option: TaskOption) -> str:
    """Return the heading of the options with the same data: what installs them, or where they are."""
    where = option.data.partition(" (")[0].partition(";")[0]
    return f"Data: {where}{' (not installed here)' if option.missing else ''}"


def _print_rows(rows: Iterable[TaskOption]) -> None:
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, 120)
    shown = list(rows)
    names = max((len(option.name) for option in shown), default=0)
    for option in shown:
        about = ITEMS.sub("", option.about).rstrip(".") + (f" [{option.licence}]" if option.licence else "")
        first = f"  {option.name:<{names}} {option.items:>6} {option.kind:<10} "
        print(textwrap.fill(about or "-", width, initial_indent=first, subsequent_indent=" " * len(first)))


def _lm_eval_line() -> str:
    try:
        found = index.read()
    except TaskError as error:
        return f"tasks=[lm_eval/NAME] asks any task of lm-evaluation-harness, but {error}."
    return (
        f"lm-evaluation-harness {index.version()}: {len(found.tasks):,} tasks and {len(found.groups):,} groups.\n"
        "tasks=[lm_eval/NAME] asks one; launcher tasks lm_eval WORD searches their names."
    )


def _print_lm_eval(words: Sequence[str], include_path: str, *, as_json: bool) -> int:
    """Print the names of lm-eval that have all words in them. Raises `UserError`."""
    known = index.read(include_path)
    kinds = {"tasks": sorted(known.tasks), "groups": sorted(known.groups), "tags": sorted(known.tags)}
    wanted = [word.lower() for word in words]
    found = {kind: [n for n in names if all(word in n.lower() for word in wanted)] for kind, names in kinds.items()}
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    if not any(found.values()):
        like = get_close_matches(" ".join(words), known.names(), 5)
        raise UserError(f"tasks lm_eval {' '.join(words)}: no name of lm-eval has that in it{_hint(like)}")
    for kind, names in found.items():
        if names:
            print(f"{len(names):,} {kind if len(names) > 1 else kind[:-1]}")
            print("".join(f"  {name}\n" for name in names), end="")
    return 0


def _explain(words: Sequence[str], known: Sequence[TaskOption], config_dir: str, *, as_json: bool) -> int:
    """Print all about the named options, or those with all words in name or description. Raises `UserError`."""
    named = [option for option in known if option.name in words]
    if len({option.name for option in named}) < len(words):
        text = {option.name: f"{option.name} {option.about}".lower() for option in known}
        found = [option for option in known if all(word.lower() in text[option.name] for word in words)]
        if not found:
            like = get_close_matches(words[0], [option.name for option in known], 3)
            raise UserError(f"tasks {' '.join(words)}: no such task{_hint(like)}; launcher tasks lists them")
        named = found
    if as_json:
        print(json.dumps([_record(option) for option in named], indent=2))
    elif len(named) > 1:
        _print_rows(named)
    else:
        _print_one(named[0], config_dir)
    return 0


def _print_one(option: TaskOption, config_dir: str) -> None:
    print(f"{option.name}: {option.about or 'a comment in its option file would say what it measures'}")
    if option.notes:
        print("\n" + textwrap.fill(" ".join(option.notes), WIDTH))
    if option.data:
        print(f"\nData: {option.data}{', which is not installed here' if option.missing else ''}")
    print(f"\nOption file {option.file}:\n")
    lines = option.file.read_text(encoding="utf-8").splitlines()
    print("\n".join(f"  {line}" for line in lines if not line.startswith("#")))
    asked = f"launcher {f'--config-dir={config_dir} ' if config_dir else ''}tasks=[{option.name}]"
    print(f"\n{asked} asks it; tasks.{option.name.replace('/', '_')}.<key>=<value> changes a key")
    print(f"({asked} --cfg job --package tasks prints all keys).")


def _hint(like: Sequence[str]) -> str:
    return f" (did you mean {', '.join(like)}?)" if like else ""
