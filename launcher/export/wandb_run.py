"""Weights & Biases: a run in offline mode, which ``wandb sync`` sends later; ``WANDB_MODE=online`` sends it now."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.core.types import Json
from launcher.export import rows
from launcher.export.source import SCORE_COLUMNS, Source
from launcher.report import results

PATIENCE_S = 300
"""How long W&B may take to start its service: a machine that serves a model is busy."""


def write(source: Source, folder: Path) -> list[Path]:
    """Write a run with the configuration, the scores as its summary, and tables of scores and samples."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    samples = [rows.sample_row(record) for record in source.records()]
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=PATIENCE_S,
        x_disable_stats=True,
        x_service_wait=PATIENCE_S,
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "launcher",
        name=source.name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE") or "offline",  # type: ignore[arg-type]
        config=results.plain(source.config),
        reinit="create_new",
        settings=settings,
    )
    try:
        run.summary.update(_summary(source))
        columns = rows.columns_of(samples)
        run.log({
            "scores": wandb.Table(list(SCORE_COLUMNS), data=_cells(SCORE_COLUMNS, source.scores())),
            "samples": wandb.Table(columns, data=_cells(columns, samples)),
        })  # fmt: skip
    finally:
        run.finish(exit_code=0 if source.results["status"] == "ok" else 1)
        wandb.teardown()  # its service would outlive this
    return [folder]


def _summary(source: Source) -> dict[str, Json]:
    found: dict[str, Json] = {"status": source.results["status"], "reason": source.results["reason"]}
    for row in rows.score_rows(source.results):
        task = row["task"]
        found |= {f"{task}/{name}": row[name] for name in ("scored", "truncated", "refused", "unparsed", "failed",
                                                           "not_asked", "total")}  # fmt: skip
        if row["metric"] is not None:
            found |= {f"{task}/{row['metric']}": row["value"], f"{task}/{row['metric']}_stderr": row["stderr"]}
    return found


def _cells(columns: tuple[str, ...] | list[str], table: list[dict[str, Json]]) -> list[list[str]]:
    """Return texts: a table of W&B has one type for each column, and drops what does not fit."""
    return [[rows.text(row.get(name)) for name in columns] for row in table]
