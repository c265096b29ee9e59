"""Refuses secrets that a composed configuration holds as values, or gets from its interpolations."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from launcher.cli.hydra_launchers import launcher_keys
from launcher.core import credentials
from launcher.core.types import Json
from launcher.pipeline.config import plain


def check_secrets(config: DictConfig) -> None:
    """Refuse secrets that a composed configuration holds as values. Raises `SecretGiven`."""
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    credentials.check("", plain(config, resolve=False) | {"hydra": {}})
    for key in config:
        if key != "hydra":
            _check_resolved(config, str(key))
    if "hydra" in config:
        for key in ("run", "sweep", "job"):
            _check_resolved(config, f"hydra.{key}")
        credentials.check("hydra.job.env_set", plain(config.hydra.job.env_set, resolve=False))
        credentials.check("hydra.launcher", launcher_keys(config.hydra))


def _check_resolved(config: DictConfig, key: str) -> None:
    """Refuse secrets in what the interpolations of a key yield. Raises `SecretGiven`."""
    with credentials.interpolated(key), suppress(OmegaConfBaseException):  # the key's use reports any other fault
        value = _resolved(OmegaConf.select(config, key))
        if not key.startswith("hydra."):
            credentials.check(key, value)


def _environment(variable: str, *default: Json) -> str | None:
    """Do what OmegaConf's ``oc.env`` does, and note the variable: an interpolation may compute its name."""
    value = env(variable, *default)
    if variable in os.environ:
        credentials.note(variable, os.environ[variable])
    return value


def _resolved(value: Any) -> Json:
    return plain(value) if isinstance(value, DictConfig) else value
