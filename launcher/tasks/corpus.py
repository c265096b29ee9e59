"""Finds the function that makes one number of all samples by the name that ``results.json`` has of it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from launcher.core.errors import UserError
from launcher.stats.resampling import Statistic

OF_LM_EVAL = "lm_eval"
OWN = ("launcher.tasks", OF_LM_EVAL)


def statistic(function: str) -> Statistic:
    """Return the function of a name ``module:name``.

    Only the modules of tasks are imported, of this program, of lm-evaluation-harness and of installed extensions: a
    file must not name code to run. Raises `UserError` with the reason.
    """
    module, _, name = function.partition(":")
    if not any(f"{module}.".startswith(f"{own}.") for own in (*OWN, *_extensions())):
        raise UserError(f"its function {function} is in no installed package of tasks")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        remedy = "; pip install 'nemo-megatron-launcher[lm-eval]'" if error.name == OF_LM_EVAL else ""
        raise UserError(f"its function {function} cannot be imported: {error}{remedy}") from None
    except AttributeError:
        raise UserError(f"its function {function} is not in this version of {module.split('.')[0]}") from None
    if module.split(".")[0] == OF_LM_EVAL:
        from launcher.tasks.lm_eval import metrics

        return metrics.aggregated(found)
    return found if isinstance(found, Statistic) else Statistic(found)


def _extensions() -> set[str]:
    """Return the packages that bring tasks."""
    return {entry.module.split(".")[0] for entry in entry_points(group="launcher.tasks")}
