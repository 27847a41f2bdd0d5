"""Telemetry: what feeds the metrics and spans whose names stand in `record.names`.

Audit and telemetry are separate systems: no subject, client, id, URL or free text is ever a metric
label; span attributes pass an allow list. A policy deny is not an error of ours: the SERVER span
gets ``error.type = policy_denied`` since the call failed.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from firewall.core.errors import FAULTS, BartizanError
from firewall.core.exchange import Exchange
from firewall.core.points import Point
from firewall.core.ports import Clock, SharedMarks
from firewall.record import names
from firewall.record.metrics import OTHER, Histogram, Metrics
from firewall.record.names import METRICS
from firewall.record.tracing import Sampler, TraceContext, Tracer

if TYPE_CHECKING:
    from firewall.record.audit import AuditWriter

__all__ = ["METRICS", "GuardTelemetry", "build_telemetry", "clean", "error_type", "span_name"]

RULES_KEPT: Final = 1_000
SLOW_US: Final = 1_000_000
KINDS_KEPT: Final = 4096
_TIMED: Final = {"mcp": names.M_MCP, "a2a": names.M_A2A}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where one kind of sample is counted: words of counters, and its durations."""

    slots: tuple[int, ...]
    histogram: Histogram | None


class GuardTelemetry:
    """Feeds metrics and spans; implements `core.ports.Telemetry`.

    upstreams: configured names; others count as ``other``.
    tracer: None makes no spans. ratio: share of traces that are kept; refused, failed and slow
    (over 1 s) exchanges are always kept.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        upstreams: Sequence[str] = (),
        tracer: Tracer | None = None,
        ratio: float = 0.01,
        clock: Clock | None = None,
        token_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.metrics = metrics
        self._upstreams = set(upstreams)
        self._tracer, self._sampler, self._clock = tracer, Sampler(ratio), clock
        self._token_bytes = token_bytes
        self._rules: set[str] = set()
        self._last: dict[str, int] = {}
        self._known: dict[tuple[str, ...], _Places] = {}
        metrics.on_collect(self._collect)

    def know_upstream(self, name: str) -> None:
        """Let a newly registered upstream have series of its own (at most 500)."""
        if len(self._upstreams) < 500:
            self._upstreams.add(name)
            self._known.clear()  # it was counted as another one until now

    # -- core.ports.Telemetry ------------------------------------------------------------------------------

    def decision(self, point: Point, effect: str, rules: Sequence[str], eval_us: int, amount: int = 1) -> None:
        """Count one decision, or so many alike; eval_us: of one evaluation, microseconds, 0 when nothing was evaluated."""
        slot = ("decision", point, effect, *rules)
        known = self._known.get(slot)
        if known is None:
            told = (names.M_DECISIONS, (point.value, effect if effect in names.EFFECTS else OTHER))
            fired = [(names.M_RULES, (self._rule(rule),)) for rule in rules]
            known = self._places(slot, [told, *fired], names.M_DECISION_TIME, (point.value,))
        words, times = self.metrics.words, known.histogram
        for place in known.slots:
            words[place] += amount
        if times is not None and eval_us > 0:
            words[times.slots[bisect_left(times.buckets, eval_us)]] += 1
            words[times.slots[-1]] += eval_us

    def finding(self, rule: str, point: Point) -> None:
        """Count one finding."""
        self.metrics.add(names.M_FINDINGS, (self._rule(rule), point.value))

    # -- what gateways tell ----------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange, *, outcome: str, error: str = "", version: str = "", tool: str = "") -> None:
        """Count a finished exchange, and make its span when it is kept. Call it once, at the end; never raises.

        outcome: as `Guard.close`. error: a fault code of ours. tool: name of a *registered* tool or agent.
        """
        now_ns = self._clock.monotonic_ns() if self._clock is not None else exchange.started_ns
        duration_us = max(0, (now_ns - exchange.started_ns) // 1000)
        slot = ("exchange", exchange.protocol, exchange.upstream, exchange.verb, outcome, error)
        known = self._known.get(slot)
        if known is None:
            upstream, ended, method = self._labels_of(exchange, outcome)
            counter = (names.M_OUTCOMES, (exchange.protocol, upstream, ended))
            timed = _TIMED.get(exchange.protocol, "")
            known = self._places(slot, [counter], timed, (method, error_type(outcome, error)))
        words, times = self.metrics.words, known.histogram
        for place in known.slots:
            words[place] += 1
        if times is not None:
            words[times.slots[bisect_left(times.buckets, duration_us)]] += 1
            words[times.slots[-1]] += duration_us
        if self._tracer is None or self._clock is None:
            return
        upstream, ended, method = self._labels_of(exchange, outcome)
        kind = error_type(outcome, error)
        trace_id = exchange.trace_id or self._token_bytes(16).hex()
        if not kind and duration_us <= SLOW_US and not self._sampler.keep(trace_id):
            return
        parent = None
        if exchange.trace_id and exchange.parent_span:
            parent = TraceContext(exchange.trace_id, exchange.parent_span, True)
        attributes: dict[str, str | int | bool] = {
            names.EXCHANGE: exchange.id,
            names.OUTCOME: ended,
            names.UPSTREAM: upstream,
            names.DECISIONS: len(exchange.decisions),
            names.AUDIT_UID: exchange.intent_uid,
            "network.transport": "tcp",
        }
        if kind:
            attributes[names.ERROR_TYPE] = kind
        span = _describe(exchange.protocol, method, tool, version, attributes)
        end_us = self._clock.now_us()
        try:
            self._tracer.record(
                span,
                "server",
                end_us - duration_us,
                end_us,
                clean(attributes),
                parent=parent,
                span_id=exchange.span_id,
            )
        except (ValueError, BartizanError):
            return  # telemetry never fails a request

    def inference(
        self,
        provider: str,
        model: str,
        *,
        duration_us: int,
        first_chunk_us: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        micro_usd: int = 0,
        error: str = "",
    ) -> None:
        """Count one model call. provider, model: names from our own catalogue, never the caller's text."""
        metrics, labels = self.metrics, (provider, model)
        metrics.observe(names.M_LLM, (*labels, error), duration_us)
        if first_chunk_us:
            metrics.observe(names.M_FIRST, labels, first_chunk_us)
        for name, amount in (
            (names.M_INPUT, input_tokens),
            (names.M_OUTPUT, output_tokens),
            (names.M_CACHE_READ, cache_read_tokens),
            (names.M_COST, micro_usd),
        ):
            if amount > 0:
                metrics.add(name, labels, amount)

    def watch_audit(self, audit: AuditWriter) -> None:
        """Show the audit writer's figures with each exposition."""

        def collect() -> None:
            stats = audit.stats()
            self._count(names.M_AUDIT, int(stats["appended"]))
            self._count(names.M_AUDIT_REFUSED, int(stats["refused"]))
            self.metrics.set(names.M_AUDIT_LAG, int(stats["lag"]))
            self.metrics.set(names.M_AUDIT_BYTES, int(stats["bytes"]))
            self.metrics.set(names.M_AUDIT_USED, round(stats["used"] * 100))
            self.metrics.set(names.M_AUDIT_AGE, round(stats["checkpoint_age_s"] * 1e6))
            self.metrics.set(names.M_AUDIT_WRITABLE, 1 - int(stats["writable"]))

        self.metrics.on_collect(collect)

    def watch_marks(self, marks: SharedMarks) -> None:
        """Show the node's epoch with each exposition."""

        def collect() -> None:
            try:
                self.metrics.set(names.M_EPOCH, marks.epoch())
            except BartizanError:
                return

        self.metrics.on_collect(collect)

    def prometheus(self) -> bytes:
        """Return the exposition of all workers (`metrics.CONTENT_TYPE`); run it in a thread."""
        return self.metrics.exposition()

    def close(self) -> None:
        """Export waiting spans and give the metrics file back."""
        if self._tracer is not None:
            self._tracer.close()
        self.metrics.close()

    def _places(
        self, slot: tuple[str, ...], counters: Sequence[tuple[str, tuple[str, ...]]], timed: str, by: tuple[str, ...]
    ) -> _Places:
        """Return where samples of a kind are counted, and keep it unless a series was refused: those count each time."""
        metrics, dropped = self.metrics, self.metrics.dropped
        slots = tuple([metrics.series(name, labels) for name, labels in counters])
        places = _Places(slots, metrics.durations(timed, by) if timed else None)
        if metrics.dropped == dropped:
            if len(self._known) >= KINDS_KEPT:
                self._known.clear()
            self._known[slot] = places
        return places

    def _labels_of(self, exchange: Exchange, outcome: str) -> tuple[str, str, str]:
        """Return upstream, outcome and method as labels: names that we know, no others."""
        upstream = exchange.upstream if exchange.upstream in self._upstreams else OTHER
        ended = outcome if outcome in names.OUTCOMES else OTHER
        return upstream, ended, exchange.verb if exchange.verb in names.METHODS else OTHER

    def _rule(self, rule: str) -> str:
        if rule in self._rules:
            return rule
        if len(self._rules) >= RULES_KEPT:
            return OTHER
        self._rules.add(rule)
        return rule

    def _count(self, name: str, total: int) -> None:
        """Turn a figure that grows elsewhere into a counter."""
        delta = total - self._last.get(name, 0)
        if delta > 0:
            self.metrics.add(name, (), delta)
        self._last[name] = total

    def _collect(self) -> None:
        self._count(names.M_DROPPED, self.metrics.dropped)


_DENIALS: Final = frozenset(
    {"", "denied", "arguments_mismatch", "approval_pending", "quarantined", "killed", "scope_missing"}
)


def error_type(outcome: str, error: str) -> str:
    """Return ``error.type``: "" for success; a refusal by policy is ``policy_denied``."""
    if outcome == "ok":
        return ""
    if outcome == "refused" and error in _DENIALS:
        return "policy_denied"
    if error:
        return error if error in FAULTS else OTHER
    return outcome if outcome in names.OUTCOMES else OTHER


def span_name(method: str, target: str = "") -> str:
    """Return ``{method} {target}``; a target is a registered tool, prompt, agent or model, never a URI."""
    return f"{method} {target}" if target else method


def clean(attributes: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return the attributes that may leave: known names, values cut to 256 characters, no controls."""
    out: dict[str, str | int | bool] = {}
    for name, value in attributes.items():
        if name not in names.ATTRIBUTES or value == "":
            continue
        if isinstance(value, str):
            value = "".join(c for c in value[: names.ATTRIBUTE_CHARS] if c.isprintable())
        out[name] = value
    return out


def _describe(protocol: str, method: str, tool: str, version: str, attributes: dict[str, str | int | bool]) -> str:
    """Add the convention's attributes of a protocol and return the span's name."""
    if protocol == "mcp":
        attributes |= {names.MCP_METHOD: method, names.MCP_VERSION: version}
        if method == "tools/call":
            attributes |= {names.GENAI_OPERATION: "execute_tool", names.GENAI_TOOL: tool}
            return span_name(method, tool)
        return span_name(method)
    if protocol == "a2a":
        attributes |= {names.A2A_METHOD: method, names.A2A_VERSION: version, names.GENAI_AGENT: tool}
        return span_name(method)
    if protocol == "llm":
        attributes |= {names.GENAI_OPERATION: "chat", names.GENAI_MODEL: tool}
        return span_name("chat", tool)
    return protocol


def build_telemetry(
    *,
    directory: str | os.PathLike[str] | None,
    endpoint: str = "",
    sample_ratio: float = 0.01,
    upstreams: Sequence[str] = (),
    clock: Clock | None = None,
    service: Mapping[str, str] | None = None,
) -> GuardTelemetry:
    """Return the worker's telemetry. endpoint: OTLP/HTTP URL for spans; "" makes none and imports no SDK.

    Raises ConfigFault("otlp_endpoint", "sample_ratio"), StateUnavailable.
    """
    if clock is None:
        from firewall.net.runtime import SystemClock

        clock = SystemClock()
    tracer = Tracer(endpoint, {"service.name": "bartizan", **(service or {})}) if endpoint else None
    metrics = Metrics(directory, METRICS)
    return GuardTelemetry(metrics, upstreams=upstreams, tracer=tracer, ratio=sample_ratio, clock=clock)
