"""Hydra's composition errors as one line that names the key, the value and what works instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, EnumNode, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from launcher.cli import option_file_errors
from launcher.cli.composition_crashes import describe_package
from launcher.cli.hints import for_key, for_model, for_option, for_override, model_path
from launcher.cli.options import options_of, unloaded, without_file
from launcher.cli.setting_pages import keys_below, type_at
from launcher.core import credentials
from launcher.core.errors import UserError
from launcher.core.ranges import ranges
from launcher.settings.component import check_finite
from launcher.settings.overrides import CommandLine, key_of

CONTAINER_VALUE = re.compile(r"(?:Cannot convert '|Value '.*' of type ')(?:DictConfig|ListConfig|bytes)'", re.DOTALL)
QUOTED_VALUE = re.compile(r"(?:Value|Invalid value|Cannot convert) '(.*?)'")
"""How OmegaConf quotes a value that it refuses."""
NEW_ENTRY = re.compile(r"(?:dict|list) is not a subclass of (\w+)")
"""What OmegaConf says of an entry that an override would add to a mapping of components."""
REMEDIES = {
    "converted to Integer": "a whole number",
    "converted to Float": "a number",
    "is not a valid bool": "true or false",
    "to string": "a text, in quotes if it has brackets",
    "is not a ListConfig": "a list: [a,b]",
    "to Dict[": "a mapping: {key: value}",
    "type hint 'Union[int, str]'": "a whole number or a word",
}
"""What OmegaConf says of a wrong type, and what to give instead."""
UNITS = {"s": "seconds", "ms": "milliseconds", "min": "minutes", "gb": "GiB", "gib": "GiB", "mib": "MiB"}
"""Ends of names of keys, and what they count."""
INTERPOLATIONS = {
    "Interpolation key": r"expected ${<key of a setting>}, or a backslash before the $ that is meant as it is",
    "Environment variable": "set it, or give a default: ${oc.env:NAME,default}",
}
"""What OmegaConf says of a value with ${...}, and what to do."""
GRAMMAR = {
    r"no viable alternative at input (.*)": r"it ends too early, or has a character too many: \1",
    r"mismatched input (.*) expecting <EOF>": r"unexpected \1",
    r"mismatched input (.*) expecting .*": r"unexpected \1",
    r"extraneous input (.*) expecting .*": r"unexpected \1",
    r"LexerNoViableAltException.*": "it has a character that stands for something else",
    r"token recognition error at: (.*)": r"unexpected \1",
}
"""What Hydra's grammar says, and the same in plain words."""
SAME = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp_32": "fp32"}
"""Names that other programs have for a value of an enumeration."""
TWO_OPTIONS = re.compile(r"In 'schema/(.+)/\w+': .*: Merge error: (\w+) is not a subclass of (\w+)\.")
"""What Hydra says of two options of a group that takes one."""
MERGE = re.compile("Cannot merge DictConfig with ListConfig|Merge error: list is not a subclass of")
"""What OmegaConf says of a list where a mapping is due, and also of a mapping where a list is due."""
MERGED_FILE = re.compile(r"In '(\S+)': ")
SINGLE_VALUE = re.compile(r"(?:int|float|str|bool) is not a subclass of \w+\. value: ")
"""What OmegaConf says of one value where the keys of a component are due."""
MERGED_OVERRIDE = re.compile(r"Error merging override \+*([^=\s]+)=")
LISTED = frozenset({"adapters", "tasks"})
"""Groups of which several options may be chosen."""
FULL_KEY = re.compile(r"^\s*full_key: (\S+)$", re.MULTILINE)


def describe(error: BaseException) -> str:
    """Return one line that says what is wrong."""
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if keyword := describe_package(error):
        return keyword
    if isinstance(error, OverrideParseException):
        typed, why = str(error.override), _first_line(error)
        what = credentials.shown(typed)
        if what != typed:  # a value that may be a secret; the reason repeats it
            what, why = f"{typed.partition('=')[0]}=...", why.partition(":")[0].partition(" at input")[0]
        if hint := for_override(str(error.override)):
            return f"{what}: no such option; write {hint}"
        return f"{what}: {_plain(why)}; expected group=option or key=value, the value in quotes"
    if isinstance(error, HydraException) and (fault := option_file_errors.explain(str(error))):
        return fault
    cause = _root_cause(error)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key}: a value is required"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    if isinstance(cause, ValidationError) and "is not Optional" in str(cause):
        return f"{cause.full_key}: null is not allowed; give a value, or leave the key out"
    if isinstance(cause, ValidationError) and (kind := NEW_ENTRY.search(str(cause))):
        key = given[1] if (given := MERGED_OVERRIDE.match(str(error))) else cause.full_key
        return f"{key}: a new {kind[1]} needs an option file; see docs/extending.md"
    if MERGE.search(str(cause)) and (wrong := _wrong_container(str(cause))):
        return wrong
    if isinstance(cause, ValidationError) and cause.full_key and SINGLE_VALUE.search(str(cause)):
        return f"{cause.full_key}: one value stands where a mapping is due; expected {_mapping(str(cause.full_key))}"
    if isinstance(cause, ValidationError) and cause.full_key:
        said = _first_line(cause)
        hint = (
            for_option("mode", quoted[1]) if cause.full_key == "mode" and (quoted := QUOTED_VALUE.search(said)) else ""
        )
        expected = f"; write {hint}" if hint else _expected(cause)
        return f"{cause.full_key}: {_without_value(said, str(cause.full_key))}{expected}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        said = _first_line(cause)
        remedy = next((f"; {what}" for words, what in INTERPOLATIONS.items() if words in said), "")
        return f"{cause.full_key}: {said.removeprefix('KeyError raised while resolving interpolation: ')}{remedy}"
    key = FULL_KEY.search(str(error))
    return _without_value(_with_remedy(_first_line(error)), key[1] if key else "")


def _mapping(key: str) -> str:
    """Return how the mapping at a key is written, with the names that it takes where they are known."""
    names = dict.fromkeys(each.removeprefix(f"{key}.").partition(".")[0] for each in keys_below(key))
    return f"{key}.NAME=value, NAME one of {', '.join(names)}" if names else "{key: value}"


def _wrong_container(said: str) -> str | None:
    """Return one line for a list where a mapping is due, or the other way round; of a file OmegaConf says no key."""
    listed, mapped = "a list stands where a mapping is due", "a mapping stands where a list is due"
    if file := MERGED_FILE.match(said):
        return f"{file[1]}: {listed}" if "list is not a" in said else f"{file[1]}: {listed}, or {mapped}"
    if not (key := FULL_KEY.search(said)):
        return None
    if "object_type=list" in said:
        return f"{key[1]}: {mapped}; expected [a,b]"
    return f"{key[1]}: {listed}; expected {{key: value}}"


def _without_value(line: str, key: str = "") -> str:
    """Leave out of OmegaConf's line a container's content, the value of a secret's key, and what looks like a key."""
    if found := CONTAINER_VALUE.search(line):
        kind = "mapping" if "Dict" in found[0] else "list" if "List" in found[0] else "value of bytes"
        return f"{line[: found.start()]}a {kind} stands at {key or 'a key'}; expected one value"
    secret = any(credentials.is_secret(name.removesuffix("_env")) for name in key.split("."))
    quoted = QUOTED_VALUE.search(line)
    if quoted and (secret or credentials.looks_random(quoted[1])):
        return line.replace(quoted[1], "...")
    return line


def _expected(error: ValidationError) -> str:
    """Return what to give instead, where OmegaConf names only the type of its own."""
    if "for <enum" in str(error) and isinstance(error.child_node, EnumNode):
        return f"; expected one of {', '.join(error.child_node.enum_type.__members__)}"
    if (given := re.search(r"Invalid value '(.*?)', expected one of \[(.*)\]", str(error))) and given[1]:
        known = given[2].split(", ")
        close = (
            [SAME[given[1].lower()]]
            if given[1].lower() in SAME
            else difflib.get_close_matches(given[1].lower(), known, 1)
        )
        return f" (did you mean {close[0]}?)" if close and close[0] in known else ""
    return next((f"; expected {what}{_unit(error)}" for words, what in REMEDIES.items() if words in str(error)), "")


def _unit(error: ValidationError) -> str:
    """Return the unit that the end of a key's name stands for."""
    suffix = str(error.full_key).rpartition("_")[2]
    return f" of {UNITS[suffix]}" if suffix in UNITS and "could not be converted" in str(error) else ""


def unknown_keys(cfg: DictConfig) -> list[str]:
    """Return the full keys that no schema knows; ``+key=value`` puts such keys past the composition."""
    found = []
    known = {f.name for f in fields(cfg._metadata.object_type)} if is_dataclass(cfg._metadata.object_type) else None
    for key in cfg:
        if known is not None and key not in known:
            found.append(str(cfg._get_full_key(key)))
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            found += unknown_keys(cfg[key])
    return found


def check_emptied(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Refuse ``key={}`` where entries stay: Hydra adds no entry to them, and takes none away. Raises `UserError`."""
    for override in CommandLine.of(overrides).overrides:
        key = key_of(override)
        if override.value() == {} and not override.is_delete() and OmegaConf.select(cfg, key):
            instead = f"{key}=[] chooses none" if key in LISTED else f"set a key of it: {key}.<key>=<value>"
            raise UserError(f"{key}={{}}: an empty mapping takes no entry away; {instead}")


def check_repeated(overrides: Iterable[str]) -> None:
    """Refuse a list that chooses an option twice, which Hydra would take once without a word. Raises `UserError`."""
    for override in CommandLine.of(overrides).overrides:
        key, value = key_of(override), override.value()
        names = [str(name) for name in value] if key in LISTED and isinstance(value, list) else []
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{key}=[{','.join(names)}]: {twice} is there twice; name it once")


def check_ranges(cfg: DictConfig) -> None:
    """Refuse numbers out of range by their full keys, which a component does not know. Raises `UserError`."""
    kind = OmegaConf.get_type(cfg)
    limits = ranges(kind) if is_dataclass(kind) else {}
    for key in cfg:
        if OmegaConf.is_missing(cfg, key):
            continue
        value = cfg[key]
        if isinstance(value, DictConfig):
            check_ranges(value)
        elif isinstance(value, ListConfig):
            _check_elements(value)
        elif isinstance(value, int | float):
            check_finite(value, str(cfg._get_full_key(key)))
        if (limit := limits.get(str(key))) and isinstance(value, int | float | ListConfig):
            limit.check(str(cfg._get_full_key(key)), value)


def _check_elements(values: ListConfig) -> None:
    """Refuse a mapping or a list within a list of single values, which OmegaConf lets through. Raises `UserError`."""
    kind = values._metadata.element_type
    if not (isinstance(kind, type) and issubclass(kind, str | int | float | bool | Enum)):
        return
    for number in range(len(values)):
        if OmegaConf.is_config(values._get_node(number)):
            raise UserError(f"{values._get_full_key(number)}: a mapping or list; expected one value")


def _root_cause(error: BaseException) -> BaseException:
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _plain(why: str) -> str:
    """Return what Hydra's grammar says without the words of its parser."""
    for said, plain in GRAMMAR.items():
        if re.fullmatch(said, why):
            return re.sub(said, plain, why)
    return why


def _unknown_option(error: MissingConfigException) -> str:
    missing = re.sub(r"\.yaml$", "", error.missing_cfg_file or "")
    group, _, option = missing.rpartition("/")
    if not group:
        return _first_line(error)
    if group == "hydra/launcher" and option.startswith("submitit_"):
        install = "pip install 'nemo-megatron-launcher[slurm]'"
        return f"{group}={option}: hydra-submitit-launcher is not installed: {install}"
    options = sorted({*options_of(group), *(error.options or [])})
    failed = "".join(f"; {each} cannot be loaded: {each.error}" for each in unloaded(group))
    if group == "model" or group.startswith("model/"):
        return f"model={model_path(group, option)}: {for_model(group, option, options_of('model'))}"
    if lacking := without_file(group, option):
        return f"{group}={option}: no such option: {lacking}"
    if hint := for_option(group, option):
        return f"{group}={option}: no such option; write {hint}{failed}"
    if group.startswith("schema/") and option_file_errors.kinds(group.removeprefix("schema/")):
        return option_file_errors.unknown_schema(group, option)
    if not options:
        return f"{group}={option}: there is no group '{group}'"
    own = f"; --config-dir=<folder with {group}/{option}.yaml> adds one of your own" if group in LISTED else ""
    known = f"expected one of {', '.join(options)}"
    return f"{group}={option}: no such option{_suggestion(option, options)}; {known}{own}{failed}"


def _unknown_key(cause: ConfigAttributeError | ConfigKeyError) -> str:
    if _is_table(cause.parent_node):
        return f"{cause.full_key}: unknown key; to add it, write +{cause.full_key}=<value>"
    accepted = _known_keys(cause)
    key = str(cause.key)
    if unchosen := _unchosen(str(cause.full_key), key):
        return f"{cause.full_key}: {unchosen}; chosen: {', '.join(accepted) or 'none'}"
    if hint := for_key(str(cause.full_key), accepted):
        return f"{cause.full_key}: no such key; {hint}"
    what = f"{cause.full_key}: no such key{_suggestion(key, accepted)}"
    beside = str(cause.full_key).removesuffix(key)
    if "additional_parameters" in accepted:
        what += f"; an option of sbatch is given as +{beside}additional_parameters.{key}=<value>"
    if {"program", "arguments"} <= set(accepted):
        what += f"; an option of the server is given as {beside}arguments='--{key.replace('_', '-')} <value>'"
    return f"{what}; expected one of {', '.join(accepted)}" if accepted else f"{what}; nothing is chosen in its group"


def _unchosen(full_key: str, key: str) -> str | None:
    """Return what chooses an option, for a key of one that exists and is not chosen."""
    group = full_key.removesuffix(f".{key}")
    if group == "tasks" and key.startswith("lm_eval_"):
        return "no task of lm-eval with this key is chosen; tasks=[lm_eval/<name>] chooses one"
    if group in LISTED and key in options_of(group):
        return f"{key} is not chosen; {group}=[{key}] chooses it"
    return None


def _known_keys(cause: OmegaConfBaseException) -> list[str]:
    if is_dataclass(cause.object_type):
        return [f.name for f in fields(cause.object_type)]
    parent = cause.parent_node
    return [str(k) for k in parent] if isinstance(parent, DictConfig) else []


def _is_table(node: object) -> bool:
    """Tell whether a node is a dictionary of plain values, which may have any keys."""
    if not isinstance(node, DictConfig) or is_dataclass(OmegaConf.get_type(node)):
        return False
    kind = node._metadata.element_type
    return kind is Any or kind in (str, int, float, bool)


def _suggestion(word: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_value_of(key: str, values: str) -> str:
    """Return how a value with commas is written for a key: as a list, as a quoted text, or either."""
    takes = type_at(key.lstrip("+"))
    if not takes or "list" in takes:
        return "write a list as key=[a,b]"
    return f"write one text as '{key}=\"{values}\"'" if takes.startswith("str") else "give one"


def _with_remedy(line: str) -> str:
    """Add what to type where Hydra's first line does not name it."""
    if found := re.fullmatch(r"Ambiguous value for argument '(.*)'", line):
        return f"{found[1]}: several values; sweep over them with -m, or {_one_value_of(*found[1].split('=', 1))}"
    if found := re.match(r"Multiple values for (\S+)\. To override a value use 'override [^:]*: (.*)'", line):
        return f"+{found[1]}={found[2]}: one is chosen already; leave out the +"
    if found := TWO_OPTIONS.match(line):
        return f"{found[1]}: {found[3]} and {found[2]} cannot be combined; choose one option"
    if line.startswith("Additional config directory"):
        return f"--config-dir: {line.replace('Additional config directory ', '')}; expected a folder of option files"
    return line


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, and what follows where that only announces it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
