"""Counters, gauges and histograms that several workers share, and their Prometheus text.

Each worker owns one mapped file and is its only writer: a series is a name and one 64-bit word, so
counting is one store into memory (about 0.2 µs) and no lock is held across processes. Whoever is
asked for ``/metrics`` reads all files and adds them up. A worker that restarts goes on in a file
that nobody holds, so that counters never fall.

    word 0 magic · word 1 bytes used · then series: word: length of the name · name, padded to 8 · value

Values are integers: counts, bytes, or microseconds; microseconds are shown as seconds. The number of
series is bounded (names in labels can be chosen by strangers): beyond the bound a sample counts for
the series whose labels are all ``other``, and `dropped` grows.
Text format: Prometheus exposition 0.0.4.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from firewall.core.errors import StateUnavailable

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
SERIES: Final = 10_000
WORKERS: Final = 256
_FILE_BYTES: Final = 4 * 1024 * 1024  # sparse: only touched pages cost memory
_MAGIC: Final = int.from_bytes(b"BRZNMET1", "little")
_LABEL_CHARS: Final = 120


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: Prometheus name, kind, help, label names.

    buckets: upper bounds in microseconds, inclusive, rising; for histograms.
    seconds: values are microseconds and shown as seconds.
    merge: how workers' gauges combine.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    seconds: bool = False
    merge: Literal["sum", "max"] = "sum"


@dataclass(slots=True)
class Histogram:
    """Where the words of one histogram stand."""

    buckets: tuple[int, ...]
    slots: list[int]  # one per bucket, +Inf, sum


@dataclass(slots=True)
class _Total:
    """All workers' values of one metric: label text → value."""

    metric: Metric
    values: dict[str, int] = field(default_factory=dict)


class Metrics:
    """One worker's metrics. Thread-safe enough: a lost increment under a race costs one count.

    directory: shared by the workers of the node; None keeps everything in this process.
    definitions: the closed list of metrics.
    words: where the values stand; who has asked `series` or `durations` for a place adds to it there, with no call.
    Raises StateUnavailable when no file can be claimed.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, definitions: Sequence[Metric], *, series: int = SERIES
    ) -> None:
        self.definitions = {m.name: m for m in definitions}
        self._directory = Path(directory) if directory is not None else None
        self._limit = series
        self._lock = Lock()
        self._claim = -1
        self._slots: dict[tuple[str, ...], int] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._collectors: list[Callable[[], None]] = []
        self.dropped = 0
        self._map = mmap.mmap(-1, _FILE_BYTES) if self._directory is None else self._open(self._directory)
        self.words = memoryview(self._map).cast("Q")
        if self.words[0] != _MAGIC:
            self.words[1] = 16
            self.words[0] = _MAGIC
        self._adopt()

    def add(self, name: str, labels: tuple[str, ...] = (), amount: int = 1) -> None:
        """Count. labels: values in the order of the definition."""
        slot = self._slots.get((name, *labels))
        if slot is None:
            slot = self._slot((name, *labels))
        self.words[slot] += amount

    def series(self, name: str, labels: tuple[str, ...]) -> int:
        """Return which of `words` a counter is. Beyond the bound of series `dropped` grows: keep it not then."""
        slot = self._slots.get((name, *labels))
        return slot if slot is not None else self._slot((name, *labels))

    def durations(self, name: str, labels: tuple[str, ...]) -> Histogram:
        """Return where a histogram's `words` are. Beyond the bound of series `dropped` grows: keep it not then."""
        found = self._histograms.get((name, *labels))
        return found if found is not None else self._histogram((name, *labels))

    def set(self, name: str, value: int, labels: tuple[str, ...] = ()) -> None:
        """Set a gauge (not negative)."""
        slot = self._slots.get((name, *labels))
        if slot is None:
            slot = self._slot((name, *labels))
        self.words[slot] = value

    def observe(self, name: str, labels: tuple[str, ...], value_us: int) -> None:
        """Record one duration in microseconds."""
        found = self._histograms.get((name, *labels))
        if found is None:
            found = self._histogram((name, *labels))
        words, slots = self.words, found.slots
        words[slots[bisect_left(found.buckets, value_us)]] += 1
        words[slots[-1]] += max(value_us, 0)

    def on_collect(self, collector: Callable[[], None]) -> None:
        """Call ``collector`` before each exposition: it sets gauges of this worker."""
        self._collectors.append(collector)

    def exposition(self) -> bytes:
        """Return all workers' metrics in Prometheus text. Milliseconds of work: call it from a thread."""
        for collect in self._collectors:
            collect()
        totals = {name: _Total(metric) for name, metric in self.definitions.items()}
        for data in self._files():
            for key, value in _parse(data):
                _merge(totals, key, value)
        lines: list[str] = []
        for name in sorted(totals):
            _render(totals[name], lines)
        return ("\n".join(lines) + "\n").encode()

    def close(self) -> None:
        """Give the file back to a later worker; the counts stay."""
        with self._lock:
            self.words.release()
            self._map.close()
            if self._claim >= 0:
                os.close(self._claim)
                self._claim = -1

    # -- series ----------------------------------------------------------------------------------------

    def _slot(self, key: tuple[str, ...], suffix: str = "", *, bounded: bool = True) -> int:
        """Return the word of a series, making it on first use; beyond the bound, the word of ``other``."""
        name, labels = key[0], tuple(_label(v) for v in key[1:])
        metric = self.definitions[name]
        if len(labels) != len(metric.labels):
            raise ValueError(f"{name} has labels {metric.labels}")
        with self._lock:
            if bounded and len(self._slots) >= self._limit and any(v != OTHER for v in labels):
                self.dropped += 1
                key = (name, *(OTHER for _ in labels))
                labels = key[1:]
            slot = self._slots.get((*key, suffix) if suffix else key)
            if slot is None:
                slot = self._append("\x1f".join((name, *labels, suffix) if suffix else (name, *labels)))
                self._slots[(*key, suffix) if suffix else key] = slot
            return slot

    def _append(self, text: str) -> int:
        raw = text.encode()
        used = self.words[1]
        slot = (used + 8 + -(-len(raw) // 8) * 8) // 8
        if (slot + 1) * 8 > _FILE_BYTES:
            self.dropped += 1
            return _FILE_BYTES // 8 - 1  # a word that no series owns
        self.words[used // 8] = len(raw)
        self._map[used + 8 : used + 8 + len(raw)] = raw
        self.words[slot] = 0
        self.words[1] = (slot + 1) * 8  # published last
        return slot

    def _histogram(self, key: tuple[str, ...]) -> Histogram:
        metric = self.definitions[key[0]]
        labels = tuple(_label(v) for v in key[1:])
        if len(self._slots) >= self._limit:
            self.dropped += 1
            key = (key[0], *(OTHER for _ in labels))
            labels = key[1:]
            if key in self._histograms:
                return self._histograms[key]
        own = (key[0], *labels)
        names = [*(f"le{bound}" for bound in metric.buckets), "inf", "sum"]
        slots = [self._slot(own, f"\x1e{name}", bounded=False) for name in names]
        made = self._histograms[key] = Histogram(metric.buckets, slots)
        return made

    def _adopt(self) -> None:
        """Find the series of the file's last owner; its gauges start at zero again."""
        data = bytes(self._map[: self.words[1]])
        for text, at in _series(data):
            parts = tuple(text.split("\x1f"))
            metric = self.definitions.get(parts[0])
            if metric is None or len(parts) - 1 not in (len(metric.labels), len(metric.labels) + 1):
                continue
            self._slots[parts] = at // 8
            if metric.kind == "gauge":
                self.words[at // 8] = 0

    # -- files ------------------------------------------------------------------------------------------

    def _open(self, directory: Path) -> mmap.mmap:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for n in range(WORKERS):
                handle = os.open(
                    directory / f"worker-{n}.metrics", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    continue
                os.ftruncate(handle, _FILE_BYTES)
                self._claim = handle
                return mmap.mmap(handle, _FILE_BYTES)
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        raise StateUnavailable("every metrics file is claimed")

    def _files(self) -> list[bytes]:
        if self._directory is None:
            return [bytes(self._map[: self.words[1]])]
        found = []
        for path in sorted(self._directory.glob("worker-*.metrics")):
            try:
                with path.open("rb") as file:
                    head = file.read(16)
                    used = int.from_bytes(head[8:], "little")
                    if len(head) == 16 and used <= _FILE_BYTES:
                        found.append(head + file.read(used - 16))
            except OSError:
                continue
        return found


def _series(data: bytes) -> list[tuple[str, int]]:
    """Return (name, offset of the value) of each series in a file's bytes."""
    if int.from_bytes(data[:8], "little") != _MAGIC:
        return []
    found, at = [], 16
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        value_at = at + 8 + -(-length // 8) * 8
        if value_at + 8 > len(data):
            break
        found.append((data[at + 8 : at + 8 + length].decode(errors="replace"), value_at))
        at = value_at + 8
    return found


def _parse(data: bytes) -> list[tuple[str, int]]:
    return [(text, int.from_bytes(data[at : at + 8], "little")) for text, at in _series(data)]


def _merge(totals: dict[str, _Total], key: str, value: int) -> None:
    name, _, labels = key.partition("\x1f")
    total = totals.get(name)
    if total is None:
        return
    if total.metric.merge == "max":
        total.values[labels] = max(value, total.values.get(labels, 0))
    else:
        total.values[labels] = value + total.values.get(labels, 0)


def _render(total: _Total, lines: list[str]) -> None:
    metric = total.metric
    lines.append(f"# HELP {metric.name} {metric.help}")
    lines.append(f"# TYPE {metric.name} {metric.kind}")
    if metric.kind != "histogram":
        rising = sorted(total.values.items())
        lines += [f"{metric.name}{_labels(metric, labels)} {_number(metric, value)}" for labels, value in rising]
        return
    rows: dict[str, dict[str, int]] = {}
    for text, value in total.values.items():
        labels, _, part = text.rpartition("\x1e")
        rows.setdefault(labels.removesuffix("\x1f"), {})[part] = value
    for labels in sorted(rows):
        row, count = rows[labels], 0
        for bound in metric.buckets:
            count += row.get(f"le{bound}", 0)
            lines.append(f"{metric.name}_bucket{_labels(metric, labels, le=f'{bound / 1e6:g}')} {count}")
        count += row.get("inf", 0)
        lines.append(f"{metric.name}_bucket{_labels(metric, labels, le='+Inf')} {count}")
        lines.append(f"{metric.name}_sum{_labels(metric, labels)} {_number(metric, row.get('sum', 0))}")
        lines.append(f"{metric.name}_count{_labels(metric, labels)} {count}")


def _labels(metric: Metric, text: str, *, le: str = "") -> str:
    values = text.split("\x1f") if metric.labels else []
    pairs = [f'{n}="{_escape(v)}"' for n, v in zip(metric.labels, values, strict=False)]
    if le:
        pairs.append(f'le="{le}"')
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(metric: Metric, value: int) -> str:
    return f"{value / 1e6:.6f}".rstrip("0").rstrip(".") if metric.seconds else str(value)


def _label(value: str) -> str:
    """Return a label value without separators, cut to 120 characters."""
    return "".join(c if c.isprintable() else "?" for c in value[:_LABEL_CHARS])


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
