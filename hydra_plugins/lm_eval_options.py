"""Gives Hydra the options ``tasks=[lm_eval/<name>]``, which no file defines."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

SCHEME = "lm-eval"


class LmEvalSearchPath(SearchPathPlugin):
    """Appends the source to Hydra's search path, behind the program's own options."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("launcher-lm-eval", f"{SCHEME}://")


class LmEvalOptions(ConfigSource):
    """A source of options whose names are those of lm-eval; it imports nothing until one is asked for."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        from launcher.cli.lm_eval_options import option

        config = option(config_path.removesuffix(".yaml"))
        return ConfigResult(self.provider, f"{SCHEME}://", config, {"package": "_global_"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") == "tasks/lm_eval"

    def is_config(self, config_path: str) -> bool:
        if not config_path.startswith("tasks/lm_eval/"):
            return False
        from launcher.cli.lm_eval_options import is_option

        return is_option(config_path.removesuffix(".yaml"))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []  # thousands of names are no help; `launcher tasks lm_eval` lists them
