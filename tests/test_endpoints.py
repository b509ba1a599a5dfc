"""Listening on plain sockets: every kind of bind, on each event loop.

What needs descriptors or an environment of its own runs in a process of its own
(``tests.echo_server``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import grp
import os
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

from django_daphne.binds import Bind, BindKind, parse_bind, quote
from django_daphne.errors import BindError
from django_daphne.server import endpoints, inherited, tcp_sockets
from django_daphne.server.endpoints import Listener, open_listeners
from django_daphne.server.refusals import explain

from .listening import (
    DEADLINE,
    LOOPS,
    Authority,
    DirectoryTestCase,
    ProcessTestCase,
    read_exactly,
)
from .ports import free_port

Test = TypeVar("Test", bound=unittest.TestCase)


def on_each_loop(
    test: Callable[[Test], Awaitable[None]],
) -> Callable[[Test], None]:
    @functools.wraps(test)
    def run(self: Test) -> None:
        for name, factory in LOOPS.items():
            with self.subTest(loop=name), asyncio.Runner(loop_factory=factory) as loop:
                loop.run(asyncio.wait_for(_await(test(self)), DEADLINE))

    return run


async def _await(awaitable: Awaitable[None]) -> None:
    await awaitable


class Echo(asyncio.Protocol):
    """Sends everything back; remembers its transports."""

    transports: list[asyncio.Transport] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transports.append(self.transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def listening(*texts: str) -> AsyncIterator[list[Listener]]:
    Echo.transports = []
    listeners = await open_listeners(map(parse_bind, texts), backlog=16)
    try:
        for listener in listeners:
            await listener.start(Echo, handshake_timeout=5)
        yield listeners
    finally:
        for listener in listeners:
            listener.stop_accepting()
        for transport in Echo.transports:
            transport.abort()
        # uvloop closes its handles in the turn after.
        await asyncio.sleep(0)


async def echo(*where: Any, **options: Any) -> bytes:
    """Connect, send a word, return what comes back."""
    if len(where) == 1:
        reader, writer = await asyncio.open_unix_connection(*where)
    else:
        reader, writer = await asyncio.open_connection(*where, **options)
    try:
        writer.write(b"hello")
        return await reader.readexactly(5)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def refused(connect: Callable[[], Awaitable[Any]]) -> None:
    """Return when ``connect`` is refused; a loop may need a turn to close."""
    while True:
        try:
            await connect()
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            pass
        await asyncio.sleep(0.01)


def port_of(listener: Listener) -> int:
    return int(listener.url.rpartition(":")[2])


def machine_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class ListeningTestCase(DirectoryTestCase):
    async def assertRefuses(self, *texts: str, says: str) -> None:
        with self.assertRaises(BindError) as caught:
            async with listening(*texts):
                pass
        self.assertEqual(str(caught.exception), says)


class TCPTests(ListeningTestCase):
    @on_each_loop
    async def test_an_address_and_a_port_chosen_by_the_system(self) -> None:
        async with listening("127.0.0.1:0") as [listener]:
            host, port = listener.address
            self.assertEqual(listener.url, f"http://127.0.0.1:{port}")
            self.assertEqual((host, port > 0), ("127.0.0.1", True))
            self.assertEqual(await echo("127.0.0.1", port), b"hello")

    @on_each_loop
    async def test_small_answers_are_not_delayed(self) -> None:
        seen: list[int] = []

        class Ask(Echo):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                sock = transport.get_extra_info("socket")
                seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        # asyncio looks at the protocol number, which a socket may not have been given.
        passed = socket.create_server(("127.0.0.1", 0))
        fd = os.dup(passed.fileno())
        passed.close()
        mine = endpoints.SocketListener(
            Bind("fd:0", BindKind.FD),
            [socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=fd)],
            backlog=16,
        )
        listeners = await open_listeners([parse_bind("127.0.0.1:0")], backlog=16)
        for listener in [*listeners, mine]:
            await listener.start(Ask)
            await echo("127.0.0.1", port_of(listener))
            listener.stop_accepting()
        self.assertEqual([bool(value) for value in seen], [True, True])

    @on_each_loop
    async def test_every_address_means_both_families_on_one_port(self) -> None:
        async with listening(":0") as [listener]:
            port = port_of(listener)
            self.assertEqual(listener.url, f"http://0.0.0.0:{port}")
            names = [sock.getsockname()[:2] for sock in listener.sockets]
            self.assertEqual(await echo("127.0.0.1", port), b"hello")
            if not machine_has_ipv6():
                self.assertEqual(names, [("0.0.0.0", port)])
                return
            self.assertEqual(names, [("0.0.0.0", port), ("::", port)])
            self.assertEqual(await echo("::1", port), b"hello")
            # Two sockets, so IPv4 clients keep their own address.
            hosts = [t.get_extra_info("peername")[0] for t in Echo.transports]
            self.assertEqual(hosts, ["127.0.0.1", "::1"])

    @on_each_loop
    async def test_a_fixed_port_on_every_address(self) -> None:
        port = free_port()
        async with listening(f":{port}") as [listener]:
            self.assertEqual({s.getsockname()[1] for s in listener.sockets}, {port})

    @on_each_loop
    async def test_a_name_means_all_its_addresses_that_exist(self) -> None:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
            # TEST-NET-1 is on no machine.
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        ]
        if machine_has_ipv6():
            found.append((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)))
        with mock.patch("socket.getaddrinfo", return_value=found):
            if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
                listeners = await open_listeners([parse_bind("here:0")], backlog=5)
            else:
                # uvloop asks libuv, which asks the system.
                listeners = await open_listeners([parse_bind("localhost:0")], backlog=5)
        [listener] = listeners
        hosts = [sock.getsockname()[0] for sock in listener.sockets]
        ports = {sock.getsockname()[1] for sock in listener.sockets}
        listener.stop_accepting()
        self.assertEqual(len(ports), 1)
        self.assertIn("127.0.0.1", hosts)
        if listener.bind.host == "here":
            expected = ["127.0.0.1", "127.0.0.2"]
            self.assertEqual(hosts, expected + ["::1"] * machine_has_ipv6())

    @on_each_loop
    async def test_a_name_stays_in_the_url(self) -> None:
        async with listening("localhost:0") as [listener]:
            port = listener.address[1]
            self.assertEqual(listener.url, f"http://localhost:{port}")
            self.assertEqual(await echo("127.0.0.1", port), b"hello")

    @on_each_loop
    async def test_ipv6(self) -> None:
        if not machine_has_ipv6():
            await self.assertRefuses(
                "[::1]:0",
                says="[::1]:0: no interface of this machine has this address.",
            )
            return
        async with listening("[::1]:0", "[::]:0") as [one, every]:
            self.assertEqual(one.url, f"http://[::1]:{port_of(one)}")
            self.assertEqual(every.url, f"http://[::]:{port_of(every)}")
            self.assertEqual(await echo("::1", port_of(one)), b"hello")
            self.assertEqual(await echo("::1", port_of(every)), b"hello")
            await refused(lambda: echo("127.0.0.1", port_of(every)))

    @on_each_loop
    async def test_an_ipv6_scope(self) -> None:
        if machine_has_ipv6():
            async with listening("[::1%lo]:0") as [listener]:
                self.assertEqual(await echo("::1", port_of(listener)), b"hello")

    @on_each_loop
    async def test_twisteds_spellings(self) -> None:
        texts = ["tcp:0", "tcp:0:interface=127.0.0.1:backlog=3"]
        async with listening(*texts) as listeners:
            for listener in listeners:
                self.assertEqual(await echo("127.0.0.1", port_of(listener)), b"hello")
        self.assertNotIn("twisted.internet.reactor", sys.modules)

    @on_each_loop
    async def test_twisteds_ipv6_takes_ipv4_where_the_system_does(self) -> None:
        if not machine_has_ipv6():
            return
        async with listening("tcp6:0") as [listener]:
            [sock] = listener.sockets
            with socket.socket(socket.AF_INET6) as plain:
                default = plain.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            self.assertEqual(
                sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), default
            )
            self.assertEqual(await echo("::1", port_of(listener)), b"hello")

    @on_each_loop
    async def test_nothing_is_accepted_before_the_start(self) -> None:
        [listener] = await open_listeners([parse_bind("127.0.0.1:0")], backlog=16)
        with self.assertRaises(ConnectionRefusedError):
            await echo("127.0.0.1", port_of(listener))
        await listener.start(Echo)
        self.assertEqual(await echo("127.0.0.1", port_of(listener)), b"hello")
        listener.stop_accepting()

    @on_each_loop
    async def test_accepted_connections_outlive_the_listener(self) -> None:
        async with listening("127.0.0.1:0") as [listener]:
            port = port_of(listener)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"one")
            self.assertEqual(await reader.readexactly(3), b"one")
            listener.stop_accepting()
            listener.stop_accepting()
            await refused(lambda: echo("127.0.0.1", port))
            writer.write(b"two")
            self.assertEqual(await reader.readexactly(3), b"two")
            await listener.finish()
            writer.close()

    @on_each_loop
    async def test_a_listener_that_never_started_closes(self) -> None:
        bind = f"127.0.0.1:{free_port()}"
        [listener] = await open_listeners([parse_bind(bind)], backlog=16)
        listener.stop_accepting()
        async with listening(bind):
            pass

    @on_each_loop
    async def test_a_port_just_left_is_free_again(self) -> None:
        port = free_port()
        async with listening(f"127.0.0.1:{port}"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            await reader.readexactly(1)
            # Our side closes first, and its connection waits in TIME_WAIT.
            Echo.transports[0].close()
            await reader.read()
            writer.close()
        async with listening(f"127.0.0.1:{port}"):
            self.assertEqual(await echo("127.0.0.1", port), b"hello")


class TCPRefusalTests(ListeningTestCase):
    @on_each_loop
    async def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            text = f"127.0.0.1:{other.getsockname()[1]}"
            await self.assertRefuses(
                text, says=f"{text}: the address is already in use."
            )

    @on_each_loop
    async def test_a_port_taken_while_the_application_started(self) -> None:
        port = free_port()
        bind = parse_bind(f"127.0.0.1:{port}")
        [first] = await open_listeners([bind], backlog=16)
        [second] = await open_listeners([bind], backlog=16)
        await first.start(Echo)
        with self.assertRaises(BindError) as caught:
            await second.start(Echo)
        self.assertEqual(
            str(caught.exception), f"127.0.0.1:{port}: the address is already in use."
        )
        self.assertEqual(await echo("127.0.0.1", port), b"hello")
        first.stop_accepting()
        await refused(lambda: echo("127.0.0.1", port))

    @on_each_loop
    async def test_two_binds_for_one_port(self) -> None:
        port = free_port()
        one, every = f"127.0.0.1:{port}", f":{port}"
        for texts in [(one, every), (every, one), (one, f"tcp:{port}")]:
            await self.assertRefuses(
                *texts, says=f"{texts[1]}: {texts[0]!r} already has this port."
            )
        if machine_has_ipv6():
            six = f"tcp6:{port}"
            await self.assertRefuses(
                six, one, says=f"{one}: '{six}' already has this port."
            )
            async with listening(one, f"[::1]:{port}"):
                pass

    @on_each_loop
    async def test_all_or_nothing(self) -> None:
        port = free_port()
        path = self.directory / "app.sock"
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            await self.assertRefuses(
                f"127.0.0.1:{port}",
                f"unix:{path}",
                taken,
                says=f"{taken}: the address is already in use.",
            )
        self.assertFalse(path.exists())
        async with listening(f"127.0.0.1:{port}"):
            pass

    @on_each_loop
    async def test_an_address_of_another_machine(self) -> None:
        await self.assertRefuses(
            "192.0.2.1:0",
            says="192.0.2.1:0: no interface of this machine has this address.",
        )

    @on_each_loop
    async def test_a_name_of_nobody(self) -> None:
        with self.assertRaises(BindError) as caught:
            await open_listeners([parse_bind("nobody.invalid:80")], backlog=16)
        self.assertRegex(
            str(caught.exception),
            r"^nobody\.invalid:80: the host name 'nobody\.invalid' cannot be resolved "
            r"\(.+\)\.$",
        )

    @on_each_loop
    async def test_a_name_that_cannot_be_one(self) -> None:
        label = "a" * 64
        with self.assertRaises(BindError) as caught:
            await open_listeners([parse_bind(f"{label}:80")], backlog=16)
        self.assertTrue(str(caught.exception).startswith(f"{label}:80: "))

    def test_a_privileged_port(self) -> None:
        denied = PermissionError(errno.EACCES, "Permission denied")
        self.assertEqual(
            str(explain(parse_bind("127.0.0.1:80"), denied)),
            "127.0.0.1:80: this user may not listen on port 80; use a port from 1024 "
            "up, or grant CAP_NET_BIND_SERVICE.",
        )
        self.assertEqual(
            str(explain(parse_bind("127.0.0.1:8000"), denied)),
            "127.0.0.1:8000: permission denied.",
        )

    def test_other_words_of_the_system(self) -> None:
        bind = parse_bind("[::1]:80")
        for number, words in [
            (errno.EAFNOSUPPORT, "this machine does not have this kind of address."),
            (errno.EMFILE, "Too many open files."),
        ]:
            self.assertEqual(
                str(explain(bind, OSError(number, ""))), f"[::1]:80: {words}"
            )
        self.assertEqual(
            str(explain(bind, OSError("two\nlines"))), "[::1]:80: two lines."
        )

    @on_each_loop
    async def test_a_family_that_the_machine_lacks(self) -> None:
        with _without(socket.AF_INET6, errno.EAFNOSUPPORT):
            async with listening(":0") as [listener]:
                [sock] = listener.sockets
                self.assertEqual(sock.family, socket.AF_INET)
            await self.assertRefuses(
                "[::1]:0",
                says="[::1]:0: this machine does not have this kind of address.",
            )

    @on_each_loop
    async def test_an_only_family(self) -> None:
        if machine_has_ipv6():
            with _without(socket.AF_INET, errno.EADDRNOTAVAIL):
                async with listening(":0") as [listener]:
                    self.assertEqual(listener.url, f"http://[::]:{port_of(listener)}")

    @on_each_loop
    async def test_a_port_that_only_one_family_can_have(self) -> None:
        real, tries = tcp_sockets._bind_one, []

        def bind_one(family: int, *rest: Any) -> socket.socket:
            if family == socket.AF_INET6:
                tries.append(rest[1])
                if len(tries) < 3:
                    raise OSError(errno.EADDRINUSE, "Address already in use")
            # Two addresses of one family, for machines without IPv6.
            host = "127.0.0.2" if family == socket.AF_INET6 else "127.0.0.1"
            return real(socket.AF_INET, host, *rest[1:])

        with mock.patch.object(tcp_sockets, "_bind_one", bind_one):
            async with listening(":0"):
                pass
        # Each try asks for the port that the first family was given.
        self.assertEqual(len(tries), 3)
        self.assertNotIn(0, tries)

    @on_each_loop
    async def test_no_port_for_both_families(self) -> None:
        with _without(socket.AF_INET6, errno.EADDRINUSE):
            await self.assertRefuses(":0", says=":0: no port is free on every address.")
            port = free_port()
            await self.assertRefuses(
                f":{port}", says=f":{port}: the address is already in use."
            )


@contextlib.contextmanager
def _without(missing: socket.AddressFamily, number: int) -> Iterator[None]:
    real = tcp_sockets._bind_one

    def bind_one(family: socket.AddressFamily, *rest: Any) -> socket.socket:
        if family == missing:
            raise OSError(number, os.strerror(number))
        return real(family, *rest)

    with mock.patch.object(tcp_sockets, "_bind_one", bind_one):
        yield


class UnixTests(ListeningTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "app.sock"
        self.text = f"unix:{self.path}"

    def mode(self) -> int:
        return stat.S_IMODE(self.path.stat().st_mode)

    @on_each_loop
    async def test_a_socket_and_its_end(self) -> None:
        async with listening(self.text) as [listener]:
            self.assertEqual(listener.url, self.text)
            self.assertEqual(listener.address, str(self.path))
            self.assertEqual(self.mode(), 0o660)
            self.assertEqual(await echo(str(self.path)), b"hello")
            listener.stop_accepting()
            self.assertFalse(self.path.exists())

    @on_each_loop
    async def test_the_mode_is_set_before_anyone_can_connect(self) -> None:
        for umask in (0o000, 0o077):
            previous = os.umask(umask)
            try:
                [listener] = await open_listeners(
                    [parse_bind(f"{self.text}:mode=606")], backlog=16
                )
            finally:
                os.umask(previous)
            self.assertEqual(self.mode(), 0o606)
            with self.assertRaises(ConnectionRefusedError):
                await echo(str(self.path))
            await listener.start(Echo)
            self.assertEqual(await echo(str(self.path)), b"hello")
            listener.stop_accepting()

    @on_each_loop
    async def test_the_group(self) -> None:
        number = os.getgroups()[-1] if os.getgroups() else os.getgid()
        name = grp.getgrgid(number).gr_name
        for group in (name, str(number)):
            async with listening(f"{self.text}:group={group}"):
                self.assertEqual(self.path.stat().st_gid, number)
                self.assertEqual(self.mode(), 0o660)

    @on_each_loop
    async def test_a_group_of_nobody(self) -> None:
        text = f"{self.text}:group=nobody-at-all"
        await self.assertRefuses(
            text, says=f"{text}: there is no group 'nobody-at-all'."
        )
        self.assertFalse(self.path.exists())

    @on_each_loop
    async def test_a_group_that_we_may_not_give(self) -> None:
        text = f"{self.text}:group=4242"
        denied = PermissionError(errno.EPERM, "Operation not permitted")
        with mock.patch("os.chown", side_effect=denied):
            await self.assertRefuses(
                text,
                says=f"{text}: this user may not give the socket to group '4242' "
                f"(Operation not permitted); make it a member.",
            )
        self.assertFalse(self.path.exists())

    @on_each_loop
    async def test_a_stale_socket_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        self.assertTrue(self.path.is_socket())
        async with listening(self.text):
            self.assertEqual(await echo(str(self.path)), b"hello")

    @on_each_loop
    async def test_a_live_socket_is_refused(self) -> None:
        says = f"{self.text}: the socket is in use by another process."
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.path))
            other.listen(1)
            await self.assertRefuses(self.text, says=says)
            self.assertTrue(self.path.is_socket())
        self.path.unlink()

    @on_each_loop
    async def test_a_live_socket_with_a_full_backlog_is_refused(self) -> None:
        says = f"{self.text}: the socket is in use by another process."
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
            other.bind(str(self.path))
            other.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(str(self.path))
            await self.assertRefuses(self.text, says=says)
        self.path.unlink()

    @on_each_loop
    async def test_what_is_not_a_socket_is_left_alone(self) -> None:
        self.path.write_text("precious")
        says = f"{self.text}: the file exists and is not a socket."
        await self.assertRefuses(self.text, says=says)
        self.assertEqual(self.path.read_text(), "precious")
        self.path.unlink()
        self.path.symlink_to(self.directory / "elsewhere.sock")
        await self.assertRefuses(self.text, says=says)
        self.assertTrue(self.path.is_symlink())
        self.path.unlink()

    @on_each_loop
    async def test_a_socket_of_another_type_is_left_alone(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(self.path))
            await self.assertRefuses(
                self.text,
                says=f"{self.text}: the file belongs to a socket of another type.",
            )
        self.assertTrue(self.path.is_socket())
        self.path.unlink()

    @on_each_loop
    async def test_a_file_that_is_no_longer_ours_stays(self) -> None:
        async with listening(self.text) as [listener]:
            self.path.unlink()
            self.path.write_text("somebody else's")
            listener.stop_accepting()
            self.assertEqual(self.path.read_text(), "somebody else's")
        self.path.unlink()

    @on_each_loop
    async def test_a_file_that_is_gone_is_no_fault(self) -> None:
        async with listening(self.text) as [listener]:
            self.path.unlink()
            listener.stop_accepting()

    @on_each_loop
    async def test_two_servers_that_start_at_once(self) -> None:
        bind = parse_bind(self.text)
        [first] = await open_listeners([bind], backlog=16)
        [second] = await open_listeners([bind], backlog=16)
        with self.assertRaises(BindError) as caught:
            await first.start(Echo)
        self.assertEqual(
            str(caught.exception),
            f"{self.text}: another process has taken the socket's file.",
        )
        await second.start(Echo)
        self.assertEqual(await echo(str(self.path)), b"hello")
        second.stop_accepting()

    @on_each_loop
    async def test_a_relative_path_after_a_change_of_directory(self) -> None:
        before = os.getcwd()
        os.chdir(self.directory)
        try:
            [listener] = await open_listeners([parse_bind("unix:app.sock")], backlog=1)
        finally:
            os.chdir(before)
        self.assertEqual(listener.url, "unix:app.sock")
        listener.stop_accepting()
        self.assertFalse(self.path.exists())

    @on_each_loop
    async def test_odd_paths(self) -> None:
        for name in ("a:b=c\\d.sock", "é ü.sock", "@at.sock"):
            path = self.directory / name
            async with listening(f"unix:{quote(str(path))}") as [listener]:
                self.assertEqual(listener.url, f"unix:{path}")
                self.assertEqual(await echo(str(path)), b"hello")

    @on_each_loop
    async def test_paths_that_cannot_be(self) -> None:
        long = f"unix:{self.directory}/{'a' * 108}"
        await self.assertRefuses(
            long,
            says=f"{long}: the path is too long for a Unix socket (107 bytes on "
            f"Linux).",
        )
        missing = f"unix:{self.directory}/no/app.sock"
        await self.assertRefuses(
            missing,
            says=f"{missing}: {self.directory}/no is not a directory that exists.",
        )
        self.path.write_text("")
        below = f"unix:{self.path}/app.sock"
        await self.assertRefuses(
            below, says=f"{below}: {self.path} is not a directory that exists."
        )
        self.path.unlink()
        with self.assertRaises(BindError) as caught:
            await open_listeners([parse_bind("unix:/run/\ud800.sock")], backlog=1)
        self.assertIn("cannot be encoded", str(caught.exception))

    @on_each_loop
    async def test_a_directory_that_is_not_ours(self) -> None:
        denied = PermissionError(errno.EACCES, "Permission denied")
        with mock.patch("os.lstat", side_effect=denied):
            await self.assertRefuses(self.text, says=f"{self.text}: permission denied.")


class DescriptorTestCase(ListeningTestCase):
    """Descriptors of this process, given away by number."""

    def give(self, sock: socket.socket) -> int:
        """A number that nobody else owns; what takes it closes it."""
        with sock:
            return os.dup(sock.fileno())

    def tcp(self, family: socket.AddressFamily = socket.AF_INET) -> int:
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        return self.give(socket.create_server((host, 0), family=family))

    def unix(self) -> int:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.directory / f"{os.urandom(4).hex()}.sock"))
        sock.listen()
        return self.give(sock)


class InheritedTests(DescriptorTestCase):
    @on_each_loop
    async def test_any_family(self) -> None:
        fd = self.tcp()
        async with listening(f"fd:{fd}") as [listener]:
            port = listener.address[1]
            self.assertEqual(listener.url, f"http://127.0.0.1:{port}")
            self.assertEqual(await echo("127.0.0.1", port), b"hello")
            self.assertFalse(os.get_inheritable(fd))
            listener.stop_accepting()
            await refused(lambda: echo("127.0.0.1", port))
        fd = self.unix()
        async with listening(f"fd:fileno={fd}") as [listener]:
            path = listener.address
            self.assertEqual(listener.url, f"unix:{path}")
            self.assertEqual(await echo(path), b"hello")
        # Whoever made the socket owns its file.
        self.assertTrue(Path(path).is_socket())
        if machine_has_ipv6():
            async with listening(f"fd:{self.tcp(socket.AF_INET6)}") as [listener]:
                self.assertEqual(await echo("::1", port_of(listener)), b"hello")

    @on_each_loop
    async def test_a_bound_socket_that_does_not_listen_yet(self) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        async with listening(f"fd:{self.give(sock)}") as [listener]:
            self.assertEqual(await echo("127.0.0.1", port_of(listener)), b"hello")

    @on_each_loop
    async def test_an_abstract_socket(self) -> None:
        name = f"\0django-daphne-{os.urandom(4).hex()}"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(name)
        async with listening(f"fd:{self.give(sock)}") as [listener]:
            self.assertEqual(listener.url, f"unix:@{name[1:]}")
            # uvloop cannot connect to such a name by itself.
            client = socket.socket(socket.AF_UNIX)
            client.connect(name)
            self.assertEqual(await echo(sock=client), b"hello")

    @on_each_loop
    async def test_what_is_not_a_listening_stream_socket(self) -> None:
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        left, right = socket.socketpair()
        self.addCleanup(right.close)
        read, write = os.pipe()
        os.close(write)
        closed = os.dup(0)
        os.close(closed)
        netlink = getattr(socket, "AF_NETLINK", None)
        cases = {
            closed: "is not open.",
            read: "is not a socket.",
            self.give(datagram): "is not a stream socket.",
            self.give(socket.socket()): "is not bound to an address.",
            self.give(left): "is a connection, not a listening socket (systemd: set "
            "Accept=no).",
        }
        if netlink is not None:
            other = socket.socket(netlink, socket.SOCK_RAW)
            cases[self.give(other)] = "is neither a TCP nor a Unix socket."
        for fd, fault in cases.items():
            await self.assertRefuses(
                f"fd:{fd}", says=f"fd:{fd}: file descriptor {fd} {fault}"
            )
            if fd != closed:
                # What is not ours is not closed.
                os.close(fd)

    @on_each_loop
    async def test_one_descriptor_for_two_binds(self) -> None:
        fd = self.tcp()
        await self.assertRefuses(
            f"fd:{fd}",
            f"fd:fileno={fd}",
            says=f"fd:fileno={fd}: file descriptor {fd} is used by another bind.",
        )
        os.close(fd)


class ActivationTests(DescriptorTestCase):
    """systemd's variables, read in this process."""

    #: Where the sockets "passed" begin here: numbers that nothing else has.
    START = 200

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ))
        self.enterContext(mock.patch.object(inherited, "FIRST_PASSED_FD", self.START))

    def pass_sockets(self, *fds: int, names: str | None = None) -> None:
        for number, fd in enumerate(fds, self.START):
            os.dup2(fd, number, inheritable=True)
            os.close(fd)
        os.environ["LISTEN_FDS"] = str(len(fds))
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ.pop("LISTEN_FDNAMES", None)
        if names is not None:
            os.environ["LISTEN_FDNAMES"] = names

    def close_passed(self, count: int) -> None:
        for number in range(self.START, self.START + count):
            with contextlib.suppress(OSError):
                os.close(number)

    @on_each_loop
    async def test_every_socket_passed(self) -> None:
        self.pass_sockets(self.tcp(), self.unix(), names="web:local")
        async with listening("systemd:") as [web, local]:
            self.assertEqual(await echo("127.0.0.1", port_of(web)), b"hello")
            self.assertEqual(await echo(local.address), b"hello")
            self.assertFalse(os.get_inheritable(self.START))
            left = {name for name in os.environ if name.startswith("LISTEN_")}
            self.assertEqual(left, set())

    @on_each_loop
    async def test_by_index_and_by_name(self) -> None:
        self.pass_sockets(self.tcp(), self.unix(), self.tcp(), names="web:local:web")
        async with listening(
            "systemd:name=web", "systemd:domain=UNIX:index=1"
        ) as listeners:
            kinds = [listener.url.partition(":")[0] for listener in listeners]
            self.assertEqual(kinds, ["http", "http", "unix"])

    @on_each_loop
    async def test_sockets_that_nobody_asked_for(self) -> None:
        self.pass_sockets(self.tcp(), self.tcp(), names="web:forgotten")
        with self.assertLogs("django_daphne.server", "WARNING") as logs:
            async with listening("systemd:name=web"):
                pass
        self.assertEqual(
            logs.records[0].getMessage(),
            f"systemd passed sockets that no bind uses: forgotten "
            f"(fd {self.START + 1}).",
        )
        self.assertFalse(os.get_inheritable(self.START + 1))
        self.close_passed(2)

    @on_each_loop
    async def test_what_was_passed_to_twisted_first(self) -> None:
        self.pass_sockets(self.tcp(), names="web")
        for name in ("LISTEN_FDS", "LISTEN_PID"):
            del os.environ[name]
        taken = mock.Mock(_descriptors=[self.START], _names=("web",))
        from twisted.internet import endpoints as twisted_endpoints

        with mock.patch.object(twisted_endpoints._SystemdParser, "_sddaemon", taken):
            async with listening("systemd:name=web") as [listener]:
                self.assertEqual(await echo("127.0.0.1", port_of(listener)), b"hello")

    @on_each_loop
    async def test_nothing_was_passed(self) -> None:
        for name in ("LISTEN_FDS", "LISTEN_PID"):
            os.environ.pop(name, None)
        await self.assertRefuses(
            "systemd:",
            says="systemd: no socket was passed (LISTEN_FDS and LISTEN_PID are not "
            "set); start the service through its .socket unit.",
        )

    @on_each_loop
    async def test_passed_to_another_process(self) -> None:
        os.environ.update(LISTEN_FDS="1", LISTEN_PID="1")
        await self.assertRefuses(
            "systemd:name=web",
            says=f"systemd:name=web: the sockets were passed to process 1 and this is "
            f"{os.getpid()}; start the server directly or with 'exec', not from a "
            f"shell.",
        )

    @on_each_loop
    async def test_a_count_that_is_none(self) -> None:
        os.environ["LISTEN_PID"] = str(os.getpid())
        for count in ("many", "0", "-1", "99999", ""):
            os.environ["LISTEN_FDS"] = count
            await self.assertRefuses(
                "systemd:",
                says=f"systemd: LISTEN_FDS is {count!r}, which is no count of sockets.",
            )

    @on_each_loop
    async def test_a_choice_that_was_not_passed(self) -> None:
        self.pass_sockets(self.tcp(), names="web")
        for text, fault in {
            "systemd:index=1": "only 1 sockets were passed (the first index is 0).",
            "systemd:name=api": "no socket of this name was passed (only: web).",
            "systemd:domain=INET6:index=0": "the socket passed is AF_INET.",
        }.items():
            await self.assertRefuses(text, says=f"{text}: {fault}")
        self.close_passed(1)


class TLSTests(ListeningTestCase):
    authority: Authority

    @classmethod
    def setUpClass(cls) -> None:
        cls.files = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.authority = Authority(Path(cls.files))

    def text(self, key: Path, certificate: Path | None = None, more: str = "") -> str:
        text = f"ssl:0:interface=127.0.0.1:privateKey={quote(str(key))}"
        if certificate is not None:
            text += f":certKey={quote(str(certificate))}"
        return text + more

    async def talk(self, listener: Listener, context: ssl.SSLContext) -> ssl.SSLObject:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(listener), ssl=context, server_hostname="localhost"
        )
        writer.write(b"hello")
        self.assertEqual(await reader.readexactly(5), b"hello")
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return tls

    @on_each_loop
    async def test_a_certificate_its_chain_and_its_key(self) -> None:
        authority = self.authority
        forms = [
            self.text(authority.private_key, authority.full),
            self.text(authority.both),
            self.text(
                authority.private_key,
                authority.certificate,
                f":extraCertChain={quote(str(authority.chain))}",
            ),
        ]
        for form in forms:
            async with listening(form) as [listener]:
                self.assertEqual(listener.url, f"https://127.0.0.1:{port_of(listener)}")
                # The client knows the root alone: the intermediate has been sent.
                tls = await self.talk(listener, authority.client())
                self.assertEqual(tls.version(), "TLSv1.3")
                self.assertEqual(tls.selected_alpn_protocol(), "h2")
                tls = Echo.transports[0].get_extra_info("ssl_object")
                self.assertEqual(tls.version(), "TLSv1.3")

    @on_each_loop
    async def test_versions(self) -> None:
        authority = self.authority
        text = self.text(authority.both)
        old = authority.client()
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with self.assertWarns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        async with listening(text) as [listener]:
            with self.assertRaises((ssl.SSLError, ConnectionResetError)):
                await self.talk(listener, old)
        async with listening(f"{text}:sslmethod=TLSv1_2_METHOD") as [listener]:
            tls = await self.talk(listener, authority.client())
            self.assertEqual(tls.version(), "TLSv1.2")

    @on_each_loop
    async def test_a_client_that_never_shakes_hands(self) -> None:
        [listener] = await open_listeners(
            [parse_bind(self.text(self.authority.both))], backlog=16
        )
        await listener.start(Echo, handshake_timeout=0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await reader.read(), b"")
        writer.close()
        listener.stop_accepting()

    @on_each_loop
    async def test_no_handshake_timeout(self) -> None:
        [listener] = await open_listeners(
            [parse_bind(self.text(self.authority.both))], backlog=16
        )
        await listener.start(Echo, handshake_timeout=None)
        await self.talk(listener, self.authority.client())
        listener.stop_accepting()

    @on_each_loop
    async def test_files_that_are_wrong(self) -> None:
        authority = self.authority
        key, leaf = authority.private_key, authority.certificate
        missing = self.directory / "missing.pem"
        empty, damaged = self.directory / "empty.pem", self.directory / "damaged.pem"
        empty.write_text("")
        damaged.write_bytes(leaf.read_bytes().replace(b"MII", b"AAA"))
        damaged_key = self.directory / "damaged-key.pem"
        damaged_key.write_bytes(key.read_bytes().replace(b"MI", b"AA"))
        cases = {
            (
                missing,
                leaf,
                "",
            ): f"{missing} cannot be read (No such file or directory).",
            (
                key,
                missing,
                "",
            ): f"{missing} cannot be read (No such file or directory).",
            (self.directory, leaf, ""): f"{self.directory} cannot be read (Is a "
            f"directory).",
            (empty, leaf, ""): f"{empty} holds no private key in PEM format.",
            (key, empty, ""): f"{empty} holds no certificate in PEM format.",
            (key, None, ""): f"{key} holds no certificate in PEM format.",
            (key, damaged, ""): f"the certificate in {damaged} is damaged.",
            (damaged_key, leaf, ""): f"the private key in {damaged_key} is damaged.",
            (
                authority.other_key,
                leaf,
                "",
            ): f"the private key in {authority.other_key} "
            f"does not belong to the certificate in {leaf}.",
            (authority.encrypted_key, leaf, ""): f"{authority.encrypted_key} is "
            f"encrypted, and an endpoint string has no place for its password; decrypt "
            f"it with 'openssl pkey'.",
            (key, leaf, f":extraCertChain={missing}"): f"{missing} cannot be read (No "
            f"such file or directory).",
            (
                key,
                leaf,
                f":extraCertChain={empty}",
            ): f"{empty} holds no certificates in PEM format.",
            (key, leaf, f":dhParameters={leaf}"): f"{leaf} holds no Diffie-Hellman "
            f"parameters in PEM format.",
        }
        for (private_key, certificate, more), fault in cases.items():
            text = self.text(private_key, certificate, more)
            with self.subTest(fault):
                await self.assertRefuses(text, says=f"{text}: {fault}")


class ImportTests(unittest.TestCase):
    def test_listening_without_twisted(self) -> None:
        code = (
            "import sys; import django_daphne.server.endpoints;"
            "print([n for n in sys.modules if n.partition('.')[0] in "
            "('twisted', 'zope', 'uvloop', 'django')])"
        )
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(output.stdout, "[]\n")


class OrderTests(unittest.TestCase):
    def test_listeners_come_in_the_order_of_binds(self) -> None:
        async def urls() -> list[str]:
            binds = [parse_bind(f"127.0.0.{n}:0") for n in (3, 1, 2)]
            listeners = await open_listeners(binds, backlog=1)
            for listener in listeners:
                listener.stop_accepting()
            return [listener.url.rpartition(":")[0] for listener in listeners]

        self.assertEqual(
            asyncio.run(urls()),
            ["http://127.0.0.3", "http://127.0.0.1", "http://127.0.0.2"],
        )

    def test_a_bind_is_all_that_is_needed(self) -> None:
        # The development server brings sockets of its own.
        async def url() -> str:
            sock = socket.create_server(("127.0.0.1", 0))
            bind = Bind(f"fd:{sock.fileno()}", BindKind.FD)
            listener = endpoints.SocketListener(bind, [sock], backlog=1)
            listener.stop_accepting()
            return listener.url

        self.assertRegex(asyncio.run(url()), r"^http://127\.0\.0\.1:[0-9]+$")


class PassedDescriptorTests(ProcessTestCase):
    def test_a_descriptor_over_exec(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fd, port = sock.fileno(), sock.getsockname()[1]
            self.assertEqual(self.listening(f"fd:{fd}", pass_fds=[fd]), [port])
        client = self.connect(port, b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        client.close()
        self.stop()

    def test_a_passed_unix_socket_keeps_its_file(self) -> None:
        path = self.directory / "app.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            self.listening(f"fd:{sock.fileno()}", pass_fds=[sock.fileno()])
        self.stop()
        self.assertTrue(path.is_socket())

    def test_socket_activation(self) -> None:
        # As systemd does it: the sockets from 3 up, then the process itself.
        launcher = (
            "import os, socket, sys\n"
            "web = socket.create_server(('127.0.0.1', 0))\n"
            "local = socket.socket(socket.AF_UNIX)\n"
            "local.bind(sys.argv[1]); local.listen()\n"
            "web, local = os.dup(web.fileno()), os.dup(local.fileno())\n"
            "os.dup2(web, 3); os.dup2(local, 4)\n"
            "os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()),\n"
            "                  LISTEN_FDNAMES='web:local')\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
        )
        path = self.directory / "app.sock"
        self.run_process(
            [
                sys.executable, "-c", launcher, str(path),
                "-m", "tests.echo_server",
                "systemd:name=web", "systemd:domain=UNIX:index=1",
            ]
        )  # fmt: skip
        listening = self.event("listening")
        port = listening["addresses"][0][1]
        self.assertEqual(
            listening["urls"], [f"http://127.0.0.1:{port}", f"unix:{path}"]
        )
        client = self.connect(port, b"hello")
        self.assertEqual(read_exactly(client, 5), b"hello")
        client.close()
        self.stop()
        self.assertTrue(path.is_socket())


class UnixExitTests(ProcessTestCase):
    def test_a_crashed_server_is_replaced_and_a_living_one_is_not(self) -> None:
        path = self.directory / "app.sock"
        text = f"unix:{path}"
        self.start(text)
        self.event("listening")
        self.process.kill()
        self.process.communicate()
        self.assertTrue(path.is_socket())
        self.start(text)
        self.event("listening")
        living = self.process
        self.assertRefused(
            text, says=f"{text}: the socket is in use by another process."
        )
        self.process = living
        self.stop()
        self.assertFalse(path.exists())
