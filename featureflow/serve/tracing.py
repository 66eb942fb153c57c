"""OpenTelemetry spans, where the extra is installed and the settings ask for them."""

from __future__ import annotations

from typing import Protocol


class Tracer(Protocol):
    def span(self, name: str, parent: str, began_ns: int, ended_ns: int, attributes: dict[str, str | int]) -> None:
        """A finished span. ``parent``: a W3C traceparent, or empty. Instants: nanoseconds since 1970 UTC."""
        ...


def open_telemetry() -> Tracer:
    """Spans to the globally configured OpenTelemetry provider. Raises ImportError without the ``otel`` extra."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer, propagator = trace.get_tracer("featureflow.serve"), TraceContextTextMapPropagator()

    class Open:
        def span(self, name: str, parent: str, began_ns: int, ended_ns: int, attributes: dict[str, str | int]) -> None:
            context = propagator.extract({"traceparent": parent}) if parent else None
            tracer.start_span(name, context=context, start_time=began_ns, attributes=attributes).end(ended_ns)

    return Open()
