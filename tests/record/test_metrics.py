"""Shared metrics: any worker shows the sum of all."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from firewall.record.metrics import Metric, Metrics

DEFS = (
    Metric("calls_total", "counter", "Calls.", ("method",)),
    Metric("plain_total", "counter", "No labels."),
    Metric("lag", "gauge", "Lag.", merge="max"),
    Metric("open", "gauge", "Open."),
    Metric("wait_seconds", "histogram", "Wait.", ("method",), (100, 1_000, 1_000_000), seconds=True),
    Metric("bare_seconds", "histogram", "Bare.", (), (10,), seconds=True),
)


def text(metrics: Metrics) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]


def test_the_text_is_prometheus_exposition() -> None:
    metrics = Metrics(None, DEFS)
    metrics.add("calls_total", ("tools/call",))
    metrics.add("calls_total", ("tools/call",), 2)
    metrics.add("plain_total")
    metrics.set("lag", 7)
    for value in (1, 100, 101, 2_000_000):
        metrics.observe("wait_seconds", ("x",), value)
    metrics.observe("bare_seconds", (), 3)
    lines = text(metrics)
    assert 'calls_total{method="tools/call"} 3' in lines
    assert "plain_total 1" in lines
    assert "lag 7" in lines
    assert 'wait_seconds_bucket{method="x",le="0.0001"} 2' in lines
    assert 'wait_seconds_bucket{method="x",le="0.001"} 3' in lines
    assert 'wait_seconds_bucket{method="x",le="1"} 3' in lines
    assert 'wait_seconds_bucket{method="x",le="+Inf"} 4' in lines
    assert 'wait_seconds_sum{method="x"} 2.000202' in lines
    assert 'wait_seconds_count{method="x"} 4' in lines
    assert 'bare_seconds_bucket{le="1e-05"} 1' in lines
    parser = pytest.importorskip("prometheus_client.parser")
    families = {f.name: f for f in parser.text_string_to_metric_families(metrics.exposition().decode())}
    assert families["calls"].type == "counter"
    assert families["wait_seconds"].type == "histogram"


def test_labels_cannot_break_out_of_their_line() -> None:
    metrics = Metrics(None, DEFS)
    metrics.add("calls_total", ('a"} 1\nevil{x="\x1f\x1e\\',))
    lines = text(metrics)
    assert [line for line in lines if "evil" in line] == ['calls_total{method="a\\"} 1?evil{x=\\"??\\\\"} 1']
    metrics.add("calls_total", ("x" * 5000,))
    assert max(map(len, text(metrics))) < 200


def test_series_are_bounded_and_the_rest_counts_as_other() -> None:
    metrics = Metrics(None, DEFS, series=20)
    for n in range(500):
        metrics.add("calls_total", (f"stranger-{n}",))
        metrics.observe("wait_seconds", (f"stranger-{n}",), n)
    lines = text(metrics)
    calls = [line for line in lines if line.startswith("calls_total")]
    waits = [line for line in lines if line.startswith("wait_seconds_count")]
    for found in (calls, waits):
        assert sum(int(line.rpartition(" ")[2]) for line in found) == 500  # none is lost
        assert len(found) < 20
    assert len(metrics._slots) < 40
    assert len(metrics._histograms) < 20
    assert metrics.dropped > 400


def test_wrong_labels_are_a_programming_error() -> None:
    metrics = Metrics(None, DEFS)
    with pytest.raises(ValueError, match="labels"):
        metrics.add("calls_total", ())
    with pytest.raises(KeyError):
        metrics.add("unknown_total", ())


def test_workers_add_up_and_a_restarted_one_goes_on(tmp_path: Path) -> None:
    a, b = Metrics(tmp_path, DEFS), Metrics(tmp_path, DEFS)
    a.add("calls_total", ("x",), 2)
    b.add("calls_total", ("x",), 3)
    b.add("calls_total", ("y",))
    a.set("lag", 5)
    b.set("lag", 9)
    a.set("open", 5)
    b.set("open", 9)
    a.observe("wait_seconds", ("x",), 50)
    b.observe("wait_seconds", ("x",), 5_000_000)
    for one in (a, b):
        lines = text(one)
        assert 'calls_total{method="x"} 5' in lines
        assert 'calls_total{method="y"} 1' in lines
        assert "lag 9" in lines
        assert "open 14" in lines
        assert 'wait_seconds_count{method="x"} 2' in lines
    b.close()
    c = Metrics(tmp_path, DEFS)
    lines = text(c)
    assert 'calls_total{method="x"} 5' in lines
    assert "lag 5" in lines
    c.add("calls_total", ("x",))
    c.observe("wait_seconds", ("x",), 50)
    lines = text(a)
    assert 'calls_total{method="x"} 6' in lines
    assert 'wait_seconds_bucket{method="x",le="0.0001"} 2' in lines
    assert len(list(tmp_path.glob("*.metrics"))) == 2
    assert all(f.stat().st_mode & 0o077 == 0 for f in tmp_path.iterdir())


def test_a_collector_runs_before_each_exposition() -> None:
    metrics = Metrics(None, DEFS)
    metrics.on_collect(lambda: metrics.set("lag", 42))
    assert "lag 42" in text(metrics)


def test_a_foreign_file_is_ignored(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, DEFS)
    metrics.add("plain_total")
    (tmp_path / "worker-7.metrics").write_bytes(b"rubbish" * 100)
    (tmp_path / "worker-8.metrics").write_bytes(b"")
    assert "plain_total 1" in text(metrics)


def _count(path: str, barrier: Any) -> None:
    metrics = Metrics(path, DEFS)
    barrier.wait(20)
    for _ in range(5000):
        metrics.add("calls_total", ("x",))
        metrics.observe("wait_seconds", ("x",), 10)


def test_four_processes_lose_no_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_count, args=(str(tmp_path), barrier)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(40)
    lines = text(Metrics(tmp_path, DEFS))
    assert 'calls_total{method="x"} 20000' in lines
    assert 'wait_seconds_count{method="x"} 20000' in lines
