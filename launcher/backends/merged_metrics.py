"""Metrics of several servers in Prometheus' text format, added up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def merge(texts: Iterable[str]) -> bytes:
    """Add up, sample by sample, the metrics of several servers in Prometheus' text format.

    Creation times of counters are left out: they have no sum.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(lambda: defaultdict(float))
    for family in (f for text in texts for f in text_string_to_metric_families(text) if f.name[-8:] != "_created"):
        families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            values[family.name][sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return exposed(families.values())


def exposed(families: Iterable[Metric]) -> bytes:
    """Return metric families in Prometheus' text format."""
    collected = list(families)

    class Ready(Collector):
        def collect(self) -> Iterable[Metric]:
            return collected

    return generate_latest(Ready())
