"""Reads rows with the package datasets: from a folder that it saved, or from its cache of data sets of a hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.core.errors import TaskError
from launcher.tasks.item_files import Row, plain


def saved(folder: Path, split: str) -> Any:
    """Open a folder that ``datasets.save_to_disk`` wrote. Raises `TaskError`."""
    datasets = _package(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise TaskError(f"{folder}: not a data set that datasets.save_to_disk wrote: {error}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        if split:
            raise TaskError(f"{folder}: split={split}, but this folder holds one split only; leave split away")
        return loaded
    return loaded[_split(list(loaded), split, str(folder))]


def cached(name: str, config: str, split: str) -> Any:
    """Open the cached copy of a hub's data set; nothing is downloaded. Raises `TaskError` with what to do."""
    datasets = _package(f"hub:{name}")
    from datasets.packaged_modules.cache.cache import Cache

    config = _config(name, config, Path(datasets.config.HF_DATASETS_CACHE))
    try:
        builder = Cache(dataset_name=name.split("/")[-1], repo_id=name, config_name=config, version="auto", hash="auto")
        chosen = _split(list(builder.info.splits), split, f"hub:{name}")
        return builder.as_dataset(split=chosen)
    except (OSError, ValueError) as error:
        raise TaskError(f"hub:{name}: the cached copy of config={config} cannot be read: {error}") from None


def rows(loaded: Any, path: str) -> Iterator[Row]:
    """Yield the rows of an opened data set; images and sounds stay as they are stored."""
    for number, values in enumerate(_undecoded(loaded), start=1):
        yield plain(values), f"{path} row {number}", number


def files(loaded: Any) -> list[Path]:
    """Return the files that hold the rows."""
    return sorted(Path(file["filename"]) for file in loaded.cache_files)


def _undecoded(loaded: Any) -> Any:
    decoded = {name for name, feature in loaded.features.items() if hasattr(feature, "decode")}
    return loaded.decode(False) if decoded and hasattr(loaded, "decode") else loaded


def _package(path: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise TaskError(f"{path}: reading it needs the package 'datasets': pip install datasets") from None
    return datasets


def _config(name: str, config: str, cache: Path) -> str:
    """Return the configuration of a cached data set, which must be named if there are several."""
    folder = cache / name.replace("/", "___")
    found = sorted(inner.name for inner in folder.iterdir() if inner.is_dir()) if folder.is_dir() else []
    if config in found:
        return config
    if not found or config:
        fetch = f"where there is a network, run: {_fetch(name, config)}"
        has = f"; it has config {', '.join(found)}" if found else ""
        raise TaskError(f"hub:{name}: not in the cache {cache}{has}; {fetch}")
    if len(found) > 1:
        raise TaskError(f"hub:{name}: config is empty; expected one of those in the cache: {', '.join(found)}")
    return found[0]


def _fetch(name: str, config: str) -> str:
    arguments = ", ".join(repr(part) for part in (name, config) if part)
    return f'python -c "import datasets; datasets.load_dataset({arguments})"'


def _split(found: list[str], split: str, path: str) -> str:
    if split in found:
        return split
    if not split and len(found) == 1:
        return found[0]
    raise TaskError(f"{path}: split={split or 'none'}; expected one of {', '.join(map(str, found))}")
