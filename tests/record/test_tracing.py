"""Trace context by hand; spans after the fact."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from firewall.core.errors import ConfigFault
from firewall.record.tracing import (
    Sampler,
    TraceContext,
    Tracer,
    check_endpoint,
    child_of,
    new_context,
    parse_traceparent,
    trace_headers,
    with_trace_meta,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{SPAN}-01".encode()
CONTEXT = TraceContext(TRACE, SPAN, True)


def test_a_traceparent_is_read_and_written() -> None:
    assert parse_traceparent(HEADER) == CONTEXT
    assert CONTEXT.header().encode() == HEADER
    unsampled = parse_traceparent(HEADER[:-2] + b"02")
    assert unsampled is not None
    assert unsampled.sampled is False
    assert parse_traceparent(b"cc" + HEADER[2:] + b"-what-comes") == CONTEXT


@pytest.mark.parametrize(
    "value",
    [
        b"",
        HEADER[:-1],
        HEADER + b"-x",
        HEADER.upper(),
        b"ff" + HEADER[2:],
        HEADER.replace(b"4b", b"4g"),
        b"00-" + b"0" * 32 + HEADER[35:],
        HEADER[:36] + b"0" * 16 + b"-01",
        HEADER.replace(b"-", b"_"),
        b"cc" + HEADER[2:] + b"x",
    ],
)
def test_a_malformed_traceparent_is_ignored(value: bytes) -> None:
    assert parse_traceparent(value) is None


def test_only_our_context_goes_on() -> None:
    params = {"name": "t", "_meta": {"traceparent": "theirs", "tracestate": "x", "baggage": "user=alice", "keep": 1}}
    assert with_trace_meta(params, CONTEXT) == {"name": "t", "_meta": {"keep": 1, "traceparent": CONTEXT.header()}}
    assert with_trace_meta({"_meta": {"baggage": "x"}, "a": 1}, None) == {"a": 1}
    assert with_trace_meta({"a": 1}, None) == {"a": 1}
    assert params["_meta"] == {"traceparent": "theirs", "tracestate": "x", "baggage": "user=alice", "keep": 1}
    assert trace_headers(CONTEXT) == ((b"traceparent", HEADER),)
    assert trace_headers(None) == ()


def test_contexts_are_made_of_given_bytes() -> None:
    root = new_context(lambda n: b"\x01" * n, sampled=False)
    assert root == TraceContext("01" * 16, "01" * 8, False)
    assert child_of(root, lambda n: b"\x02" * n) == TraceContext("01" * 16, "02" * 8, False)


def test_the_sampler_keeps_its_share_and_all_nodes_choose_alike() -> None:
    some = Sampler(0.25)
    ids = [f"{n * 0x9E3779B97F4A7C15 % 2**128:032x}" for n in range(4000)]
    kept = [i for i in ids if some.keep(i)]
    assert 800 < len(kept) < 1200
    assert kept == [i for i in ids if Sampler(0.25).keep(i)]
    assert not any(Sampler(0).keep(i) for i in ids)
    assert all(Sampler(1).keep(i) for i in ids)
    with pytest.raises(ConfigFault):
        Sampler(1.5)


def test_a_span_is_made_after_the_fact_under_its_parent() -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer("", {"service.name": "bartizan"}, exporter=exporter)
    tracer.record("tools/call x", "server", 1_000_000, 3_000_000, {"error.type": "policy_denied"}, parent=CONTEXT)
    tracer.record("ping", "server", 1, 2, {})
    tracer.flush()
    first, second = exporter.get_finished_spans()
    assert (first.name, first.kind) == ("tools/call x", SpanKind.SERVER)
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == SPAN
    assert (first.start_time, first.end_time) == (1_000_000_000, 3_000_000_000)
    assert first.status.status_code is StatusCode.ERROR
    assert not first.status.description
    assert second.parent is None
    assert second.status.status_code is StatusCode.UNSET
    tracer.close()


@pytest.mark.parametrize(
    "endpoint",
    ["http://collector.example/v1/traces", "https://user:pw@collector.example/", "ftp://127.0.0.1/", "nonsense"],
)
def test_spans_do_not_travel_in_clear_or_with_credentials(endpoint: str) -> None:
    with pytest.raises(ConfigFault):
        check_endpoint(endpoint)
    check_endpoint("https://collector.example/v1/traces")
    check_endpoint("http://127.0.0.1:4318/v1/traces")


def test_the_sdk_is_not_imported_without_an_endpoint() -> None:
    script = (
        "import sys; from firewall.record.telemetry import build_telemetry;"
        "build_telemetry(directory=None); print(any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
