"""The formats by name, and the writing of several of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.core.console import one_line
from launcher.core.errors import UserError

if TYPE_CHECKING:
    from launcher.export.source import Source


@dataclass(frozen=True)
class Format:
    """The module of this package that writes a format, and the package that it needs, with the extra that has it.

    One that ``is_of_samples`` has nothing to say of a run that evaluated no task.
    """

    module: str
    about: str
    package: str = ""
    extra: str = ""
    is_of_samples: bool = False


FORMATS = {
    "csv": Format("csv_tables", "scores.csv and samples.csv", is_of_samples=True),
    "inspect": Format("inspect_log", "a log of Inspect for each task", "inspect_ai", "inspect", is_of_samples=True),
    "junit": Format("junit", "results.xml, in which lost samples are errors"),
    "lm-eval": Format("lm_eval", "results_*.json and samples_*.jsonl of lm-evaluation-harness", is_of_samples=True),
    "markdown": Format("markdown", "results.md"),
    "mlflow": Format("mlflow_run", "a run of MLflow", "mlflow", "mlflow"),
    "parquet": Format("parquet", "scores.parquet and samples.parquet", "pyarrow", "data", is_of_samples=True),
    "wandb": Format("wandb_run", "an offline run of Weights & Biases", "wandb", "wandb"),
}
"""What each module's ``write(source, folder)`` writes. It returns the paths."""


def check(names: Sequence[str], key: str) -> None:
    """Raise `UserError`, which names ``key``, for a format that does not exist, or lacks its package."""
    for name in names:
        found = FORMATS.get(name)
        if found is None:
            close = difflib.get_close_matches(name, FORMATS, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"{key}={name}: no such format{guess}; expected one of {', '.join(FORMATS)}")
        if found.package and find_spec(found.package) is None:
            raise UserError(
                f"{key}={name}: it needs the package {found.package}: "
                f"pip install 'nemo-megatron-launcher[{found.extra}]'"
            )


def write(sources: Sequence[Source], names: Sequence[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Write every run in every format; yield the format and path of each file.

    Runs of a sweep get folders of their own, below that of the format. Raises `UserError`, also for what a package
    raises.
    """
    _check_samples(sources, names)
    for name in names:
        module = import_module(f"launcher.export.{FORMATS[name].module}")
        for source in sources:
            place = folder / name / source.name if len(sources) > 1 else folder / name
            try:
                written = module.write(source, place)
            except (UserError, OSError):
                raise
            except Exception as error:  # of a package that the launcher does not know
                raise UserError(f"export {name}: {type(error).__name__}: {one_line(str(error), 400)}") from error
            yield from ((name, path) for path in written)


def _check_samples(sources: Sequence[Source], names: Sequence[str]) -> None:
    """Raise `UserError` for a format of samples where no run evaluated a task: it only checked, or failed before."""
    empty = [name for name in names if has_nothing(sources, name)]
    if empty:
        others = ", ".join(name for name, found in FORMATS.items() if not found.is_of_samples)
        what = ", ".join(str(source.folder) for source in sources)
        reasons = {reason for source in sources if (reason := source.results["reason"])}
        why = f" ({one_line(reasons.pop(), 200)})" if len(reasons) == 1 else ""
        raise UserError(f"export {', '.join(empty)}: {what}: no task was evaluated{why}; {others} say how it ended")


def has_nothing(sources: Sequence[Source], name: str) -> bool:
    """Tell whether a format is of samples, and no run evaluated a task: its tables would be empty."""
    return FORMATS[name].is_of_samples and not any(source.results["tasks"] for source in sources)
