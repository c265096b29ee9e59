"""MLflow: a run with parameters, metrics, tags and artifacts, in a folder or at ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.export import csv_tables, rows
from launcher.export.source import Source
from launcher.report import results

EXPERIMENT = "launcher"
LONGEST = 500
"""The most characters of a parameter or a tag: the least of what MLflow's stores allow."""
BATCH = 100
"""The most parameters of one call."""


def write(source: Source, folder: Path) -> list[Path]:
    """Write a run. A metric without a number is not logged, since MLflow has no such; a tag names it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # any other local store needs SQLAlchemy
    where = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").absolute().as_uri()
    client = MlflowClient(tracking_uri=where)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    ended = int(source.ended.timestamp() * 1000)
    run = client.create_run(number, start_time=ended - int(source.seconds * 1000), run_name=source.name).info.run_id
    parameters = [Param(_key(key), _cut(value)) for key, value in _flat("", source.config)]
    for start in range(0, len(parameters), BATCH):
        client.log_batch(run, params=parameters[start : start + BATCH])
    figures, unknown = _metrics(source)
    tags = [RunTag(key, _cut(value)) for key, value in _tags(source, unknown).items()]
    client.log_batch(run, metrics=[Metric(key, value, ended, 0) for key, value in figures.items()], tags=tags)
    file = RunFolder(source.folder)
    for path in (file.results, file.report, file.certificate, *csv_tables.write(source, folder / "tables")):
        if path.exists():
            client.log_artifact(run, str(path))
    client.set_terminated(run, "FINISHED" if source.results["status"] == "ok" else "FAILED", ended)
    return [folder]


def _metrics(source: Source) -> tuple[dict[str, float], list[str]]:
    """Return the numbers by name, and the names of those that are not known."""
    figures: dict[str, float] = {}
    unknown: list[str] = []
    for row in rows.score_rows(source.results):
        for name in ("scored", "truncated", "refused", "unparsed", "failed", "not_asked", "total"):
            figures[_key(f"{row['task']}/{name}")] = float(row[name] or 0)
        if row["metric"] is None:
            unknown.append(str(row["task"]))
            continue
        for name in ("value", "stderr", "ci_low", "ci_high"):
            key = _key(f"{row['task']}/{row['metric']}{'' if name == 'value' else f'_{name}'}")
            if row[name] is None:
                unknown.append(key)
            else:
                figures[key] = float(row[name])
    speed = source.results["throughput"]
    figures |= {_key(f"throughput/{k}"): float(v) for k, v in speed.items() if isinstance(v, int | float)}
    return figures, unknown


def _tags(source: Source, unknown: list[str]) -> dict[str, str]:
    found = source.results
    tags = {"status": found["status"], "model": source.model, "folder": str(source.folder.absolute())}
    return tags | {"reason": found["reason"] or "", "unknown": ", ".join(unknown)}


def _flat(name: str, value: Json) -> Iterator[tuple[str, str]]:
    """Yield the values of the configuration by their keys."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    elif name:
        yield name, value if isinstance(value, str) else results.encode(value)


def _key(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return re.sub(r"[^0-9A-Za-z_./ -]", "_", name)[:250]


def _cut(text: str) -> str:
    whole = results.well_formed(text)
    return whole if len(whole) <= LONGEST else whole[: LONGEST - 1] + "…"
