"""HTTP/1.1: 13 bytes, 64 kept-alive connections, one request in flight on each.

The CPU clock is read around the whole of wrk's run. That includes 64 connections
opened, which is nothing beside the requests of a second.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess

import environment
from machine import cpu_seconds_between
from problems import ServerFailed
from running import RunningServer
from servers import HTTP1

from . import Case, Metric

CONNECTIONS = 64
WARM_UP_SECONDS = 1

#: How much longer than its duration wrk may take to connect, calibrate and report.
WRK_GRACE_SECONDS = 10

#: A server answers its first request well within this.
ANSWER_SECONDS = 10

BODY = b"Hello, world!"


class Http1Hello(Case):
    name = "http1-hello"
    title = f"HTTP/1.1 hello, keep-alive, {CONNECTIONS} connections"
    needs = HTTP1
    tools = ("wrk",)
    headline = Metric("cpu_us", "CPU µs/request", 1)
    others = (
        Metric("per_second", "requests/s"),
        Metric("p50_ms", "p50 ms", 2),
        Metric("p99_ms", "p99 ms", 2),
        Metric("memory_mib", "memory MiB", 1),
    )

    def verify(self, server: RunningServer) -> None:
        connection = self._connect(server)
        try:
            self._expect_hello(connection)
            kept = connection.sock
            self._expect_hello(connection)
            if kept is None or connection.sock is not kept:
                raise ServerFailed("does not keep connections alive")
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailed(f"no answer: {error!r}") from error
        finally:
            connection.close()

    def _connect(self, server: RunningServer) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", server.port, timeout=ANSWER_SECONDS
        )

    def _url(self, server: RunningServer) -> str:
        return server.http_url

    def _expect_hello(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/")
        response = connection.getresponse()
        answer = (
            response.version,
            response.status,
            response.getheader("content-type"),
            response.read(),
        )
        if answer != (11, 200, "text/plain", BODY):
            raise ServerFailed(f"wrong answer: {answer}")

    def warm_up(self, server: RunningServer) -> None:
        self._wrk(server, WARM_UP_SECONDS)

    def measure(self, server: RunningServer) -> dict[str, float]:
        before = server.cpu_clocks()
        report = self._wrk(server, self.seconds)
        cpu = cpu_seconds_between(before, server.cpu_clocks())
        if report["errors"]:
            raise ServerFailed(f"{report['errors']:.0f} of wrk's requests failed")
        return {
            "cpu_us": cpu / report["requests"] * 1e6,
            "per_second": report["requests"] / report["seconds"],
            "p50_ms": report["p50_us"] / 1e3,
            "p99_ms": report["p99_us"] / 1e3,
            "memory_mib": server.memory().proportional / 2**20,
        }

    def _wrk(self, server: RunningServer, seconds: int) -> dict[str, float]:
        script = environment.HERE / "clients" / "wrk_report.lua"
        try:
            done = subprocess.run(
                [
                    *("taskset", "--cpu-list", str(self.cores.client)),
                    *("wrk", "--threads", "1", "--connections", str(CONNECTIONS)),
                    *("--duration", f"{seconds}s", "--script", str(script)),
                    self._url(server),
                ],
                capture_output=True,
                text=True,
                timeout=seconds + WRK_GRACE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed("wrk did not end") from error
        if done.returncode:
            raise ServerFailed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
        report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        if not report["requests"]:
            raise ServerFailed("no request was answered")
        return report


class Http1HelloTLS(Http1Hello):
    """The same over TLS: handshakes are a few, records are many."""

    name = "http1-tls-hello"
    title = f"HTTP/1.1 hello over TLS, keep-alive, {CONNECTIONS} connections"
    tools = ("openssl", "wrk")
    tls = True

    def _connect(self, server: RunningServer) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1",
            server.port,
            timeout=ANSWER_SECONDS,
            context=ssl._create_unverified_context(),
        )

    def _url(self, server: RunningServer) -> str:
        return server.https_url
