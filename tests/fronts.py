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
import subprocess
import tempfile
import unittest
from collections.abc import Mapping
from pathlib import Path

from .asgi_apps import Receive, Scope, Send, body, read_body, respond, start
from .services import find

SHOWN = Path(__file__).resolve().parent.parent / "docs" / "proxies"

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
        self._start([program, "-db", "-f", str(configuration)], sock)
        return int(sock.getsockname()[1])

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
