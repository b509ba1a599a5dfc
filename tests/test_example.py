"""The example project through its sockets, and through its own tests.

The example is a project of its own, with its own settings: it runs in processes of its
own, as it does on the machine of whoever copies it.
"""

from __future__ import annotations

import http.client
import http.cookiejar
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from contextlib import closing
from typing import Any

from django.test import SimpleTestCase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.example_server import MANAGE, PATIENCE, ROOT, ExampleServer, seeded
from tests.ports import free_port
from tests.services import find, require


class Visitor:
    """A person with a browser: cookies, forms and WebSockets."""

    def __init__(self, server: ExampleServer, name: str) -> None:
        self.server = server
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies)
        )
        self.get("/login/")
        self.post("/login/", username=name, password=name)

    @property
    def token(self) -> str:
        return next(c.value for c in self.cookies if c.name == "csrftoken") or ""

    def get(self, path: str) -> tuple[http.client.HTTPMessage, bytes]:
        with self.opener.open(self.server.url + path, timeout=PATIENCE) as answer:
            return answer.headers, answer.read()

    def post(self, path: str, **fields: str) -> bytes:
        fields["csrfmiddlewaretoken"] = self.token
        body = urllib.parse.urlencode(fields).encode()
        with self.opener.open(self.server.url + path, body, PATIENCE) as answer:
            return answer.read()

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        boundary = uuid.uuid4().hex
        body = (
            (
                f"--{boundary}\r\n"
                f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            ).encode()
            + content
            + f"\r\n--{boundary}--\r\n".encode()
        )
        request = urllib.request.Request(
            self.server.url + "/uploads/",
            body,
            {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "X-CSRFToken": self.token,
            },
        )
        with self.opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def enter(self, after: int = 0) -> Tab:
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        return Tab(
            connect(
                self.server.url.replace("http", "ws") + "/ws/rooms/lobby/",
                origin=self.server.url,
                additional_headers={"Cookie": cookies},
                open_timeout=PATIENCE,
                close_timeout=PATIENCE,
            ),
            after,
        )


class Tab:
    """An open room. It keeps what it hears until it is asked for."""

    def __init__(self, connection: ClientConnection, after: int) -> None:
        self.connection = connection
        self.kept: list[dict[str, Any]] = []
        self.say(type="hello", after=after)
        self.history = self.hear("history")

    def say(self, **content: Any) -> None:
        self.connection.send(json.dumps(content))

    def send(self, text: str, client_id: str = "", attachments: Any = ()) -> str:
        client_id = client_id or str(uuid.uuid4())
        self.say(type="send", id=client_id, text=text, attachments=list(attachments))
        return client_id

    def hear(self, kind: str) -> dict[str, Any]:
        for content in self.kept:
            if content["type"] == kind:
                self.kept.remove(content)
                return content
        while True:
            content = json.loads(self.connection.recv(PATIENCE))
            if content["type"] == kind:
                return content
            self.kept.append(content)

    def read(self) -> str:
        return self.hear("message")["message"]["text"]

    def wait_for_people(self, *names: str) -> None:
        """Listen until exactly these are here."""
        while [p["name"] for p in self.hear("presence")["people"]] != list(names):
            pass

    def closing_code(self) -> int | None:
        try:
            while True:
                self.connection.recv(PATIENCE)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    def close(self) -> None:
        self.connection.close()


class OwnTests(SimpleTestCase):
    """What the example checks about itself, without a server."""

    def test_they_pass(self) -> None:
        server = ExampleServer("runserver")
        self.addCleanup(server.close)
        answer = subprocess.run(
            [sys.executable, str(MANAGE), "test", "example_project"],
            env=server.environment,
            cwd=server.directory,
            capture_output=True,
            text=True,
        )
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertRegex(answer.stderr, r"Ran [1-9]\d* tests")
        self.assertNotIn("skipped", answer.stderr)


class ProjectTests(SimpleTestCase):
    def setUp(self) -> None:
        self.project = ExampleServer("runserver")
        self.addCleanup(self.project.close)

    def test_nothing_to_complain_of(self) -> None:
        self.assertIn("no issues", self.project.manage("check"))
        self.project.manage("makemigrations", "--check")

    def test_the_seed_can_be_sown_twice(self) -> None:
        first = self.project.manage("seed_demo")
        self.assertIn("http://127.0.0.1:8000/rooms/lobby/", first)
        self.assertIn("demo / demo", first)
        self.assertEqual(self.project.manage("seed_demo"), first)
        with closing(sqlite3.connect(self.project.directory / "db.sqlite3")) as db:
            counts = [
                db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("auth_user", "chat_room", "chat_message")
            ]
        self.assertEqual(counts, [2, 1, 6])

    def test_production_needs_a_secret(self) -> None:
        self.project.environment["DEBUG"] = "0"
        self.project.environment.pop("SECRET_KEY", None)
        with self.assertRaisesMessage(AssertionError, "Set SECRET_KEY"):
            self.project.manage("check")

    def test_production_static_files_can_be_collected(self) -> None:
        self.project.environment |= {"DEBUG": "0", "SECRET_KEY": "x" * 60}
        self.assertRegex(
            self.project.manage("collectstatic", "--dry-run", "--noinput"),
            "chat.css",
        )


class ServedTests(SimpleTestCase):
    """Everything the example does, under each of the commands."""

    def each(self) -> Any:
        for command in ("runserver", "runasgi", "django-daphne"):
            with self.subTest(command):
                server = seeded(command, self.addCleanup)
                yield server
                server.close()

    def test_pages_files_sockets_and_streams(self) -> None:
        for server in self.each():
            demo, friend = Visitor(server, "demo"), Visitor(server, "friend")

            _, page = demo.get("/rooms/lobby/")
            self.assertIn(b"Everybody comes through here", page)
            headers, _ = demo.get("/static/chat/room.js")
            self.assertIn("javascript", headers["Content-Type"])
            _, page = demo.get("/admin/chat/message/")
            self.assertIn(b"6 messages", page)

            tabs = demo.enter(), friend.enter()
            self.assertEqual(len(tabs[0].history["messages"]), 6)
            tabs[1].wait_for_people("demo", "friend")
            content = os.urandom(300_000)
            uploaded = demo.upload("noise.bin", content)
            tabs[0].send("Listen", attachments=[uploaded["id"]])
            for tab in tabs:
                message = tab.hear("message")["message"]
                self.assertEqual(message["text"], "Listen")
                self.assertEqual(message["number"], 7)
            headers, downloaded = friend.get(message["attachments"][0]["url"])
            self.assertEqual(downloaded, content)
            self.assertEqual(
                headers["Content-Disposition"], 'attachment; filename="noise.bin"'
            )
            for tab in tabs:
                tab.close()

            with urllib.request.urlopen(server.url + "/clock/", timeout=PATIENCE) as it:
                self.assertEqual(it.headers["Content-Type"], "text/event-stream")
                ticks = [it.readline() for _ in range(8)]
            self.assertEqual(ticks[0], b"retry: 2000\n")
            self.assertEqual(ticks.count(b"event: tick\n"), 2)

    def test_other_sites_cannot_open_our_sockets(self) -> None:
        server = seeded("runasgi", self.addCleanup)
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as peer:
            peer.sendall(
                b"GET /ws/rooms/lobby/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Origin: http://elsewhere.test\r\n"
                b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            self.assertEqual(peer.recv(12), b"HTTP/1.1 403")

    def test_the_server_refuses_what_is_far_too_large(self) -> None:
        server = seeded("runasgi", self.addCleanup)
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as peer:
            peer.sendall(
                b"POST /uploads/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Length: 11000000\r\n\r\n"
            )
            self.assertEqual(peer.recv(12), b"HTTP/1.1 413")

    def test_wsgi_serves_the_pages(self) -> None:
        server = seeded("runserver --noasgi", self.addCleanup)
        demo = Visitor(server, "demo")
        _, page = demo.get("/rooms/lobby/")
        self.assertIn(b"Lobby", page)
        with self.assertRaises(urllib.error.HTTPError) as refusal:
            demo.get("/clock/")
        self.assertEqual(refusal.exception.code, 501)
        refusal.exception.close()


class RestartTests(SimpleTestCase):
    """Nothing is lost and nothing is said twice."""

    def test_a_killed_server_forgets_nothing_and_nobody_for_long(self) -> None:
        server = seeded("runasgi", self.addCleanup, CHAT_HEARTBEAT="0.5")
        demo, friend = Visitor(server, "demo"), Visitor(server, "friend")
        demo_tab, friend_tab = demo.enter(), friend.enter()
        friend_tab.wait_for_people("demo", "friend")
        sent = friend_tab.send("Before")
        self.assertEqual(demo_tab.read(), "Before")
        server.kill()
        self.assertIsNone(demo_tab.closing_code())
        server.start()

        # Friend comes back, not knowing whether the message had arrived.
        friend_tab = friend.enter(after=6)
        self.assertEqual(
            [message["text"] for message in friend_tab.history["messages"]], ["Before"]
        )
        friend_tab.send("Before", client_id=sent)
        friend_tab.send("After")
        self.assertEqual([friend_tab.read(), friend_tab.read()], ["Before", "After"])
        # Nobody said goodbye for demo.
        friend_tab.wait_for_people("friend")

        demo_tab = demo.enter(after=7)
        self.assertEqual(
            [message["text"] for message in demo_tab.history["messages"]], ["After"]
        )
        demo_tab.close()
        friend_tab.close()

    def test_a_stopped_server_says_goodbye_for_everybody(self) -> None:
        for command in ("runasgi", "django-daphne"):
            with self.subTest(command):
                server = seeded(command, self.addCleanup)
                tab = Visitor(server, "demo").enter()
                tab.wait_for_people("demo")
                clock = urllib.request.urlopen(server.url + "/clock/", timeout=PATIENCE)
                clock.readline()
                status = server.stop(signal.SIGTERM)
                self.assertEqual(status, 0, server.output)
                self.assertEqual(tab.closing_code(), 1012)
                # The stream ends as a stream ends, not as a broken connection.
                clock.read()
                clock.close()
                self.assertNotIn("Traceback", server.output)
                with closing(sqlite3.connect(server.directory / "db.sqlite3")) as db:
                    rows = db.execute("SELECT count(*) FROM chat_presence").fetchone()
                self.assertEqual(rows, (0,))
                server.close()

    def test_an_edited_file_restarts_the_development_server(self) -> None:
        """From inside the project's directory, on a copy that may be edited."""
        server = ExampleServer("runserver, reloading")
        self.addCleanup(server.close)
        server.seed()
        server.cwd = server.directory / "example_project"
        shutil.copytree(ROOT / "example_project", server.cwd)
        server.start()
        tab = Visitor(server, "demo").enter()
        server.lines.clear()
        urls = server.cwd / "urls.py"
        for _ in range(PATIENCE):
            # The reloader may not have looked at the file for the first time yet.
            urls.write_text(urls.read_text() + "# edited\n")
            if server.printed("changed, reloading", 1):
                break
        tab.closing_code()
        server.wait_until_listening()
        tab = Visitor(server, "demo").enter(after=6)
        tab.send("Still here")
        self.assertEqual(tab.read(), "Still here")
        tab.close()


@require("redis")
class RedisTests(SimpleTestCase):
    def test_two_servers_are_one_chat(self) -> None:
        port = free_port()
        one = ExampleServer("runasgi", REDIS_URL=f"redis://127.0.0.1:{port}")
        self.addCleanup(one.close)
        redis = subprocess.Popen(
            [find("redis"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            cwd=one.directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(redis.stdout.close)
        self.addCleanup(redis.wait, PATIENCE)
        self.addCleanup(redis.kill)
        for line in redis.stdout:
            if "Ready to accept connections" in line:
                break
        one.seed()
        one.start()
        two = ExampleServer("runasgi", REDIS_URL=f"redis://127.0.0.1:{port}")
        self.addCleanup(two.close)
        two.environment = one.environment
        two.start()

        here, there = Visitor(one, "demo").enter(), Visitor(two, "friend").enter()
        here.wait_for_people("demo", "friend")
        here.send("Hello over there")
        self.assertEqual(there.read(), "Hello over there")
        there.close()
        here.wait_for_people("demo")
        here.close()
