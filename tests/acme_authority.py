"""A real certificate authority on loopback, and a gate in front of it.

:class:`Pebble` is Let's Encrypt's test server, strict, refusing good nonces at random;
it fetches challenges from the port that it is told, whatever the name. :class:`Gate`
passes everything on to it and is what our side speaks with: it counts, and lets a test
say what a rarer authority would.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .certificates import LOCAL, Files, authority
from .ports import free_port
from .services import find

HOST = "127.0.0.1"

#: How long a test waits for what must come, on a busy machine.
PATIENCE = 60.0

#: Seconds from the end of a test until the gate sees that it is to close.
CLOSING = 0.02

#: How often other ports are tried, when somebody has taken ours since we found it free.
ATTEMPTS = 5


class Pebble:
    """The authority, and the DNS server that sends it to us for every name.

    ``http_port`` is where it asks. ``ca_file`` has who vouches for its own https,
    ``root`` who vouches for what it issues, in PEM format.
    """

    def __init__(self, http_port: int, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._http_port = http_port
        self._options = options
        self._processes: list[subprocess.Popen[bytes]] = []
        self.files = Files(Path(self._folder.name))
        root = authority("the authority's own")
        self.tls = self.files.tls("own", root.issue("localhost", LOCAL))
        self.ca_file = self.files.write("ca.pem", root.pem)
        self.trust = ssl.create_default_context(cafile=self.ca_file)

    def __enter__(self) -> Pebble:
        for _ in range(ATTEMPTS):
            if self._start():
                break
            self._stop()
        else:
            self._folder.cleanup()
            raise AssertionError(f"pebble does not start:\n{self.log}")
        self.root = self._manage("/roots/0")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        self._folder.cleanup()

    @property
    def directory_url(self) -> str:
        return f"https://{HOST}:{self.port}/dir"

    @property
    def log(self) -> str:
        return (self.files.directory / "pebble.log").read_text(errors="replace")

    def _start(self) -> bool:
        self.port, self._management = free_port(), free_port()
        dns, self._names = free_port(), free_port()
        config = {
            "listenAddress": f"{HOST}:{self.port}",
            "managementListenAddress": f"{HOST}:{self._management}",
            "certificate": self.tls["CERTIFICATE"],
            "privateKey": self.tls["PRIVATE_KEY"],
            "httpPort": self._http_port,
            "tlsPort": 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            **self._options,
        }
        path = self.files.write("pebble.json", json.dumps({"pebble": config}))
        self._run(
            "pebble-challtestsrv",
            *("-dns01", f"{HOST}:{dns}", "-management", f"{HOST}:{self._names}"),
            *("-defaultIPv4", HOST, "-defaultIPv6", ""),
            *("-http01", "", "-https01", "", "-tlsalpn01", ""),
        )
        self._run("pebble", "-config", path, "-dnsserver", f"{HOST}:{dns}", "-strict")
        return all(map(self._answers, (self.port, self._management, self._names)))

    def _run(self, program: str, *arguments: str) -> None:
        found = find(program)
        assert found is not None
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PEBBLE")}
        # Without it, it waits up to 15 seconds before each look at a challenge.
        variables["PEBBLE_VA_NOSLEEP"] = "1"
        with open(self.files.directory / f"{program}.log", "wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [found, *arguments],
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes):
                return False
            try:
                socket.create_connection((HOST, port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def resolve(self, host: str, address: str = HOST) -> None:
        """Have the authority look for ``host`` there from now on."""
        self._tell("/clear-a", host=host)
        self._tell("/add-a", host=host, addresses=[address])

    def _tell(self, path: str, **values: Any) -> None:
        connection = http.client.HTTPConnection(HOST, self._names, timeout=PATIENCE)
        try:
            connection.request("POST", path, json.dumps(values))
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != 200:
            raise AssertionError(f"{path}: {status}")

    def _manage(self, path: str) -> str:
        connection = http.client.HTTPSConnection(
            HOST, self._management, timeout=PATIENCE, context=self.trust
        )
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


class Answer:
    """What the gate says in the place of the authority; ``value`` becomes JSON."""

    def __init__(
        self, status: int, value: Any, headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.body = json.dumps(value).encode()
        self.headers = {"Content-Type": "application/json", **(headers or {})}

    @classmethod
    def problem(cls, status: int, kind: str, detail: str, **headers: str) -> Answer:
        value = {
            "type": f"urn:ietf:params:acme:error:{kind}",
            "detail": detail,
            "status": status,
        }
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(
            status, value, {"Content-Type": "application/problem+json", **headers}
        )


def _payload(body: bytes) -> str:
    if not body:
        return ""
    text = json.loads(body)["payload"]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that do not believe us are no error of ours."""


class Gate:
    """Passes requests on to ``pebble``, whose URLs lead through it.

    ``paths`` has every path that was asked for; ``instead(path)`` may answer in the
    place of the authority, ``afterwards(path, answer)`` change what it has said.
    """

    def __init__(self, pebble: Pebble) -> None:
        self.pebble = pebble
        self.instead: Callable[[str], Answer | None] = lambda path: None
        self.afterwards: Callable[[str, Answer], Answer] = lambda path, answer: answer
        self.paths: list[str] = []
        #: The path, and what was signed and sent to it, of what was not refused: one
        #: message comes again when its nonce was.
        self.accepted: list[tuple[str, str]] = []
        self._server: ThreadingHTTPServer | None = None
        self._socket = socket.socket()
        self._socket.bind((HOST, 0))
        self.port = int(self._socket.getsockname()[1])

    @property
    def directory_url(self) -> str:
        return f"https://{HOST}:{self.port}/dir"

    @property
    def orders(self) -> int:
        """How many certificates were asked for."""
        return len(self.payloads("/order-plz"))

    def payloads(self, path: str) -> list[Any]:
        """What was sent, and accepted, at paths that begin so."""
        return [
            json.loads(text)
            for asked, text in self.accepted
            if asked.startswith(path) and text
        ]

    def open(self) -> Gate:
        """Listen; before, connections are refused."""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            #: An answer in one piece: the kernel keeps the second of two back.
            wbufsize = -1

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                gate.paths.append(self.path)
                answer = gate.instead(self.path)
                if answer is None:
                    answer = gate.ask(self, body)
                    answer = gate.afterwards(self.path, answer)
                if answer.status < 400:
                    gate.accepted.append((self.path, _payload(body)))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_HEAD = do_POST = handle_any

            def log_message(self, *args: Any) -> None:
                pass

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(
            self.pebble.tls["CERTIFICATE"], self.pebble.tls["PRIVATE_KEY"]
        )
        server = _QuietServer((HOST, self.port), Handler, False)
        server.socket.close()
        self._socket.listen()
        server.socket = context.wrap_socket(
            self._socket, server_side=True, do_handshake_on_connect=False
        )
        self._server = server
        threading.Thread(
            target=server.serve_forever, args=(CLOSING,), daemon=True
        ).start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._socket.close()

    def ask(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        connection = http.client.HTTPSConnection(
            HOST, self.pebble.port, timeout=PATIENCE, context=self.pebble.trust
        )
        try:
            # Host is the gate's own, and pebble makes its URLs of that.
            connection.request(
                request.command, request.path, body, dict(request.headers.items())
            )
            response = connection.getresponse()
            answer = Answer(response.status, None)
            answer.body = response.read()
            answer.headers = {
                name: value
                for name, value in response.getheaders()
                if name.lower()
                not in ("content-length", "connection", "date", "transfer-encoding")
            }
            return answer
        finally:
            connection.close()
