"""The option files: those of the program, and those of other distributions."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from launcher.core.errors import UserError
from launcher.core.files import conf_folder
from launcher.pipeline.components import Extension, extensions
from launcher.settings.component import COMPONENTS


def option_packages() -> list[str]:
    """Return the packages of option files that other distributions bring.

    Raises `UserError` for an option of a name that is taken: Hydra would read the first of the two.
    """
    owners = dict.fromkeys(_built_in(), "the launcher")
    packages = {extension.options: extension for extension in extensions() if extension.options}
    for extension in packages.values():
        for option in extension.option_files():
            if owners.setdefault(option, str(extension)) != str(extension):
                raise UserError(
                    f"{extension}: option {option} has the name of one of {owners[option]}; "
                    f"uninstall {extension.distribution}, or rename its option"
                )
    return list(packages)


def options_of(group: str) -> list[str]:
    """Return the options of a config group."""
    found = [*_built_in(), *(option for each in extensions() for option in each.option_files())]
    return sorted({option.rpartition("/")[2] for option in found if option.rpartition("/")[0] == group})


def option_file(group: str, option: str) -> Traversable:
    """Return the file of an option that `options_of` lists."""
    built_in = conf_folder() / group / f"{option}.yaml"
    if built_in.is_file():
        return built_in
    packages = (each.options for each in extensions() if f"{group}/{option}" in each.option_files())
    return files(next(packages)) / group / f"{option}.yaml"


def groups() -> list[str]:
    """Return the config groups."""
    return sorted({option.rpartition("/")[0] for option in _built_in()})


def unloaded(group: str) -> list[Extension]:
    """Return the extensions of a config group that cannot be loaded."""
    return [extension for extension in extensions() if extension.error and extension.group == group]


def without_file(group: str, option: str) -> str | None:
    """Return what another distribution has to ship whose component has no option file; None without such a one."""
    component = COMPONENTS.get(f"{group}/{option}")
    if component is None:
        return None
    root = component.__module__.partition(".")[0]
    for each in extensions():
        if each.group == group and each.module.partition(".")[0] == root:
            conf = f"{each.package.replace('.', '/') or '<package of the module>'}/conf"
            shipped = f"{conf}/{group}/{option}.yaml, and an empty {conf}/__init__.py"
            return f"{each} has the component, but no option file; it must ship {shipped}"
    return None


def _built_in() -> list[str]:
    folder = conf_folder()
    return [file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("*/**/*.yaml")]
