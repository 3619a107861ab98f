"""The numbers for Prometheus, made from the daemon's answer and the ledger's counts at the moment of asking."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import FileState
from nanolab_daemon.web.state import Health

PREFIX = "nanolab"
WORDS = ("degraded", "paused", "frozen")


class Numbers(Collector):
    """All metrics of one moment. A daemon that does not answer leaves `nanolab_up` 0 and what the ledger counts."""

    def __init__(
        self,
        answer: Mapping[str, Any] | None,
        states: Mapping[str, int],
        causes: Mapping[str, int],
        totals: Mapping[str, int],
        health: Health,
    ) -> None:
        self._answer = answer
        self._states = states
        self._causes = causes
        self._totals = totals
        self._health = health

    def collect(self) -> Iterable[Any]:
        """Give every family of metrics."""
        yield _gauge("up", "Whether the daemon answers.", float(self._answer is not None))
        yield _gauge("healthy", "Whether nothing keeps the daemon from its work.", float(self._health.well))
        yield from self._of_the_ledger()
        if self._answer is not None:
            yield from _of_the_daemon(self._answer)

    def _of_the_ledger(self) -> Iterable[Any]:
        yield _gauge("files_seen", "Raw files below raw that the ledger knows.", sum(self._states.values()))
        states = _labelled("files", "Raw files by state.", "state")
        for state in FileState:
            states.add_metric([str(state)], self._states.get(str(state), 0))
        yield states
        rejected = _labelled("files_rejected", "Rejected raw files by cause.", "cause")
        for cause in RejectCause:
            rejected.add_metric([str(cause)], self._causes.get(str(cause), 0))
        yield rejected
        for name, words in (
            ("runs", "Published runs."),
            ("rows", "Rows of published runs."),
            ("segments", "Published segments."),
            ("pending", "Published runs that wait for their segments."),
            ("source_missing", "Published runs whose raw file has gone."),
        ):
            yield _gauge(f"published_{name}", words, self._totals.get(name, 0))


def exposition(numbers: Numbers) -> bytes:
    """Write the metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(numbers)
    return generate_latest(registry)


def _of_the_daemon(answer: Mapping[str, Any]) -> Iterable[Any]:
    yield _gauge("start_time_seconds", "When the daemon began, in seconds since 1970.", answer["since"])
    state = _labelled("trouble", "1 while the daemon is degraded, paused or partly frozen.", "kind")
    for word in WORDS:
        state.add_metric([word], float(bool(answer.get(word))))
    yield state
    tally = answer["tally"]
    staged = CounterMetricFamily(
        f"{PREFIX}_files_processed", "Outcomes of the first stage since the daemon began.", labels=["outcome"]
    )
    for outcome, number in sorted(tally["outcomes"].items()):
        staged.add_metric([outcome], number)
    yield staged
    refused = CounterMetricFamily(
        f"{PREFIX}_rejections", "Rejections since the daemon began, by cause.", labels=["cause"]
    )
    for cause, number in sorted(tally["causes"].items()):
        refused.add_metric([cause], number)
    yield refused
    yield _counter("segments_made", "Segments published since the daemon began.", tally["segments"])
    yield _counter("lost_events", "Times that the kernel lost file events.", answer["lost_events"])
    yield _latency(answer["latency"])
    queued = GaugeMetricFamily(f"{PREFIX}_queue_files", "Files or runs in line.", labels=["stage", "state"])
    for name, (waiting, busy) in answer["queues"].items():
        queued.add_metric([name, "waiting"], waiting)
        queued.add_metric([name, "busy"], busy)
    yield queued
    yield _gauge("backlog_age_seconds", "How long the oldest in line has waited.", answer["oldest_in_line_s"])
    yield _gauge("following_files", "Raw files that are watched closely.", answer["following"])
    yield _gauge("measuring_files", "Raw files that are being measured.", len(answer["measuring"]))
    if answer.get("scanned_at"):
        lag_s = max(0.0, time.time() - float(answer["scanned_at"]))
        yield _gauge("scan_lag_seconds", "Time since a scan of everything ended.", lag_s)
    yield _gauge("rescan_interval_seconds", "How often everything is to be scanned.", answer["rescan_s"])
    yield from _pools(answer["pools"])
    page = answer.get("page")
    if page is not None:
        yield _counter("page_restarts", "Times that the page's process had to be started again.", page["restarts"])


def _pools(pools: Iterable[Mapping[str, Any]]) -> Iterable[Any]:
    workers = GaugeMetricFamily(f"{PREFIX}_pool_workers", "Worker processes by pool.", labels=["pool", "state"])
    replaced = CounterMetricFamily(f"{PREFIX}_pool_replaced", "Workers that were replaced.", labels=["pool"])
    memory = _labelled("pool_memory_bytes", "Resident memory of a pool's workers.", "pool")
    for pool in pools:
        name = pool["name"]
        workers.add_metric([name, "wanted"], pool["size"])
        workers.add_metric([name, "ready"], pool["ready"])
        workers.add_metric([name, "idle"], pool["idle"])
        replaced.add_metric([name], pool["replaced"])
        memory.add_metric([name], sum(one["rss_mb"] for one in pool["workers"]) * float(1 << 20))
    return workers, replaced, memory


def _latency(latency: Mapping[str, Any]) -> HistogramMetricFamily:
    limits = [*(str(one) for one in latency["limits_s"]), "+Inf"]
    total = 0
    buckets = []
    for limit, number in zip(limits, latency["counts"], strict=True):
        total += number
        buckets.append((limit, float(total)))
    family = HistogramMetricFamily(
        f"{PREFIX}_latency_seconds", "From a live file's last byte or closing to its published run."
    )
    family.add_metric([], buckets=buckets, sum_value=latency["sum_s"])
    return family


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, value=value)


def _counter(name: str, words: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", words, value=value)


def _labelled(name: str, words: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, labels=[label])
