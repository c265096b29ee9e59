"""Adds the option files of other distributions to Hydra's search path."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ExtensionOptions(SearchPathPlugin):
    """Appends the ``conf`` package of each distribution with an entry point of a group ``launcher.<config group>``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the packages, behind the program's own options. Raises `UserError` for names that are taken."""
        from launcher.cli.options import option_packages

        for package in option_packages():
            search_path.append("launcher-extension", f"pkg://{package}")
