"""Twisted's endpoints, each test in a process of its own: there is one reactor in each.

The server is ``tests.echo_server``; the third-party endpoints are ``twisted_plugin``'s.
"""

from __future__ import annotations

import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

from django_daphne.binds import quote

from .listening import (
    DEADLINE,
    LOOPS,
    Authority,
    ProcessTestCase,
    read_exactly,
    read_to_end,
)
from .services import find, require

PROXY_V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 4321 443\r\n"
PROXY_V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 443\r\n"
PROXY_V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 12)
    + socket.inet_aton("203.0.113.7")
    + socket.inet_aton("198.51.100.1")
    + struct.pack("!HH", 4321, 443)
)
#: The proxy itself, asking whether we live.
PROXY_V2_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"
BARE = r"bare:tcp\:0\:interface\=127.0.0.1"
HAPROXY = "haproxy:tcp:0:interface=127.0.0.1"


class TwistedTests:
    """Everything through the adapter; the subclasses choose the loop."""

    loop: str

    def listening(self, *arguments: str, **options: Any) -> list[int]:
        return super().listening("--loop", self.loop, *arguments, **options)

    def test_the_proxys_word_about_the_peer(self) -> None:
        [port] = self.listening(HAPROXY)
        for header, peer, host in [
            (PROXY_V1, ["203.0.113.7", 4321], ["198.51.100.1", 443]),
            (PROXY_V2, ["203.0.113.7", 4321], ["198.51.100.1", 443]),
            (PROXY_V1_IPV6, ["2001:db8::7", 4321, 0, 0], ["2001:db8::1", 443, 0, 0]),
        ]:
            client = self.connect(port, header + b"hello")
            made = self.event("made")
            self.assertEqual((made["peername"], made["sockname"]), (peer, host))
            self.assertIsNone(made["tls"])
            self.assertEqual(read_exactly(client, 5), b"hello")
            client.close()
            lost = self.event("lost")
            self.assertEqual((lost["error"], lost["peername"]), (None, peer))
        client = self.connect(port, PROXY_V2_LOCAL + b"hello")
        self.assertEqual(self.event("made")["peername"], list(client.getsockname()))
        client.close()
        self.assertEqual(self.stop(), "")

    def test_data_that_comes_in_pieces(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1[:20])
        client.sendall(PROXY_V1[20:])
        client.sendall(b"one")
        self.assertEqual(read_exactly(client, 3), b"one")
        client.sendall(b"two")
        self.assertEqual(read_exactly(client, 3), b"two")
        client.close()
        self.event("made")
        self.stop()

    def test_a_missing_header_is_no_connection(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(client.recv(1), b"")
        good = self.connect(port, PROXY_V1 + b"hello")
        self.assertEqual(self.event("made", "lost")["event"], "made")
        good.close()
        self.event("lost")
        self.stop()

    def test_silence_is_not_waited_for(self) -> None:
        [port] = self.listening(HAPROXY, "--timeout", "2")
        speaker = self.connect(port, PROXY_V1 + b"hello")
        self.assertEqual(read_exactly(speaker, 5), b"hello")
        nothing = self.connect(port)
        header_only = self.connect(port, PROXY_V1)
        self.assertEqual(nothing.recv(1), b"")
        self.assertEqual(header_only.recv(1), b"")
        # Silence after the first byte is the protocol's business.
        speaker.sendall(b"again")
        self.assertEqual(read_exactly(speaker, 5), b"again")
        speaker.close()
        self.assertEqual(self.event("made")["peername"][0], "203.0.113.7")
        errors = self.stop()
        self.assertEqual(errors.count("closed, no data within 2 s"), 2)
        self.assertIn("INFO:django_daphne.protocol:('203.0.113.7', 4321): ", errors)

    def test_silent_connections_do_not_hold_up_the_end(self) -> None:
        [port] = self.listening(HAPROXY)
        silent = self.connect(port)
        speaker = self.connect(port, PROXY_V1 + b"hello")
        self.assertEqual(read_exactly(speaker, 5), b"hello")
        self.process.send_signal(signal.SIGTERM)
        self.event("stopped")
        self.assertEqual(silent.recv(1), b"")
        with self.assertRaises(OSError):
            # Twisted closes its socket in the turn after.
            while True:
                self.connect(port).recv(1)
        # What was accepted lives on.
        speaker.sendall(b"still")
        self.assertEqual(read_exactly(speaker, 5), b"still")
        speaker.close()
        self.event("finished")
        self.ended(0)

    def test_connections_before_the_start_are_held(self) -> None:
        self.start("--loop", self.loop, "--hold", HAPROXY)
        port = int(self.event("bound")["urls"][0].rpartition(":")[2])
        early = self.connect(port, PROXY_V1 + b"hello")
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        self.assertEqual(self.event("listening", "made")["event"], "listening")
        self.assertEqual(read_exactly(early, 5), b"hello")
        self.assertEqual(self.event("made")["peername"], ["203.0.113.7", 4321])
        early.close()
        self.stop()

    def test_closing_sends_what_was_written(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"!close")
        received = read_to_end(client)
        self.assertEqual(len(received), 65536 * 16)
        self.assertEqual(self.event("lost")["error"], None)
        self.stop()

    def test_closing_one_direction(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"!half")
        self.assertEqual(len(read_to_end(client)), 65536 * 16)
        # The other direction is still open.
        client.sendall(b"x" * 1000)
        client.close()
        self.assertEqual(self.event("lost")["counted"], 1000)
        self.stop()

    def test_aborting(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"!abort")
        with self.assertRaises(ConnectionResetError):
            client.recv(1)
        self.assertIsNone(self.event("lost")["error"])
        self.stop()

    def test_a_client_that_resets(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"hello")
        self.event("made")
        # Nothing is on its way: it is by reading that the server learns of it.
        self.assertEqual(read_exactly(client, 5), b"hello")
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        self.assertEqual(self.event("lost")["error"], "ConnectionResetError")
        self.stop()

    def test_a_client_that_resets_with_more_to_read_than_one_read_takes(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"!hoard")
        self.event("hoarding")
        client.sendall(b"x" * 300_000)
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        release = self.connect(port, PROXY_V1 + b"!release")
        self.assertEqual(self.event("lost")["error"], "ConnectionResetError")
        self.assertEqual(read_exactly(release, 8), b"released")
        release.close()
        self.event("lost")
        self.stop()

    def test_a_protocol_that_fails_loses_its_connection_only(self) -> None:
        [port] = self.listening(HAPROXY)
        client = self.connect(port, PROXY_V1 + b"!fail")
        failure = self.event("failure")
        self.assertEqual(
            failure["text"], "Fatal error: protocol.data_received() call failed."
        )
        with self.assertRaises(ConnectionResetError):
            client.recv(1)
        self.event("lost")
        other = self.connect(port, PROXY_V1 + b"hello")
        self.assertEqual(read_exactly(other, 5), b"hello")
        other.close()
        self.stop()

    def memory(self) -> int:
        """The most memory that the server ever had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def test_a_client_that_does_not_read_makes_us_wait(self) -> None:
        [port] = self.listening(HAPROXY)
        before = self.memory()
        client = self.connect(port, PROXY_V1 + b"!flood 50000000")
        self.event("made")
        # Until the pipe between us is full; a second client is served meanwhile.
        other = self.connect(port, PROXY_V1 + b"hello")
        self.assertEqual(read_exactly(other, 5), b"hello")
        received = 0
        expected = bytes(range(256))
        while received < 50_000_000:
            piece = read_exactly(client, min(1_000_000, 50_000_000 - received))
            start = received % 256
            self.assertEqual(piece[:256], (expected * 2)[start : start + 256])
            received += len(piece)
        # One chunk above Twisted's mark, and what the kernel did not take of it.
        self.assertLessEqual(self.event("flooded")["largest"], 3 * 65536)
        self.assertLess(self.memory() - before, 20_000_000)
        client.close()
        other.close()
        self.stop()

    def test_a_protocol_that_does_not_read_makes_the_client_wait(self) -> None:
        [port] = self.listening(HAPROXY)
        before = self.memory()
        client = self.connect(port, PROXY_V1 + b"!hoard")
        self.event("hoarding")
        client.setblocking(False)
        piece, sent = b"x" * 65536, 0
        while select.select([], [client], [], 0.5)[1] and sent < 100_000_000:
            sent += client.send(piece)
        # What the kernel's buffers on both sides hold, and no more.
        self.assertLess(sent, 50_000_000)
        self.assertLess(self.memory() - before, 20_000_000)
        release = self.connect(port, PROXY_V1 + b"!release")
        self.assertEqual(read_exactly(release, 8), b"released")
        client.setblocking(True)
        client.sendall(b"last")
        client.close()
        self.assertEqual(self.event("lost")["counted"], sent + 4)
        release.close()
        self.stop()

    def test_a_third_party_plugin(self) -> None:
        [port] = self.listening(r"knock:sesame:tcp\:0\:interface\=127.0.0.1")
        client = self.connect(port, b"sesame\nhello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        made = self.event("made")
        self.assertEqual(made["peername"], list(client.getsockname()))
        self.assertEqual(made["sockname"], list(client.getpeername()))
        stranger = self.connect(port, b"please\nhello")
        self.assertEqual(stranger.recv(1), b"")
        self.process.send_signal(signal.SIGTERM)
        self.event("stopped")
        # The plugin's shutdown waits for the drain, and the end for the plugin's.
        client.sendall(b"still")
        self.assertEqual(read_exactly(client, 5), b"still")
        self.assertFalse(self.goodbye.exists())
        client.close()
        self.event("finished")
        self.assertEqual(self.goodbye.read_text(), "goodbye")
        self.assertEqual(self.ended(0), "")

    def test_a_plugin_that_stops_the_reactor(self) -> None:
        [knock, plain] = self.listening(
            r"knock:sesame:tcp\:0\:interface\=127.0.0.1", "127.0.0.1:0"
        )
        client = self.connect(plain, b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        self.connect(knock, b"STOP\n")
        self.event("reactor.stop")
        self.event("stopped")
        client.sendall(b"still")
        self.assertEqual(read_exactly(client, 5), b"still")
        client.close()
        self.event("finished")
        self.assertEqual(self.ended(0), "")

    def test_a_unix_socket_of_twisteds(self) -> None:
        path = self.directory / "plain.sock"
        self.start("--loop", self.loop, rf"bare:unix\:{path}\:mode\=600")
        listening = self.event("listening")
        self.assertEqual(listening["urls"], [f"unix:{path}"])
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(DEADLINE)
        client.connect(str(path))
        client.sendall(b"hello")
        made = self.event("made")
        self.assertEqual((made["peername"], made["sockname"]), ("", str(path)))
        self.assertEqual(read_exactly(client, 5), b"hello")
        client.close()
        self.event("lost")
        self.stop()
        self.assertFalse(path.exists())

    def test_a_client_that_has_said_everything(self) -> None:
        [port] = self.listening(BARE)
        client = self.connect(port, b"hello")
        client.shutdown(socket.SHUT_WR)
        # It may still hear.
        self.assertEqual(read_to_end(client), b"hello<eof>")
        self.event("eof")
        self.event("lost")
        self.stop()

    def test_the_end_of_input_waits_its_turn(self) -> None:
        [port] = self.listening(BARE)
        client = self.connect(port, b"!hoard")
        self.event("hoarding")
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        release = self.connect(port, b"!release")
        self.assertEqual(read_exactly(release, 8), b"released")
        # The protocol does not ask to stay open, and everything has been delivered.
        self.event("eof")
        self.assertEqual(self.event("lost")["counted"], 1000)
        self.assertEqual(client.recv(1), b"")
        release.close()
        self.event("eof")
        self.event("lost")
        self.stop()

    def test_a_client_that_says_nothing_and_goes(self) -> None:
        [port] = self.listening(BARE)
        client = self.connect(port)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(client.recv(1), b"")
        self.connect(port).close()
        speaker = self.connect(port, b"hello")
        self.assertEqual(self.event("made", "lost")["event"], "made")
        speaker.close()
        self.event("lost")
        self.stop()

    def test_a_plugin_that_never_ends(self) -> None:
        self.listening(
            "--set",
            "django_daphne.server.twisted_reactor.SHUTDOWN_TIMEOUT=0.2",
            r"stuck:tcp\:0\:interface\=127.0.0.1",
        )
        self.assertIn(
            "WARNING:django_daphne.server:Twisted's shutdown events did not end within "
            "0.2 s.",
            self.stop(),
        )


class AsyncioTwistedTests(TwistedTests, ProcessTestCase):
    loop = "asyncio"


@unittest.skipUnless("uvloop" in LOOPS, "uvloop does not exist for this interpreter")
class UvloopTwistedTests(TwistedTests, ProcessTestCase):
    loop = "uvloop"


class TwistedTLSTests(ProcessTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = authority = Authority(self.directory)
        # Twisted reads the PROXY header inside TLS.
        self.proxied = (
            f"haproxy:ssl:0:interface=127.0.0.1"
            f":privateKey={quote(str(authority.private_key))}"
            f":certKey={quote(str(authority.certificate))}"
            f":extraCertChain={quote(str(authority.chain))}"
        )

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        tls = self.authority.client().wrap_socket(sock, server_hostname="localhost")
        self.addCleanup(tls.close)
        return tls

    def test_tls_of_twisteds(self) -> None:
        certificates = self.directory / "certificates"
        certificates.mkdir()
        pem = self.authority.both.read_bytes()
        (certificates / "localhost.pem").write_bytes(pem)
        text = f"tls:{certificates}:port=0:interface=127.0.0.1"
        self.start(text)
        listening = self.event("listening")
        port = listening["addresses"][0][1]
        self.assertEqual(listening["urls"], [f"https://127.0.0.1:{port}"])
        client = self.wrap(self.connect(port))
        client.sendall(b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        made = self.event("made")
        self.assertEqual(made["peername"], list(client.getsockname()))
        version, cipher, alpn = made["tls"]
        self.assertEqual((version, cipher), (client.version(), list(client.cipher())))
        self.assertEqual(alpn, "h2")
        self.assertEqual(
            made["extension"],
            {
                "server_cert": self.authority.certificate.read_text(),
                "client_cert_chain": [],
                "client_cert_name": None,
                "client_cert_error": None,
                "tls_version": 0x0304,
                "cipher_suite": 0x1302,
            },
        )
        client.close()
        self.event("lost")
        self.stop()

    def test_the_proxy_protocol_and_twisteds_tls(self) -> None:
        self.start(self.proxied)
        listening = self.event("listening")
        [url], [[_, port]] = listening["urls"], listening["addresses"]
        self.assertEqual(url, f"https://127.0.0.1:{port}")
        client = self.wrap(self.connect(port))
        client.sendall(PROXY_V1 + b"!flood 50000000")
        made = self.event("made")
        self.assertEqual(made["peername"], ["203.0.113.7", 4321])
        self.assertEqual(made["tls"][0], client.version())
        self.assertEqual(made["tls"][2], "h2")
        self.assertEqual(len(read_exactly(client, 50_000_000)), 50_000_000)
        self.assertLess(self.event("flooded")["largest"], 4 * 65536)
        client.close()
        self.event("lost")
        self.stop()

    def test_a_paused_protocol_hears_nothing(self) -> None:
        [port] = self.listening(self.proxied)
        hoarder = self.connect(port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.authority.client().wrap_bio(
            incoming, outgoing, server_hostname="localhost"
        )
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                hoarder.sendall(outgoing.read())
                incoming.write(hoarder.recv(65536))
        # Records that arrive in one read are decrypted in one go.
        tls.write(PROXY_V1 + b"!hoard")
        for _ in range(50):
            tls.write(b"x" * 100)
        hoarder.sendall(outgoing.read())
        self.event("hoarding")
        release = self.wrap(self.connect(port))
        release.sendall(PROXY_V1 + b"!release")
        self.assertEqual(read_exactly(release, 8), b"released")
        tls.write(b"last")
        hoarder.sendall(outgoing.read())
        hoarder.close()
        self.assertEqual(self.event("lost")["counted"], 5004)
        release.close()
        self.stop()

    def test_a_client_that_does_not_answer_the_closing_alert(self) -> None:
        [port] = self.listening(
            "--set",
            "django_daphne.server.twisted_transport.TLS_SHUTDOWN_TIMEOUT=0.2",
            self.proxied,
        )
        client = self.wrap(self.connect(port))
        client.sendall(PROXY_V1 + b"!close")
        self.assertEqual(len(read_exactly(client, 65536 * 16)), 65536 * 16)
        # Our side of the connection stays open, and silent.
        self.event("lost")
        self.stop()

    def test_closing_over_tls(self) -> None:
        [port] = self.listening(self.proxied)
        client = self.wrap(self.connect(port))
        client.sendall(PROXY_V1 + b"!close")
        self.assertEqual(len(read_to_end(client)), 65536 * 16)
        client.close()
        self.event("lost")
        self.stop()


class TwistedRefusalTests(ProcessTestCase):
    def test_an_unknown_type(self) -> None:
        self.assertRefused(
            "foo:bar",
            says="foo:bar: unknown endpoint type: 'foo'; no installed Twisted plugin "
            "provides it. An ordinary bind is written like '127.0.0.1:8000'.",
        )
        self.assertRefused(
            "haproxy:foo:1",
            says="haproxy:foo:1: unknown endpoint type: 'foo'; no installed Twisted "
            "plugin provides it. An ordinary bind is written like '127.0.0.1:8000'.",
        )

    def test_arguments_that_twisted_refuses(self) -> None:
        for text in ("haproxy:tcp:eighty", "knock:sesame", "haproxy:tcp:1:colour=red"):
            self.start(text)
            errors = self.ended(1)
            self.assertTrue(
                errors.startswith(f"{text}: Twisted refuses this endpoint ("), errors
            )
            self.assertEqual(errors.count("\n"), 1)

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            text = f"haproxy:tcp:{port}:interface=127.0.0.1"
            self.assertRefused(text, says=f"{text}: the address is already in use.")

    def test_a_plain_bind_is_closed_again(self) -> None:
        path = self.directory / "app.sock"
        self.assertRefused(
            f"unix:{path}",
            "knock:sesame:tcp\\:1\\:interface\\=192.0.2.1",
            says="knock:sesame:tcp\\:1\\:interface\\=192.0.2.1: no interface of this "
            "machine has this address.",
        )
        self.assertFalse(path.exists())

    def test_another_reactor(self) -> None:
        for reactor, name in [
            ("selectreactor", "SelectReactor"),
            ("asyncioreactor", "AsyncioSelectorReactor"),
        ]:
            self.assertRefused(
                HAPROXY,
                "--reactor",
                reactor,
                says=f"{HAPROXY}: Twisted's {name} is already installed in this "
                f"process; let nothing import twisted.internet.reactor before the "
                f"server has started.",
            )

    def test_another_reactor_does_not_matter_to_plain_binds(self) -> None:
        [port] = self.listening("127.0.0.1:0", "--reactor", "selectreactor")
        client = self.connect(port, b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        client.close()
        self.stop()

    def test_a_second_loop(self) -> None:
        code = (
            "import asyncio\n"
            "from django_daphne.binds import parse_bind\n"
            "from django_daphne.server.endpoints import open_listeners\n"
            "async def once():\n"
            f"    [one] = await open_listeners([parse_bind({HAPROXY!r})], backlog=1)\n"
            "    one.stop_accepting()\n"
            "    await one.finish()\n"
            "asyncio.run(once())\n"
            "try:\n"
            "    asyncio.run(once())\n"
            "except Exception as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        output = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=DEADLINE,
        )
        self.assertEqual(
            output.stdout,
            f"BindError {HAPROXY}: Twisted's reactor served another event loop of this "
            f"process and cannot be started again; start the server in a process of "
            f"its own.\n",
            output.stderr,
        )


class SystemdForTwistedTests(ProcessTestCase):
    def test_one_socket_each(self) -> None:
        launcher = (
            "import os, socket, sys\n"
            "socks = [socket.create_server(('127.0.0.1', 0)) for _ in 'ab']\n"
            "fds = [os.dup(sock.fileno()) for sock in socks]\n"
            "os.dup2(fds[0], 3); os.dup2(fds[1], 4)\n"
            "os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()),\n"
            "                  LISTEN_FDNAMES='web:proxied')\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        self.run_process(
            [
                sys.executable, "-c", launcher, "-m", "tests.echo_server",
                "haproxy:systemd:domain=INET:name=proxied", "systemd:name=web",
            ]
        )  # fmt: skip
        [[_, proxied], [_, web]] = self.event("listening")["addresses"]
        client = self.connect(proxied, PROXY_V1 + b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        plain = self.connect(web, b"hello")
        self.assertEqual(read_exactly(plain, 5), b"hello")
        client.close()
        plain.close()
        self.stop()


@require("haproxy")
class HAProxyTests(ProcessTestCase):
    def test_behind_the_real_one(self) -> None:
        for version in ("send-proxy", "send-proxy-v2"):
            with self.subTest(version):
                [port] = self.listening(HAPROXY)
                front = self.front(port, version)
                client = self.connect(front, b"hello")
                self.assertEqual(read_exactly(client, 5), b"hello")
                made = self.event("made")
                self.assertEqual(made["peername"], list(client.getsockname()))
                self.assertEqual(made["sockname"], ["127.0.0.1", front])
                client.close()
                self.event("lost")
                self.stop()

    def front(self, port: int, version: str) -> int:
        """A real haproxy before ``port``; its own port."""
        # It takes over a socket that listens already: no moment to wait for.
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fd, front = sock.fileno(), int(sock.getsockname()[1])
            configuration = self.directory / "haproxy.cfg"
            configuration.write_text(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n"
                " timeout server 30s\n"
                f"frontend front\n bind fd@{fd}\n default_backend back\n"
                f"backend back\n server one 127.0.0.1:{port} {version}\n"
            )
            program = find("haproxy")
            assert program is not None
            haproxy = subprocess.Popen(
                [program, "-db", "-f", str(configuration)],
                pass_fds=[fd],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.addCleanup(haproxy.wait)
        self.addCleanup(haproxy.kill)
        return front
