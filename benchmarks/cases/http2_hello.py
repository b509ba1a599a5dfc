"""HTTP/2 over TLS: 13 bytes, 8 connections, 16 requests in flight on each.

The CPU clock is read around the whole of h2load's run. That includes 8 handshakes,
which is nothing beside the requests of a second.
"""

from __future__ import annotations

import re
import subprocess

from machine import cpu_seconds_between
from problems import ServerFailed
from running import RunningServer
from servers import HTTP2

from . import Case, Metric

CONNECTIONS = 8
STREAMS = 16
WARM_UP_SECONDS = 1

#: How much longer than its duration h2load may take to connect and report.
GRACE_SECONDS = 10

#: A server answers its first request well within this.
ANSWER_SECONDS = 10

BODY = "Hello, world!"

_REQUESTS = re.compile(
    r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", re.M
)
_RATE = re.compile(r"^finished in .*?, ([0-9.]+) req/s", re.M)
_LATENCY = re.compile(r"^time for request: +\S+ +\S+ +([0-9.]+)(us|ms|s) ", re.M)
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Http2Hello(Case):
    name = "http2-hello"
    title = f"HTTP/2 hello over TLS, {CONNECTIONS} connections × {STREAMS} streams"
    needs = HTTP2
    tls = True
    tools = ("h2load", "curl", "openssl")
    headline = Metric("cpu_us", "CPU µs/request", 1)
    others = (
        Metric("per_second", "requests/s"),
        Metric("mean_ms", "mean ms", 2),
        Metric("memory_mib", "memory MiB", 1),
    )

    def verify(self, server: RunningServer) -> None:
        done = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--insecure", "--http2"),
                *("--noproxy", "*", "--max-time", str(ANSWER_SECONDS)),
                *("--write-out", " %{http_version} %{http_code} %{content_type}"),
                server.https_url,
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ServerFailed(f"no answer: {done.stderr.strip()}")
        if done.stdout != f"{BODY} 2 200 text/plain":
            raise ServerFailed(f"wrong answer: {done.stdout!r}")

    def warm_up(self, server: RunningServer) -> None:
        self._h2load(server, WARM_UP_SECONDS)

    def measure(self, server: RunningServer) -> dict[str, float]:
        before = server.cpu_clocks()
        figures = self._h2load(server, self.seconds)
        cpu = cpu_seconds_between(before, server.cpu_clocks())
        return {
            "cpu_us": cpu / figures.pop("requests") * 1e6,
            "memory_mib": server.memory().proportional / 2**20,
            **figures,
        }

    def _h2load(self, server: RunningServer, seconds: int) -> dict[str, float]:
        try:
            done = subprocess.run(
                [
                    *("taskset", "--cpu-list", str(self.cores.client)),
                    *("h2load", "--threads", "1", "--clients", str(CONNECTIONS)),
                    *("--max-concurrent-streams", str(STREAMS)),
                    *("--duration", str(seconds), server.https_url),
                ],
                capture_output=True,
                text=True,
                timeout=seconds + GRACE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed("h2load did not end") from error
        report = done.stdout
        requests, rate = _REQUESTS.search(report), _RATE.search(report)
        latency = _LATENCY.search(report)
        if done.returncode or not (requests and rate and latency):
            raise ServerFailed(f"h2load: {(done.stderr or report).strip()[-500:]}")
        succeeded, failed, errored = map(int, requests.groups())
        if failed or errored:
            raise ServerFailed(f"{failed + errored} of h2load's requests failed")
        if not succeeded:
            raise ServerFailed("no request was answered")
        return {
            "requests": succeeded,
            "per_second": float(rate[1]),
            "mean_ms": float(latency[1]) * _UNITS[latency[2]],
        }
