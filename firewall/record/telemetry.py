"""Telemetry: every span, attribute and metric name that we emit, and what feeds them.

Names follow the standalone GenAI conventions (``open-telemetry/semantic-conventions-genai`` v0.1.0:
MCP, A2A, inference); they are in development and were renamed in 2026, so they stand here alone, and
``tests/record/test_telemetry.py`` holds a snapshot of all of them. Ours are ``bartizan.*``.

Audit and telemetry are separate systems: no subject, client, id, URL or free text is ever a metric
label; span attributes pass an allow list. A policy deny is not an error of ours: the SERVER span
gets ``error.type = policy_denied`` since the call failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from firewall.core.errors import FAULTS, BartizanError
from firewall.core.exchange import Exchange
from firewall.core.points import Point
from firewall.core.ports import Clock, SharedMarks
from firewall.record.metrics import OTHER, Metric, Metrics
from firewall.record.tracing import Sampler, TraceContext, Tracer

if TYPE_CHECKING:
    from firewall.record.audit import AuditWriter

SEMCONV: Final = "genai-0.1.0"

# -- span attributes: nothing else leaves --------------------------------------------------------------
MCP_METHOD: Final = "mcp.method.name"
MCP_VERSION: Final = "mcp.protocol.version"
A2A_METHOD: Final = "a2a.method.name"
A2A_VERSION: Final = "a2a.protocol.version"
GENAI_OPERATION: Final = "gen_ai.operation.name"
GENAI_TOOL: Final = "gen_ai.tool.name"
GENAI_AGENT: Final = "gen_ai.agent.name"
GENAI_PROVIDER: Final = "gen_ai.provider.name"
GENAI_MODEL: Final = "gen_ai.request.model"
GENAI_INPUT: Final = "gen_ai.usage.input_tokens"
GENAI_OUTPUT: Final = "gen_ai.usage.output_tokens"
GENAI_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
ERROR_TYPE: Final = "error.type"
DECISIONS: Final = "bartizan.decisions"
EXCHANGE: Final = "bartizan.exchange"
OUTCOME: Final = "bartizan.outcome"
UPSTREAM: Final = "bartizan.upstream"
AUDIT_UID: Final = "bartizan.audit.uid"
ATTRIBUTES: Final = frozenset(
    {
        MCP_METHOD,
        MCP_VERSION,
        A2A_METHOD,
        A2A_VERSION,
        GENAI_OPERATION,
        GENAI_TOOL,
        GENAI_AGENT,
        GENAI_PROVIDER,
        GENAI_MODEL,
        GENAI_INPUT,
        GENAI_OUTPUT,
        GENAI_CACHE_READ,
        ERROR_TYPE,
        DECISIONS,
        EXCHANGE,
        OUTCOME,
        UPSTREAM,
        AUDIT_UID,
        "network.transport",
        "network.protocol.name",
        "network.protocol.version",
        "server.address",
        "server.port",
    }
)
ATTRIBUTE_CHARS: Final = 256

# -- metrics --------------------------------------------------------------------------------------------
# Seconds of the MCP convention, in microseconds.
OPERATION_BUCKETS: Final = tuple(
    round(s * 1e6) for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
)
INFERENCE_BUCKETS: Final = tuple(10_000 * 2**n for n in range(14))  # 0.01·2ⁿ … 81.92 s
DECISION_BUCKETS: Final = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000)

M_MCP: Final = "mcp_server_operation_duration_seconds"
M_A2A: Final = "a2a_server_operation_duration_seconds"
M_LLM: Final = "gen_ai_client_inference_duration_seconds"
M_FIRST: Final = "gen_ai_client_inference_time_to_first_chunk_seconds"
M_INPUT: Final = "gen_ai_client_inference_usage_input_tokens_total"
M_OUTPUT: Final = "gen_ai_client_inference_usage_output_tokens_total"
M_CACHE_READ: Final = "gen_ai_client_inference_usage_cache_read_input_tokens_total"
M_COST: Final = "bartizan_cost_micro_usd_total"
M_DECISIONS: Final = "bartizan_decisions_total"
M_DECISION_TIME: Final = "bartizan_decision_duration_seconds"
M_RULES: Final = "bartizan_rule_hits_total"
M_FINDINGS: Final = "bartizan_findings_total"
M_OUTCOMES: Final = "bartizan_exchanges_total"
M_AUDIT: Final = "bartizan_audit_records_total"
M_AUDIT_LAG: Final = "bartizan_audit_lag_records"
M_AUDIT_BYTES: Final = "bartizan_audit_bytes"
M_AUDIT_USED: Final = "bartizan_audit_used_percent"
M_AUDIT_AGE: Final = "bartizan_audit_checkpoint_age_seconds"
M_AUDIT_REFUSED: Final = "bartizan_audit_refused_total"
M_AUDIT_WRITABLE: Final = "bartizan_audit_unwritable"
M_EPOCH: Final = "bartizan_epoch"
M_DROPPED: Final = "bartizan_telemetry_dropped_total"

METRICS: Final = (
    Metric(
        M_MCP,
        "histogram",
        "Duration of MCP requests, as their receiver.",
        ("method", "error_type"),
        OPERATION_BUCKETS,
        seconds=True,
    ),
    Metric(
        M_A2A,
        "histogram",
        "Duration of A2A requests, as their receiver.",
        ("method", "error_type"),
        OPERATION_BUCKETS,
        seconds=True,
    ),
    Metric(
        M_LLM,
        "histogram",
        "Duration of model inference.",
        ("provider", "model", "error_type"),
        INFERENCE_BUCKETS,
        seconds=True,
    ),
    Metric(
        M_FIRST,
        "histogram",
        "Time to the first streamed chunk.",
        ("provider", "model"),
        INFERENCE_BUCKETS,
        seconds=True,
    ),
    Metric(M_INPUT, "counter", "Input tokens, cached ones included.", ("provider", "model")),
    Metric(M_OUTPUT, "counter", "Output tokens.", ("provider", "model")),
    Metric(M_CACHE_READ, "counter", "Input tokens read from a provider's cache.", ("provider", "model")),
    Metric(M_COST, "counter", "Money spent on inference, micro-USD.", ("provider", "model")),
    Metric(M_DECISIONS, "counter", "Decisions by point and effect.", ("point", "effect")),
    Metric(M_DECISION_TIME, "histogram", "Policy evaluation time.", ("point",), DECISION_BUCKETS, seconds=True),
    Metric(M_RULES, "counter", "Decisions that a rule took part in.", ("rule",)),
    Metric(M_FINDINGS, "counter", "Findings by rule and point.", ("rule", "point")),
    Metric(
        M_OUTCOMES,
        "counter",
        "Finished exchanges by protocol, upstream and outcome.",
        ("protocol", "upstream", "outcome"),
    ),
    Metric(M_AUDIT, "counter", "Audit records written."),
    Metric(M_AUDIT_REFUSED, "counter", "Audit records that could not be written: their requests were refused."),
    Metric(M_AUDIT_LAG, "gauge", "Audit records written and not yet on disk.", merge="max"),
    Metric(M_AUDIT_BYTES, "gauge", "Size of the audit directory, bytes.", merge="max"),
    Metric(M_AUDIT_USED, "gauge", "Audit directory, percent of audit.local_max.", merge="max"),
    Metric(M_AUDIT_AGE, "gauge", "Age of the newest checkpoint while records wait for one.", merge="max", seconds=True),
    Metric(M_AUDIT_WRITABLE, "gauge", "1 while a worker can write no audit record.", merge="max"),
    Metric(M_EPOCH, "gauge", "Epoch of revocations, kill switch and registry.", merge="max"),
    Metric(M_DROPPED, "counter", "Samples counted as 'other' beyond the bound on series."),
)

EFFECTS: Final = frozenset({"allow", "transform", "approve", "deny", "error"})
OUTCOMES: Final = frozenset({"ok", "refused", "upstream_fault", "cancelled", "internal"})
# The methods that our gateways know; anything else is `other`.
METHODS: Final = frozenset(
    {
        "initialize",
        "server/discover",
        "ping",
        "tools/list",
        "tools/call",
        "notifications/initialized",
        "notifications/cancelled",
        "SendMessage",
        "SendStreamingMessage",
        "GetTask",
        "CancelTask",
        "GetExtendedAgentCard",
    }
)
RULES_KEPT: Final = 1_000
SLOW_US: Final = 1_000_000


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
        metrics.on_collect(self._collect)

    def know_upstream(self, name: str) -> None:
        """Let a newly registered upstream have series of its own (at most 500)."""
        if len(self._upstreams) < 500:
            self._upstreams.add(name)

    # -- core.ports.Telemetry ------------------------------------------------------------------------------

    def decision(self, point: Point, effect: str, rules: Sequence[str], eval_us: int) -> None:
        """Count one decision; eval_us: microseconds, 0 when nothing was evaluated."""
        metrics = self.metrics
        metrics.add(M_DECISIONS, (point.value, effect if effect in EFFECTS else OTHER))
        if eval_us:
            metrics.observe(M_DECISION_TIME, (point.value,), eval_us)
        for rule in rules:
            metrics.add(M_RULES, (self._rule(rule),))

    def finding(self, rule: str, point: Point) -> None:
        """Count one finding."""
        self.metrics.add(M_FINDINGS, (self._rule(rule), point.value))

    # -- what gateways tell ----------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange, *, outcome: str, error: str = "", version: str = "", tool: str = "") -> None:
        """Count a finished exchange, and make its span when it is kept. Call it once, at the end; never raises.

        outcome: as `Guard.close`. error: a fault code of ours. tool: name of a *registered* tool or agent.
        """
        now_ns = self._clock.monotonic_ns() if self._clock is not None else exchange.started_ns
        duration_us = max(0, (now_ns - exchange.started_ns) // 1000)
        upstream = exchange.upstream if exchange.upstream in self._upstreams else OTHER
        ended = outcome if outcome in OUTCOMES else OTHER
        self.metrics.add(M_OUTCOMES, (exchange.protocol, upstream, ended))
        method = exchange.verb if exchange.verb in METHODS else OTHER
        kind = error_type(outcome, error)
        name = {"mcp": M_MCP, "a2a": M_A2A}.get(exchange.protocol)
        if name is not None:
            self.metrics.observe(name, (method, kind), duration_us)
        if self._tracer is None or self._clock is None:
            return
        trace_id = exchange.trace_id or self._token_bytes(16).hex()
        if not kind and duration_us <= SLOW_US and not self._sampler.keep(trace_id):
            return
        parent = None
        if exchange.trace_id and exchange.parent_span:
            parent = TraceContext(exchange.trace_id, exchange.parent_span, True)
        attributes: dict[str, str | int | bool] = {
            EXCHANGE: exchange.id,
            OUTCOME: ended,
            UPSTREAM: upstream,
            DECISIONS: len(exchange.decisions),
            AUDIT_UID: exchange.intent_uid,
            "network.transport": "tcp",
        }
        if kind:
            attributes[ERROR_TYPE] = kind
        span = _describe(exchange.protocol, method, tool, version, attributes)
        end_us = self._clock.now_us()
        try:
            self._tracer.record(span, "server", end_us - duration_us, end_us, clean(attributes), parent=parent)
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
        metrics.observe(M_LLM, (*labels, error), duration_us)
        if first_chunk_us:
            metrics.observe(M_FIRST, labels, first_chunk_us)
        for name, amount in (
            (M_INPUT, input_tokens),
            (M_OUTPUT, output_tokens),
            (M_CACHE_READ, cache_read_tokens),
            (M_COST, micro_usd),
        ):
            if amount > 0:
                metrics.add(name, labels, amount)

    def watch_audit(self, audit: AuditWriter) -> None:
        """Show the audit writer's figures with each exposition."""

        def collect() -> None:
            stats = audit.stats()
            self._count(M_AUDIT, int(stats["appended"]))
            self._count(M_AUDIT_REFUSED, int(stats["refused"]))
            self.metrics.set(M_AUDIT_LAG, int(stats["lag"]))
            self.metrics.set(M_AUDIT_BYTES, int(stats["bytes"]))
            self.metrics.set(M_AUDIT_USED, round(stats["used"] * 100))
            self.metrics.set(M_AUDIT_AGE, round(stats["checkpoint_age_s"] * 1e6))
            self.metrics.set(M_AUDIT_WRITABLE, 1 - int(stats["writable"]))

        self.metrics.on_collect(collect)

    def watch_marks(self, marks: SharedMarks) -> None:
        """Show the node's epoch with each exposition."""

        def collect() -> None:
            try:
                self.metrics.set(M_EPOCH, marks.epoch())
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
        self._count(M_DROPPED, self.metrics.dropped)


def error_type(outcome: str, error: str) -> str:
    """Return ``error.type``: "" for success; a refusal by policy is ``policy_denied``."""
    if outcome == "ok":
        return ""
    if outcome == "refused" and error in ("", "denied", "approval_pending", "quarantined", "killed", "scope_missing"):
        return "policy_denied"
    if error:
        return error if error in FAULTS else OTHER
    return outcome if outcome in OUTCOMES else OTHER


def span_name(method: str, target: str = "") -> str:
    """Return ``{method} {target}``; a target is a registered tool, prompt, agent or model, never a URI."""
    return f"{method} {target}" if target else method


def clean(attributes: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return the attributes that may leave: known names, values cut to 256 characters, no controls."""
    out: dict[str, str | int | bool] = {}
    for name, value in attributes.items():
        if name not in ATTRIBUTES or value == "":
            continue
        if isinstance(value, str):
            value = "".join(c for c in value[:ATTRIBUTE_CHARS] if c.isprintable())
        out[name] = value
    return out


def _describe(protocol: str, method: str, tool: str, version: str, attributes: dict[str, str | int | bool]) -> str:
    """Add the convention's attributes of a protocol and return the span's name."""
    if protocol == "mcp":
        attributes |= {MCP_METHOD: method, MCP_VERSION: version}
        if method == "tools/call":
            attributes |= {GENAI_OPERATION: "execute_tool", GENAI_TOOL: tool}
            return span_name(method, tool)
        return span_name(method)
    if protocol == "a2a":
        attributes |= {A2A_METHOD: method, A2A_VERSION: version, GENAI_AGENT: tool}
        return span_name(method)
    if protocol == "llm":
        attributes |= {GENAI_OPERATION: "chat", GENAI_MODEL: tool}
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
