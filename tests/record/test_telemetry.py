"""Every name we emit, and what feeds it."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from firewall.core.exchange import Exchange
from firewall.core.points import Point
from firewall.core.principal import Actor, Principal
from firewall.net.runtime import FakeClock
from firewall.record.metrics import Metrics
from firewall.record.names import ATTRIBUTES, METRICS
from firewall.record.telemetry import KINDS_KEPT, GuardTelemetry, build_telemetry, clean, error_type, span_name
from firewall.record.tracing import Tracer

from .conftest import Make, decision

WHO = Principal("t", "iss", "alice", "planner", frozenset(), "aud", (Actor("alice"),), 0)


def exchange(**more: Any) -> Exchange:
    made = Exchange("x_1", WHO, "mcp", 1_000_000_000)
    made.verb, made.upstream = "tools/call", "git"
    for name, value in more.items():
        setattr(made, name, value)
    return made


def lines(telemetry: GuardTelemetry) -> list[str]:
    return [line for line in telemetry.prometheus().decode().splitlines() if not line.startswith("#")]


def test_the_names_are_these() -> None:
    """A rename is an edit of this list: dashboards and alerts depend on it."""
    assert sorted(m.name for m in METRICS) == [
        "a2a_server_operation_duration_seconds",
        "bartizan_audit_bytes",
        "bartizan_audit_checkpoint_age_seconds",
        "bartizan_audit_lag_records",
        "bartizan_audit_records_total",
        "bartizan_audit_refused_total",
        "bartizan_audit_unwritable",
        "bartizan_audit_used_percent",
        "bartizan_cost_micro_usd_total",
        "bartizan_decision_duration_seconds",
        "bartizan_decisions_total",
        "bartizan_epoch",
        "bartizan_exchanges_total",
        "bartizan_findings_total",
        "bartizan_rule_hits_total",
        "bartizan_telemetry_dropped_total",
        "gen_ai_client_inference_duration_seconds",
        "gen_ai_client_inference_time_to_first_chunk_seconds",
        "gen_ai_client_inference_usage_cache_read_input_tokens_total",
        "gen_ai_client_inference_usage_input_tokens_total",
        "gen_ai_client_inference_usage_output_tokens_total",
        "mcp_server_operation_duration_seconds",
    ]
    assert sorted(ATTRIBUTES) == [
        "a2a.method.name",
        "a2a.protocol.version",
        "bartizan.audit.uid",
        "bartizan.decisions",
        "bartizan.exchange",
        "bartizan.outcome",
        "bartizan.upstream",
        "error.type",
        "gen_ai.agent.name",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.tool.name",
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "mcp.method.name",
        "mcp.protocol.version",
        "network.protocol.name",
        "network.protocol.version",
        "network.transport",
        "server.address",
        "server.port",
    ]


def test_decisions_findings_and_rules_are_counted() -> None:
    telemetry = build_telemetry(directory=None)
    telemetry.decision(Point.MCP_TOOL_CALL, "deny", ("tools.pin_mismatch",), 180)
    telemetry.decision(Point.MCP_TOOL_CALL, "deny", ("tools.pin_mismatch",), 0)
    telemetry.decision(Point.LLM_REQUEST, "made up", (), 5)
    telemetry.finding("secret.aws", Point.MCP_TOOL_CALL)
    shown = lines(telemetry)
    assert 'bartizan_decisions_total{point="mcp.tool.call",effect="deny"} 2' in shown
    assert 'bartizan_decisions_total{point="llm.request",effect="other"} 1' in shown
    assert 'bartizan_rule_hits_total{rule="tools.pin_mismatch"} 2' in shown
    assert 'bartizan_findings_total{rule="secret.aws",point="mcp.tool.call"} 1' in shown
    assert 'bartizan_decision_duration_seconds_count{point="mcp.tool.call"} 1' in shown


def test_what_strangers_choose_never_becomes_a_label() -> None:
    telemetry = build_telemetry(directory=None, upstreams=("git",), clock=FakeClock())
    telemetry.exchange(exchange(verb="evil/method", upstream="evil-upstream"), outcome="evil", error="evil-code")
    telemetry.exchange(exchange(), outcome="ok")
    text = telemetry.prometheus().decode()
    assert "evil" not in text
    assert 'bartizan_exchanges_total{protocol="mcp",upstream="other",outcome="other"} 1' in text
    assert 'bartizan_exchanges_total{protocol="mcp",upstream="git",outcome="ok"} 1' in text
    for n in range(2000):
        telemetry.decision(Point.MCP_TOOL_CALL, "allow", (f"rule.{n}",), 0)
    assert 'bartizan_rule_hits_total{rule="other"} 1000' in lines(telemetry)


def test_inference_is_counted_by_catalogue_names() -> None:
    telemetry = build_telemetry(directory=None)
    telemetry.inference(
        "openai", "gpt-x", duration_us=2_000_000, first_chunk_us=90_000, input_tokens=10, output_tokens=4, micro_usd=7
    )
    shown = lines(telemetry)
    assert 'gen_ai_client_inference_usage_input_tokens_total{provider="openai",model="gpt-x"} 10' in shown
    assert 'gen_ai_client_inference_usage_output_tokens_total{provider="openai",model="gpt-x"} 4' in shown
    assert 'bartizan_cost_micro_usd_total{provider="openai",model="gpt-x"} 7' in shown
    assert 'gen_ai_client_inference_duration_seconds_sum{provider="openai",model="gpt-x",error_type=""} 2' in shown


def test_the_audit_writers_figures_are_shown(make: Make, tmp_path: Path) -> None:
    writer = make()
    telemetry = build_telemetry(directory=None)
    telemetry.watch_audit(writer)
    for n in range(3):
        writer.append(decision(n))
    shown = lines(telemetry)
    assert "bartizan_audit_records_total 4" in shown
    assert "bartizan_audit_unwritable 0" in shown
    assert "bartizan_audit_records_total 4" in lines(telemetry)


def traced(ratio: float) -> tuple[GuardTelemetry, InMemorySpanExporter, FakeClock]:
    exporter, clock = InMemorySpanExporter(), FakeClock()
    tracer = Tracer("", {"service.name": "bartizan"}, exporter=exporter)
    return (
        GuardTelemetry(Metrics(None, METRICS), upstreams=("git",), tracer=tracer, ratio=ratio, clock=clock),
        exporter,
        clock,
    )


def test_refused_failed_and_slow_exchanges_are_always_traced() -> None:
    telemetry, exporter, clock = traced(0)
    telemetry.exchange(exchange(), outcome="ok")
    telemetry.exchange(exchange(), outcome="refused", error="denied")
    telemetry.exchange(exchange(), outcome="upstream_fault", error="upstream_timeout")
    clock.advance(2)
    telemetry.exchange(exchange(), outcome="ok", tool="status", version="2026-07-28")
    assert telemetry._tracer is not None
    telemetry._tracer.flush()
    spans = exporter.get_finished_spans()
    assert [dict(s.attributes or {}).get("error.type") for s in spans] == ["policy_denied", "upstream_timeout", None]
    slow = dict(spans[2].attributes or {})
    assert spans[2].name == "tools/call status"
    assert slow["gen_ai.operation.name"] == "execute_tool"
    assert slow["mcp.protocol.version"] == "2026-07-28"
    assert set(slow) <= ATTRIBUTES
    telemetry.close()


def test_a_sampled_exchange_continues_the_callers_trace() -> None:
    telemetry, exporter, _ = traced(1)
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    telemetry.exchange(exchange(trace_id=trace, parent_span=span), outcome="ok")
    telemetry.exchange(exchange(protocol="a2a", verb="SendMessage"), outcome="ok", tool="agent")
    telemetry.exchange(exchange(protocol="llm", verb="chat"), outcome="ok", tool="gpt-x")
    assert telemetry._tracer is not None
    telemetry._tracer.flush()
    first, second, third = exporter.get_finished_spans()
    assert f"{first.context.trace_id:032x}" == trace
    assert second.name == "SendMessage"
    assert third.name == "chat gpt-x"
    telemetry.close()


def test_a_callers_flag_does_not_force_sampling() -> None:
    telemetry, exporter, _ = traced(0)
    telemetry.exchange(exchange(trace_id="f" * 32, parent_span="1" * 16, sampled=True), outcome="ok")
    assert telemetry._tracer is not None
    telemetry._tracer.flush()
    assert exporter.get_finished_spans() == ()
    telemetry.close()


def test_attributes_pass_an_allow_list() -> None:
    cleaned = clean(
        {"mcp.method.name": "a\x00b" + "x" * 999, "user.email": "alice", "error.type": "", "server.port": 1}
    )
    assert set(cleaned) == {"mcp.method.name", "server.port"}
    assert cleaned["mcp.method.name"] == "ab" + "x" * 253


def test_error_types_are_a_closed_set() -> None:
    assert error_type("ok", "") == ""
    assert error_type("refused", "denied") == "policy_denied"
    assert error_type("refused", "over_limit") == "over_limit"
    assert error_type("cancelled", "") == "cancelled"
    assert error_type("upstream_fault", "whatever a server said") == "other"
    assert span_name("tools/call", "git/status") == "tools/call git/status"
    assert span_name("ping") == "ping"


def test_spans_reach_a_collector_over_http() -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        telemetry = build_telemetry(
            directory=None, endpoint=f"http://127.0.0.1:{server.server_port}", sample_ratio=1, clock=FakeClock()
        )
        telemetry.exchange(exchange(), outcome="ok", tool="status")
        telemetry.close()
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path, _ in got] == ["/v1/traces"]
    assert b"tools/call status" in got[0][1]


@pytest.mark.parametrize("endpoint", ["http://collector.example"])
def test_an_unsafe_endpoint_stops_the_start(endpoint: str) -> None:
    from firewall.core.errors import ConfigFault

    with pytest.raises(ConfigFault):
        build_telemetry(directory=None, endpoint=endpoint)


def test_an_upstream_that_becomes_known_is_counted_under_its_name_from_then_on() -> None:
    telemetry = GuardTelemetry(Metrics(None, METRICS))
    for _ in range(2):
        telemetry.exchange(exchange(), outcome="ok")
    telemetry.know_upstream("git")
    for _ in range(3):
        telemetry.exchange(exchange(), outcome="ok")
    counted = {
        line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines(telemetry) if "exchanges_total" in line
    }
    assert counted == {
        'bartizan_exchanges_total{protocol="mcp",upstream="other",outcome="ok"}': "2",
        'bartizan_exchanges_total{protocol="mcp",upstream="git",outcome="ok"}': "3",
    }


def test_each_sample_beyond_the_bound_of_series_counts_as_dropped() -> None:
    metrics = Metrics(None, METRICS, series=3)
    telemetry = GuardTelemetry(metrics)
    telemetry.decision(Point.MCP_TOOL_CALL, "allow", (), 5)
    before = metrics.dropped
    for _ in range(4):
        telemetry.decision(Point.MCP_TOOL_CALL, "deny", ("demo.rule",), 5)
    assert metrics.dropped >= before + 4


def test_kinds_of_samples_are_bounded() -> None:
    telemetry = GuardTelemetry(Metrics(None, METRICS))
    for n in range(KINDS_KEPT + 10):
        telemetry.exchange(exchange(upstream=f"u{n}"), outcome="ok")
    assert len(telemetry._known) <= KINDS_KEPT
