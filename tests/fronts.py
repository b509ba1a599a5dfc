"""Real proxies before our server, configured by the files that the documentation shows.

A file is used as it is, but for the ports, paths and options that :func:`configured` is
told to replace, each of which has to be there.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .asgi_apps import Receive, Scope, Send, body, read_body, respond, start
from .certificates import LOCAL, Files, authority
from .services import find
from .serving import PATIENCE, Client, Serving, serving

SHOWN = Path(__file__).resolve().parent.parent / "docs" / "proxies"

#: Where clients of proxies connect from: not where the proxies do, which are trusted.
CLIENT = "127.0.0.2"

_NGINX = """\
daemon off;
user {user} {group};
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{site}
}}
"""


def configured(name: str, replaced: Mapping[str, str]) -> str:
    """A file of the documentation, with what has to differ on this machine."""
    text = (SHOWN / name).read_text()
    for shown, ours in replaced.items():
        if shown not in text:
            raise AssertionError(f"{name} does not have {shown!r}")
        text = text.replace(shown, ours)
    return text


class FrontTestCase(unittest.TestCase):
    """Starts proxies, which are killed when the test ends."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def nginx(self, name: str, listen: str, replaced: Mapping[str, str]) -> int:
        """The port of an nginx; ``listen`` is what the file has as its own."""
        sock = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        port = int(sock.getsockname()[1])
        site = configured(name, {listen: f"listen 127.0.0.1:{port}", **replaced})
        configuration = self.directory / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                site=site,
                # Of use to root only, who would else be nobody.
                user=pwd.getpwuid(os.getuid()).pw_name,
                group=grp.getgrgid(os.getgid()).gr_name,
            )
        )
        program = find("nginx")
        assert program is not None
        # It takes over a socket that listens already: no moment to wait for.
        self._start(
            [program, "-p", str(self.directory), "-c", str(configuration),
             "-e", "stderr"],
            sock,
            NGINX=f"{sock.fileno()};",
        )  # fmt: skip
        return port

    def haproxy(self, name: str, bind: str, replaced: Mapping[str, str]) -> int:
        """The port of a haproxy; ``bind`` is what the file has as its own."""
        sock = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(
            configured(name, {bind: f"bind fd@{sock.fileno()}", **replaced})
        )
        program = find("haproxy")
        assert program is not None
        port = int(sock.getsockname()[1])
        self._start([program, "-db", "-f", str(configuration)], sock)
        return port

    def _start(self, command: list[str], sock: socket.socket, **more: str) -> None:
        log = self.enterContext((self.directory / "front.log").open("ab"))
        front = subprocess.Popen(
            command,
            pass_fds=[sock.fileno()],
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        # Not inherited by the test: a front that ends must refuse connections.
        sock.close()
        self.addCleanup(front.wait)
        # nginx has a process for its work besides.
        self.addCleanup(os.killpg, front.pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        """What the fronts have logged, for messages."""
        logs = [self.directory / "front.log", self.directory / "error.log"]
        return "".join(log.read_text() for log in logs if log.exists())


class SecureFrontTestCase(FrontTestCase):
    """Proxies that speak TLS with their clients."""

    def setUp(self) -> None:
        super().setUp()
        self.files = Files(self.directory)
        self.root = authority()
        leaf = self.root.issue("localhost", LOCAL)
        self.root_file = self.files.write("root.pem", self.root.pem)
        self.certificate = self.files.write("leaf.pem", leaf.pem)
        self.key = self.files.write("leaf.key", leaf.key_pem())
        self.both = self.files.write("both.pem", leaf.pem, leaf.key_pem())
        self.tls = {"CERTIFICATE": self.certificate, "PRIVATE_KEY": self.key}

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.root.pem)

    def serve(
        self, proxy: dict[str, Any], application: Any = None, **settings: Any
    ) -> Serving:
        settings = {"LIFESPAN": "off", "PROXY": proxy, **settings}
        return self.enterContext(serving(application or tell, settings))

    def connect(
        self, port: int, *, tls: bool = True, context: ssl.SSLContext | None = None
    ) -> Client:
        if tls and context is None:
            context = self.context()
        return self.enterContext(Client("127.0.0.1", port, tls=context, source=CLIENT))

    def told(self, client: Client, *fields: str) -> dict[str, Any]:
        answer = client.get("/", *fields)
        self.assertEqual(answer.status, 200, (answer, self.said))
        return dict(json.loads(answer.body))

    def curl(self, port: int, path: str, *arguments: str) -> str:
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE),
             "--interface", CLIENT, "--cacert", self.root_file, *arguments, f"https://localhost:{port}{path}"],
            capture_output=True,
            timeout=2 * PATIENCE,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, (done.stderr, self.said))
        return done.stdout.decode()

    def first_event(self, client: Client) -> dict[str, Any]:
        """Of a stream that never ends: who waits for its end waits for ever."""
        client.request("/events")
        self.assertEqual(client.read_head().status, 200)
        event = client.read_until(b"\n\n").rpartition(b"data: ")[2]
        return dict(json.loads(event))


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what the scope says of the client, in JSON.

    ``/events`` sends it as an event stream that never ends; a WebSocket sends it first,
    and echoes then.
    """
    headers = dict(scope["headers"])
    told = {
        "type": scope["type"],
        "http_version": scope["http_version"],
        "scheme": scope["scheme"],
        "client": scope["client"],
        "server": scope["server"],
        "host": headers.get(b"host", b"").decode("latin-1"),
        "path": scope["path"],
        "proxy_protocol": scope["extensions"].get("proxy_protocol"),
        "tls": "tls" in scope["extensions"],
        "headers": [[n.decode("latin-1"), v.decode("latin-1")]
                    for n, v in scope["headers"]],
    }  # fmt: skip
    if scope["type"] == "websocket":
        await _converse(receive, send, json.dumps(told))
    elif scope["path"] == "/events":
        await start(send, 200, [(b"content-type", b"text/event-stream")])
        await body(send, b"data: " + json.dumps(told).encode() + b"\n\n", True)
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        received = await read_body(receive)
        told["method"], told["bytes"] = scope["method"], len(received)
        await respond(send, json.dumps(told).encode())


async def _converse(receive: Receive, send: Send, first: str) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": first})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({**message, "type": "websocket.send"})
