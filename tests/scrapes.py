"""Reads the responses of ``/metrics``."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]  # name and labels


def samples(exposition: str) -> dict[Sample, float]:
    """Return the values by name and labels; fail if a series occurs twice."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(exposition: str, name: str, **labels: str) -> float:
    """Return one value of the service; raise KeyError if there is none."""
    return samples(exposition)[f"user_service_{name}", frozenset(labels.items())]


def gone_backwards(before: Mapping[Sample, float], after: Mapping[Sample, float]) -> list[str]:
    """Return the counters that have decreased or disappeared."""
    counting = ("_total", "_count", "_bucket", "_sum")
    return [
        f"{name}{dict(labels)}: {value} -> {after.get((name, labels))}"
        for (name, labels), value in before.items()
        if name.endswith(counting) and after.get((name, labels), -1) < value
    ]
