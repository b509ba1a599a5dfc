"""100 MB over TLS: one connection, as fast as curl takes it.

Encrypting is most of the work and the same for all; what differs is how often bytes are
copied on the way.
"""

from __future__ import annotations

import subprocess

from machine import cpu_seconds_between
from problems import ServerFailed
from running import RunningServer
from servers import HTTP1

from . import Case, Metric

#: What ``download_app`` sends.
SIZE = 1600 * 64 * 1024

DOWNLOAD_SECONDS = 30


class Download(Case):
    name = "tls-download"
    title = f"A download of {SIZE / 1e6:.0f} MB over TLS"
    needs = HTTP1
    app = "download_app:app"
    tools = ("curl", "openssl")
    tls = True
    headline = Metric("cpu_ms", "CPU ms/100 MB", 1)
    others = (
        Metric("mb_per_second", "MB/s"),
        Metric("memory_mib", "memory MiB", 1),
    )

    def verify(self, server: RunningServer) -> None:
        self._download(server)

    def warm_up(self, server: RunningServer) -> None:
        self._download(server)

    def measure(self, server: RunningServer) -> dict[str, float]:
        before = server.cpu_clocks()
        taken = self._download(server)
        cpu = cpu_seconds_between(before, server.cpu_clocks())
        return {
            "cpu_ms": cpu / SIZE * 1e8 * 1e3,
            "mb_per_second": SIZE / taken / 1e6,
            "memory_mib": server.memory().proportional / 2**20,
        }

    def _download(self, server: RunningServer) -> float:
        """How many seconds it took.

        :raises ServerFailed: unless everything arrived.
        """
        try:
            done = subprocess.run(
                [
                    *("taskset", "--cpu-list", str(self.cores.client)),
                    *("curl", "--silent", "--show-error", "--insecure", "--http1.1"),
                    *("--output", "/dev/null"),
                    *("--write-out", "%{size_download} %{time_total}"),
                    server.https_url,
                ],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed("the download did not end") from error
        if done.returncode:
            raise ServerFailed(f"curl: {done.stderr.strip()}")
        size, seconds = done.stdout.split()
        if int(size) != SIZE:
            raise ServerFailed(f"{size} bytes arrived instead of {SIZE}")
        return float(seconds)
