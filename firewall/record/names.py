"""Every span attribute and metric name that we emit, with the closed sets of label values.

Names follow the standalone GenAI conventions (``open-telemetry/semantic-conventions-genai`` v0.1.0:
MCP, A2A, inference). They are in development and were renamed in 2026, so they stand here alone;
``tests/record/test_telemetry.py`` holds a snapshot of all of them. Ours are ``bartizan.*``.
OTel to Prometheus: dots become underscores, the unit is a suffix, counters end in ``_total``.
"""

from __future__ import annotations

from typing import Final

from firewall.record.metrics import Metric

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
    Metric(M_AUDIT_USED, "gauge", "Audit directory, percent of audit.max_bytes.", merge="max"),
    Metric(M_AUDIT_AGE, "gauge", "Age of the newest checkpoint while records wait for one.", merge="max", seconds=True),
    Metric(M_AUDIT_WRITABLE, "gauge", "1 while a worker can write no audit record.", merge="max"),
    Metric(M_EPOCH, "gauge", "Epoch of revocations, kill switch and registry.", merge="max"),
    Metric(M_DROPPED, "counter", "Samples counted as 'other' beyond the bound on series."),
)

EFFECTS: Final = frozenset({"allow", "transform", "approve", "deny", "error"})
OUTCOMES: Final = frozenset({"ok", "refused", "upstream_fault", "cancelled", "internal", "handed_over"})
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
