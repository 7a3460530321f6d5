"""Prometheus' text of all metrics, and the two sources behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from sqlalchemy import Engine

from aae.operate.metrics import catalogue, runs, tables
from aae.operate.metrics.catalogue import Sample
from aae.operate.metrics.runs import Sight
from aae.operate.metrics.sources import Reading, Source
from aae.operate.prefect_api import open_api
from aae.settings import Settings
from aae.storage.engine import connect

WITHIN_SECONDS: Final = 1.5
"""So long an answer waits for its sources, so that it is there within two seconds whatever is away."""


class Sources:
    """The shared tables and Prefect's API, each read when somebody asks.

    ``clock`` gives aware UTC moments of this machine; the jobs' clock may be ahead of it by a setting.
    """

    def __init__(self, settings: Settings, pool: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self._settings = settings
        self._pool = pool
        self._clock = clock
        # Connections of its own: who measures never waits for, nor takes one from, who works.
        self._engine: Engine = connect(settings.resolved_database_url, timeout=tables.PATIENCE_SECONDS)
        self.tables: Source[list[Sample]] = Source(self._read_tables)
        self.prefect: Source[Sight] = Source(self._read_prefect)

    def both(self, within: float = WITHIN_SECONDS) -> tuple[Reading[list[Sample]], Reading[Sight]]:
        """What both say, within so many seconds altogether."""
        deadline = time.monotonic() + within
        self.tables.begin()
        self.prefect.begin()
        return self.tables.reading(deadline - time.monotonic()), self.prefect.reading(deadline - time.monotonic())

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    def _read_tables(self) -> list[Sample]:
        now = self._clock() + timedelta(seconds=self._settings.clock_offset_seconds)
        return tables.read(self._engine, now=now, lost_seconds=self._settings.recovery.lost_seconds)

    def _read_prefect(self) -> Sight:
        with open_api(self._settings) as api:
            return runs.look(api, self._pool, now=self._clock())


def samples(sources: Sources, within: float = WITHIN_SECONDS) -> Iterator[Sample]:
    """Every value there is now; what a source that is away would say is missing."""
    stored, prefect = sources.both(within)
    told: dict[str, Reading[list[Sample]] | Reading[Sight]] = {"tables": stored, "prefect": prefect}
    yield catalogue.UP.of(all(reading.error is None for reading in told.values()))
    for name, reading in told.items():
        yield catalogue.SOURCE_UP.of(reading.error is None, name)
        yield catalogue.SOURCE_ERRORS.of(reading.errors, name)
        if reading.age is not None:
            yield catalogue.SOURCE_AGE.of(reading.age, name)
        if reading.took is not None:
            yield catalogue.SOURCE_SECONDS.of(reading.took, name)
    yield catalogue.BUILD.of(1, version("aae-pipelines"))
    yield from stored.value or ()
    yield from runs.samples(prefect.value) if prefect.value else ()


def expose(found: Iterable[Sample], accept: str = "") -> tuple[bytes, str]:
    """The text in the format that ``accept`` (an HTTP header) asks for, and its content type."""
    registry = CollectorRegistry()
    registry.register(_Collected(found))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Collected:
    """Samples in the shape that Prometheus' library reads."""

    def __init__(self, found: Iterable[Sample]) -> None:
        # Two samples of the same labels would make Prometheus refuse all of them.
        self._values = {(one.metric, one.labels): one.value for one in found}

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for (metric, labels), value in self._values.items():
            family = families.get(metric.name)
            if family is None:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
            family.add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        return iter(())
