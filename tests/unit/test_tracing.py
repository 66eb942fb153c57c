"""A span is part of the trace that its request or event belongs to."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from featureflow.tracing import open_telemetry


def test_a_span_continues_the_trace_of_its_traceparent() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    tracer = open_telemetry("test")
    tracer.span("score", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", 1_000, 3_000, {"model": "tip", "status": 200})
    tracer.span("score", "", 1_000, 3_000, {})
    joined, own = exporter.get_finished_spans()
    assert joined.context is not None
    assert joined.parent is not None
    assert f"{joined.context.trace_id:032x}" == "a" * 32
    assert f"{joined.parent.span_id:016x}" == "b" * 16
    assert (joined.start_time, joined.end_time) == (1_000, 3_000)
    assert joined.attributes == {"model": "tip", "status": 200}
    assert own.parent is None
    provider.shutdown()
