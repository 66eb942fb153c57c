"""OpenTelemetry spans, where the ``otel`` extra is installed and the settings ask for them.

A W3C traceparent travels from the HTTP request or the Kafka header of an event to the span of the commit that made it count, and from a
score's request to the score's span and its prediction record.
"""

from __future__ import annotations

from typing import Protocol

from featureflow.errors import SettingsError


class Tracer(Protocol):
    """Where spans go."""

    def span(self, name: str, parent: str, began_ns: int, ended_ns: int, attributes: dict[str, str | int]) -> None:
        """A finished span. ``parent``: a W3C traceparent, or empty. Instants: nanoseconds since 1970 UTC."""
        ...


def open_telemetry(service: str) -> Tracer:
    """Spans of ``service``, exported over OTLP as the standard ``OTEL_*`` variables say; a provider that is set already is kept.

    Raises SettingsError without the ``otel`` extra.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as error:
        raise SettingsError('tracing.enabled needs OpenTelemetry. Run: pip install "featureflow[otel]"') from error
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = TracerProvider(resource=Resource.create({"service.name": service}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    tracer, propagator = trace.get_tracer("featureflow"), TraceContextTextMapPropagator()

    class Open:
        def span(self, name: str, parent: str, began_ns: int, ended_ns: int, attributes: dict[str, str | int]) -> None:
            context = propagator.extract({"traceparent": parent}) if parent else None
            tracer.start_span(name, context=context, start_time=began_ns, attributes=attributes).end(ended_ns)

    return Open()
