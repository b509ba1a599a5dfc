"""Figures of one serving process, in the words of Prometheus.

They are taken where the access log is written, once for each request, and read off the
server when somebody asks. Labels have few values, whatever clients send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from ..application.context import LogAccess, Scope
from ..application.http import HTTPStream

if TYPE_CHECKING:
    from .server import Server

#: Methods that have a label of their own (RFC 9110 section 9, RFC 5789). Any token is a
#: method, and there is no end to what clients send.
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
)

#: Seconds. From what the server alone takes to what makes people leave.
_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Figures:
    """What ``server`` has done, and what it is doing.

    What the application itself has registered with ``prometheus_client`` is told along.
    """

    def __init__(self) -> None:
        self._server: Server | None = None
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "django_daphne_requests",
            "Requests that the application has answered, or was to answer.",
            ("method", "status", "http_version"),
            registry=registry,
        )
        self._seconds = Histogram(
            "django_daphne_request_seconds",
            "From a request's head to the end of its response.",
            buckets=_DURATIONS,
            registry=registry,
        )
        self._sent = Counter(
            "django_daphne_response_body_bytes",
            "Bytes of response bodies.",
            registry=registry,
        )
        self._handshakes = Counter(
            "django_daphne_websocket_handshakes",
            "WebSockets that the application has accepted, or has not.",
            ("outcome",),
            registry=registry,
        )
        registry.register(self)

    def watch(self, server: Server) -> None:
        """Tell of ``server`` from now on."""
        self._server = server

    def counting(self, log_access: LogAccess | None) -> LogAccess:
        """``log_access``, and the same into these figures."""

        def count(
            kind: str, scope: Scope, status: int, sent: int, seconds: float
        ) -> None:
            if kind == "http":
                method = scope["method"]
                self._requests.labels(
                    method if method in _METHODS else "other",
                    status,
                    scope["http_version"],
                ).inc()
                self._seconds.observe(seconds)
                self._sent.inc(sent)
            elif kind == "connect":
                self._handshakes.labels("accepted").inc()
            elif kind == "reject":
                self._handshakes.labels("denied").inc()
            if log_access is not None:
                log_access(kind, scope, status, sent, seconds)

        return count

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, as ``accept`` would have them."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # It compares versions that it has not read.
            encode, content_type = choose_encoder("")
        text: bytes = encode(self._registry)
        others: bytes = encode(REGISTRY)
        # OpenMetrics ends with a mark of which there may be one.
        return content_type, text.removesuffix(b"# EOF\n") + others

    def collect(self) -> Iterator[Metric]:
        """What is read off the server; called by the registry."""
        server = self._server
        if server is None:
            return
        streams = list(server.context.streams)
        requests = sum(isinstance(stream, HTTPStream) for stream in streams)
        for name, description, value in (
            ("connections", "Connections that are open.", len(server.connections)),
            ("requests_in_progress", "Requests in the application.", requests),
            (
                "websockets",
                "WebSockets in the application.",
                len(streams) - requests,
            ),
        ):
            yield GaugeMetricFamily(f"django_daphne_{name}", description, value)
        refused = CounterMetricFamily(
            "django_daphne_refused",
            "Connections and requests beyond a limit.",
            labels=("limit",),
        )
        for limit, ceiling in (
            ("CONNECTIONS", server.crowd),
            ("CONCURRENCY", server.rush),
        ):
            refused.add_metric((limit,), 0 if ceiling is None else ceiling.refused)
        yield refused
