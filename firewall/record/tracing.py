"""Traces: W3C Trace Context read and written by hand, and spans made after the fact.

Whether a request is sampled is decided from its header before anything is built; one span per
request is then made at its end, with explicit times, so an unsampled request costs nothing
(performance reference §9). The OpenTelemetry SDK is imported only when an endpoint is configured.
A trace is a convenience; the audit log is complete and unsampled.

``baggage`` is dropped: it is a stranger's free text. A caller's sampling flag never forces sampling.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from firewall.core.errors import ConfigFault

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

from firewall.core.jsonvalue import JSONObject

TRACESTATE_CHARS: Final = 512
_HEX: Final = frozenset(b"0123456789abcdef")
_PROPAGATED: Final = ("traceparent", "tracestate", "baggage")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace: 32 hex, 16 hex, sampled."""

    trace_id: str
    span_id: str
    sampled: bool

    def header(self) -> str:
        """Return the ``traceparent`` value (W3C Trace Context §3.2)."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(value: bytes) -> TraceContext | None:
    """Return the context of a ``traceparent``, or None: what is malformed is ignored, not an error.

    Version 00 has exactly 55 characters; a later version may have more after a dash (§3.2.2, §4).
    """
    if len(value) < 55 or value[2:3] != b"-" or value[35:36] != b"-" or value[52:53] != b"-":
        return None
    version, trace, span, flags = value[:2], value[3:35], value[36:52], value[53:55]
    if not _HEX.issuperset(version + trace + span + flags) or version == b"ff":
        return None
    if len(value) > 55 and (version == b"00" or value[55:56] != b"-"):
        return None
    if trace == b"0" * 32 or span == b"0" * 16:
        return None
    return TraceContext(trace.decode(), span.decode(), bool(int(flags, 16) & 1))


def new_context(token_bytes: Callable[[int], bytes], *, sampled: bool) -> TraceContext:
    """Return the root of a new trace."""
    return TraceContext((token_bytes(16) or b"").hex(), token_bytes(8).hex(), sampled)


def child_of(parent: TraceContext, token_bytes: Callable[[int], bytes]) -> TraceContext:
    """Return a context below ``parent``, to send upstream."""
    return TraceContext(parent.trace_id, token_bytes(8).hex(), parent.sampled)


def with_trace_meta(params: JSONObject, context: TraceContext | None) -> JSONObject:
    """Return MCP ``params`` whose ``_meta`` carries our context and no stranger's (SEP-414: unprefixed names)."""
    meta = params.get("_meta")
    kept = {k: v for k, v in meta.items() if k not in _PROPAGATED} if isinstance(meta, dict) else {}
    if context is not None:
        kept["traceparent"] = context.header()
    if not kept:
        return {k: v for k, v in params.items() if k != "_meta"}
    return {**params, "_meta": kept}


def trace_headers(context: TraceContext | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that carry a context upstream; no ``tracestate``, no ``baggage``."""
    return ((b"traceparent", context.header().encode()),) if context is not None else ()


class Sampler:
    """Head sampling: a share of new traces; a caller's flag is followed only within that share.

    The choice is a function of the trace id (its last 7 bytes, W3C Level 2 §random), so every node
    that sees the trace chooses alike.
    """

    def __init__(self, ratio: float) -> None:
        if not 0 <= ratio <= 1:
            raise ConfigFault("sample_ratio", fix="telemetry.sample_ratio is between 0 and 1")
        self._bound = round(ratio * (1 << 56))

    def keep(self, trace_id: str) -> bool:
        """Return whether a trace belongs to the share."""
        return int(trace_id[-14:], 16) < self._bound


class Tracer:
    """Makes finished spans and exports them from a background thread.

    endpoint: full OTLP/HTTP URL of the traces signal; https, or http to loopback.
    exporter: in place of OTLP, for tests.
    Queue: 2,048 spans; when it is full the SDK drops the oldest. Exporting never blocks a request.
    Raises ConfigFault("otlp_endpoint").
    """

    def __init__(self, endpoint: str, service: Mapping[str, str], *, exporter: SpanExporter | None = None) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._next: list[int] = []
        following = self._next
        self._lock = Lock()

        class GivenIds(RandomIdGenerator):
            """Takes the span id that was already sent upstream."""

            def generate_span_id(self) -> int:
                return (following.pop() if following else 0) or super().generate_span_id()

        limits = SpanLimits(max_span_attributes=64, max_attribute_length=256, max_events=0, max_links=1)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # we decided already
            id_generator=GivenIds(),
            resource=Resource(dict(service)),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        self._processor = BatchSpanProcessor(
            exporter or _otlp(endpoint),
            max_queue_size=2048,
            schedule_delay_millis=2000,
            max_export_batch_size=512,
            export_timeout_millis=5000,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("bartizan")

    def record(
        self,
        name: str,
        kind: str,
        start_us: int,
        end_us: int,
        attributes: Mapping[str, str | int | bool],
        *,
        parent: TraceContext | None = None,
        span_id: str = "",
    ) -> None:
        """Record one finished span. span_id: the id that went upstream as parent, 16 hex characters. kind: ``server | client | internal``; status is ERROR iff error.type is set."""
        from opentelemetry.context import Context
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            Status,
            StatusCode,
            TraceFlags,
            set_span_in_context,
        )

        context = Context()
        if parent is not None:
            above = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(above), context)
        with self._lock:
            self._next.append(int(span_id, 16) if span_id else 0)
            span = self._tracer.start_span(
                name,
                context,
                SpanKind[kind.upper()],
                attributes=dict(attributes),
                start_time=start_us * 1000,
                record_exception=False,
                set_status_on_exception=False,
            )
            self._next.clear()
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))  # no description: messages can quote a caller
        span.end(end_us * 1000)

    def flush(self) -> None:
        """Export what is waiting; blocks. For shutdown and tests."""
        self._provider.force_flush(2000)

    def close(self) -> None:
        """Export what is waiting, within two seconds, and stop the thread."""
        self._provider.force_flush(1500)
        self._provider.shutdown()


def check_endpoint(endpoint: str) -> None:
    """Raise ConfigFault unless the endpoint is https, or http to this machine."""
    parts = urlsplit(endpoint)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if (
        parts.username
        or parts.password
        or not parts.hostname
        or not (parts.scheme == "https" or (parts.scheme == "http" and local))
    ):
        raise ConfigFault(
            "otlp_endpoint", fix="telemetry.otlp_endpoint is an https URL without credentials, or http to loopback"
        )


def _otlp(endpoint: str) -> Any:
    check_endpoint(endpoint)
    # The exporter's own transport follows redirects and environment proxies; ours does neither.
    import requests  # noqa: TID251 -- the exporter's transport; the operator's own, checked URL
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    parts = urlsplit(endpoint)
    url = endpoint if parts.path.rstrip("/") else f"{parts.scheme}://{parts.netloc}/v1/traces"
    return OTLPSpanExporter(endpoint=url, timeout=5, session=session, headers={"x-bartizan-pid": str(os.getpid())})
