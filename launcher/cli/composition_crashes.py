"""Exceptions that Hydra lets through for a bad choice or option file, as one line: Hydra has no error of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from traceback import walk_tb
from types import FrameType

from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from yaml import MarkedYAMLError

from launcher.cli.options import options_of
from launcher.core.credentials import shown

COMPOSING = "load_configuration"
"""The function of Hydra's loader in which everything is composed."""
SWEEPING = "sweep_iterator"
"""The function of Hydra's that lists the values of a sweep."""
LOGGING = "configure_log"
"""The function of Hydra's that sets up logging."""
MERGING = "_compose_config_from_defaults_list"
"""The function of Hydra's in which the options are put together."""
GLOBAL = "_global_"
MAKING = frozenset({"os", "pathlib"})
"""Modules that make the folders that Hydra asks for."""
EMPTY = frozenset({"adapters", "experiment"})
"""Groups of which no option need be chosen."""


def describe_crash(error: Exception) -> str | None:
    """Return one line for an exception from Hydra's composition or logging set-up; None for any other."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if _is_of_hydra(frame)]
    names = {frame.f_code.co_name for frame in frames}
    if LOGGING in names:
        return f"hydra.verbose, hydra.job_logging, hydra.hydra_logging: Hydra cannot set up logging: {_reason(error)}"
    if SWEEPING in names:
        key = next(frame.f_locals["self"].key_or_group for frame in frames if frame.f_code.co_name == SWEEPING)
        return f"{key}: its values cannot be listed: {_reason(error)}; expected a,b,c or range(start,stop,step)"
    if COMPOSING not in names:
        return None
    subject = next(_subjects(reversed(frames)), _Subject("the configuration"))
    if subject.group is None or isinstance(error, RecursionError):
        return f"{subject.text}: {_reason(error)}"
    return f"{subject.text}: not the name of an option{_expected(subject.group)}{_owner(subject.group)}"


def _owner(group: str) -> str:
    """Say what to choose first, where a key of a group was given that no option of it was chosen for."""
    owner = group.partition(".")[0]
    options = [name for name in options_of(owner) if name != "none"] if owner != group else []
    chosen = ", ".join(f"{owner}={name}" for name in options)
    return f"; choose one of {chosen} first (launcher help {owner})" if options else ""


def describe_package(error: BaseException) -> str | None:
    """Return one line if an option was put elsewhere than its ``@package`` says: Hydra cuts it at ``_global_``."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_name != MERGING or not _is_of_hydra(frame):
            continue
        merged, repository = frame.f_locals["default"], frame.f_locals["repo"]
        for path in filter(None, (merged.config_path, merged.parent)):
            package = _package(repository, path)
            if GLOBAL in package.removeprefix(f"{GLOBAL}.") and package != GLOBAL:
                return (
                    f"{path}.yaml: @package {package}: Hydra takes {GLOBAL} in it as a keyword; "
                    f"write @package {package.replace(GLOBAL, '_globals_')}"
                )
    return None


def _package(repository: IConfigRepository, path: str) -> str:
    try:
        found = repository.load_config(path)
    except (HydraException, OSError):
        return ""
    return str((found.header.get("package") if found is not None else None) or "")


def refused_folder(error: OSError, *, swept: bool) -> str | None:
    """Return one line for a run folder that cannot be made, with the key that names it; None for another error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in MAKING]
    if error.filename is None or not ours or not _is_of_hydra(ours[-1]) or frames[-1] is ours[-1]:
        return None  # a file that Hydra reads
    key = "hydra.sweep.dir" if swept else "hydra.run.dir"
    return f"{key}: {shown(str(error.filename))}: {error.strerror}; expected a folder that can be made and written to"


@dataclass(frozen=True)
class _Subject:
    """What Hydra was reading: a file or an option, or the choice of an option in a ``group``."""

    text: str
    group: str | None = None


def _is_of_hydra(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(("hydra.", "hydra_plugins."))


def _subjects(frames: Iterator[FrameType]) -> Iterator[_Subject]:
    """Yield what the functions of Hydra were reading, from the innermost outwards."""
    for frame in frames:
        found = frame.f_locals
        source, path = found.get("self"), found.get("config_path")
        if isinstance(source, ConfigSource) and isinstance(path, str):
            yield _Subject(f"{source.path}/{source._normalize_file_name(path)}")
        elif isinstance(override := found.get("override"), Override):
            yield _Subject(shown(str(override.input_line)), override.key_or_group)
        elif isinstance(group := getattr(found.get("d"), "group", None), str):
            yield _Subject(f"{group}={shown(str(found['d'].value))}", group)
        elif isinstance(path, str):
            yield _Subject(path)


def _reason(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        hint = '; a template stands in quotes: "{{...}}"' if error.problem == "found unhashable key" else ""
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}{hint}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, RecursionError):
        return "its defaults include themselves"
    return shown(next(iter(str(error).splitlines()), "") or type(error).__name__)


def _expected(group: str) -> str:
    options = options_of(group)
    none = ", or [] for none" if group in EMPTY else ""
    return f"; expected one of {', '.join(options)}{none}" if options else ""
