"""The only module that knows Hydra's entry point: compose, run, exit code."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.complaint import complaint, unknown_keys
from launcher.config import Mode, Run, check
from launcher.errors import UserError


def conf_folder() -> Path:
    """Return the folder of option files: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    return next(folder for folder in (here / "conf", here.parent / "conf") if folder.is_dir())


def launch(arguments: list[str]) -> int:
    """Compose and run what ``arguments`` ask for; return the exit code, the worst one of a sweep."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that composition errors reach us, to be said in one line
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    Outcomes.codes.clear()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            sys.argv[1:] = _arguments(arguments, Path(scratch))
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        return _say(complaint(error, conf_folder()), 1)
    except UserError as error:
        return _say(str(error), error.exit_code)
    return max(Outcomes.codes, default=0)


def job(cfg: DictConfig) -> int:
    """Run one composed configuration in its folder; return its exit code."""
    from launcher import plan, run

    try:
        unknown = unknown_keys(cfg)
        if unknown:
            raise UserError(f"{', '.join(unknown)}: no such key; leave out the + to see what is accepted")
        typed = OmegaConf.to_object(cfg)
        assert isinstance(typed, Run)
        check(typed)
        if typed.mode is Mode.plan:
            plan.show(typed, OmegaConf.to_yaml(cfg, resolve=True))
            return 0
        hydra_config = HydraConfig.get()
        overrides = list(hydra_config.overrides.task)
        return run.run(typed, _plain(cfg), overrides, Path(hydra_config.runtime.output_dir))
    except (HydraException, OmegaConfBaseException) as error:
        return _say(complaint(error, conf_folder()), 1)
    except UserError as error:
        return _say(str(error), error.exit_code)


class Outcomes(Callback):
    """Collect the exit code of every point, and compare the points when a sweep is over."""

    codes: list[int] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the exit code of a point; a crash counts as a user error until its traceback is shown."""
        value = job_return._return_value
        self.codes.append(value if isinstance(value, int) else 1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``sweep.json`` and ``sweep.html``, and print the table that compares the points."""
        from launcher.report import sweep

        if config.mode != Mode.plan:
            sweep.report(Path(config.hydra.sweep.dir))


def _arguments(arguments: list[str], scratch: Path) -> list[str]:
    """Add what ``resume=`` and ``mode=plan`` imply: the folder's own overrides, and no run folder at all."""
    if "mode=plan" in arguments:
        nowhere = [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]
        return [*arguments, *nowhere]
    folder = next((a.removeprefix("resume=") for a in arguments if a.startswith("resume=")), "")
    return _resumed(arguments, Path(folder)) if folder and folder != "null" else arguments


def _resumed(arguments: list[str], folder: Path) -> list[str]:
    """Start from the overrides that the run in ``folder`` was made with; what is given now wins."""
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise UserError(f"resume={folder}: not a run folder, {stored} does not exist")
    given = {a.split("=", 1)[0].lstrip("+~") for a in arguments}
    kept = [o for o in OmegaConf.load(stored) if str(o).split("=", 1)[0].lstrip("+~") not in given]
    return [*map(str, kept), *arguments, f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _say(line: str, code: int) -> int:
    print(f"launcher: {line}", file=sys.stderr)
    return code
