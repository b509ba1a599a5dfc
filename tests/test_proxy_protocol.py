"""PROXY headers, read as they come and refused where they must be."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from django_daphne.errors import ProtocolError
from django_daphne.protocol.proxy_protocol import (
    MAX_V1,
    MISSING,
    HeaderReader,
    ProxyHeader,
    ProxyHeaderEngine,
    begins_header,
)

from . import proxy_headers as make
from .proxy_headers import CLIENT, CLIENT6, SERVER, SERVER6


def read(data: bytes) -> tuple[ProxyHeader, bytes]:
    """The header that ``data`` begins with, and what is behind it."""
    reader = HeaderReader()
    taken = reader.take(data)
    assert reader.header is not None
    return reader.header, data[taken:]


def read_dripped(data: bytes, sizes: list[int]) -> tuple[ProxyHeader | None, int]:
    """The header, read in pieces, and how many bytes of ``data`` were taken."""
    reader = HeaderReader()
    taken = 0
    while reader.header is None and taken < len(data):
        piece = data[taken : taken + (sizes.pop() if sizes else 1)]
        taken += reader.take(piece)
    return reader.header, taken


HEADERS: dict[bytes, ProxyHeader] = {
    make.V1: ProxyHeader(1, False, CLIENT, SERVER),
    make.V1_IPV6: ProxyHeader(1, False, CLIENT6, SERVER6),
    b"PROXY TCP6 ::ffff:203.0.113.7 ::1 0 65535\r\n": ProxyHeader(
        1, False, ("203.0.113.7", 0), ("::1", 65535)
    ),
    b"PROXY UNKNOWN\r\n": ProxyHeader(1),
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": ProxyHeader(1),
    make.V2: ProxyHeader(2, False, CLIENT, SERVER),
    make.V2_IPV6: ProxyHeader(2, False, CLIENT6, SERVER6),
    make.V2_LOCAL: ProxyHeader(2, True),
    make.v2(make.LOCAL, make.TCP4, make.inet(CLIENT, SERVER)): ProxyHeader(2, True),
    make.v2(make.LOCAL, 0xFF, b"anything"): ProxyHeader(2, True),
    make.v2(make.PROXY, make.UNSPECIFIED): ProxyHeader(2),
    make.v2(make.PROXY, make.UNSPECIFIED, b"anything"): ProxyHeader(2),
    make.v2(make.PROXY, make.UDP4, make.inet(CLIENT, SERVER)): ProxyHeader(
        2, False, CLIENT, SERVER
    ),
    make.v2(make.PROXY, make.UNIX, make.unix(b"/run/a", b"/run/b")): ProxyHeader(
        2, False, None, ("/run/b", None)
    ),
    make.v2(make.PROXY, make.UNIX, make.unix(b"", b"\0abstract")): ProxyHeader(2),
    make.v2(
        make.PROXY,
        make.TCP4,
        make.inet(CLIENT, SERVER)
        + make.record(0x04, bytes(300))
        + make.record(0x01, b"h2")
        + make.record(0xEA, b""),
    ): ProxyHeader(2, False, CLIENT, SERVER),
}


def with_tls(records: bytes) -> bytes:
    return make.v2(make.PROXY, make.TCP4, make.inet(CLIENT, SERVER) + records)


class HeaderTests(unittest.TestCase):
    def test_every_kind(self) -> None:
        for data, expected in HEADERS.items():
            for rest in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"\x16\x03\x01"):
                self.assertEqual(read(data + rest), (expected, rest), data)

    def test_byte_by_byte(self) -> None:
        for data, expected in HEADERS.items():
            self.assertEqual(read_dripped(data + b"rest", []), (expected, len(data)))

    @given(st.sampled_from(list(HEADERS)), st.lists(st.integers(1, 60)), st.binary())
    def test_in_any_pieces(self, data: bytes, sizes: list[int], rest: bytes) -> None:
        expected = (HEADERS[data], len(data))
        self.assertEqual(read_dripped(data + rest, sizes), expected)

    def test_the_largest(self) -> None:
        content = make.inet(CLIENT, SERVER)
        content += make.record(0x04, bytes(0xFFFF - len(content) - 3))
        data = make.v2(make.PROXY, make.TCP4, content)
        self.assertEqual(read(data + b"x"), (HEADERS[make.V2], b"x"))
        line = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n"
        self.assertEqual(len(line), MAX_V1)
        self.assertEqual(read(line), (ProxyHeader(1), b""))

    def test_tls(self) -> None:
        header, _ = read(
            with_tls(
                make.ssl(7, 0, version=b"TLSv1.3", name="Zoë".encode(), cipher=b"X")
            )
        )
        self.assertEqual(
            header.tls,
            {
                "tls_version": "TLSv1.3",
                "cipher": "X",
                "client_cert_name": "Zoë",
                "client_cert_verified": True,
            },
        )

    def test_client_certificates(self) -> None:
        for flags, verification, expected in (
            (1, 0, False),
            (3, 0, True),
            (5, 0, True),
            (3, 10, False),
        ):
            header, _ = read(with_tls(make.ssl(flags, verification)))
            assert header.tls is not None
            self.assertIs(header.tls["client_cert_verified"], expected)
            self.assertIsNone(header.tls["client_cert_name"])
            self.assertIsNone(header.tls["tls_version"])

    def test_a_client_without_tls(self) -> None:
        header, _ = read(with_tls(make.ssl(0, 0, version=b"TLSv1.3")))
        self.assertIsNone(header.tls)

    def assert_refused(self, data: bytes, says: str) -> None:
        for drip in (lambda: read(data), lambda: read_dripped(data, [])):
            with self.assertRaises(ProtocolError, msg=data) as caught:
                drip()
            self.assertIn(says, str(caught.exception))

    def test_no_header(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n", b"\r\nPROXY", b"proxy TCP4", b"PROXY\t", b"\0",
            b"\x16\x03\x01", b"PRI * HTTP/2.0", b"\r\n\r\n\0\r\nQUIX\n",
        ):  # fmt: skip
            self.assert_refused(data, MISSING)

    def test_malformed_lines(self) -> None:
        good = "PROXY TCP4 203.0.113.7 198.51.100.1 4321 443"
        for line in (
            "PROXY ", "PROXY TCP4", "PROXY TCP5 ::1 ::1 1 1", "PROXY UNKNOWNX",
            "PROXY  TCP4 203.0.113.7 198.51.100.1 4321 443", good + " ", good + " 1",
            good.replace("TCP4", "TCP6"), good.replace("TCP4", "tcp4"),
            good.replace("TCP4", "UDP4"), good.replace("443", "65536"),
            good.replace("443", "0443"), good.replace("443", "-1"),
            good.replace("443", ""), good.replace("443", "http"),
            good.replace("203.0.113.7", "203.0.113.007"),
            good.replace("203.0.113.7", "203.0.113"),
            good.replace("203.0.113.7", "localhost"), good.replace(" 4321", "\t4321"),
            good.replace("203.0.113.7", "203.0.113.7\n"), good + "\n", good + "\r",
            "PROXY TCP6 fe80::1%eth0 ::1 1 1", "PROXY TCP6 1::2::3 ::1 1 1",
            "PROXY TCP6 203.0.113.7 ::1 1 1", "PROXY UNKNOWN a\nb",
        ):  # fmt: skip
            self.assert_refused(
                line.encode() + b"\r\n", "a malformed PROXY header of version 1"
            )

    def test_a_line_without_end(self) -> None:
        says = "a PROXY header of version 1 that is too long"
        self.assert_refused(b"PROXY UNKNOWN " + b"x" * MAX_V1, says)
        line = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n"
        self.assertEqual(len(line), MAX_V1 + 1)
        self.assert_refused(line, says)
        self.assert_refused(make.V1.replace(b"\r\n", b"\n") * 3, says)

    def test_malformed_version_2(self) -> None:
        addresses = make.inet(CLIENT, SERVER)
        for data in (
            make.v2(0x11, make.TCP4, addresses),
            make.v2(0x31, make.TCP4, addresses),
            make.v2(0x22, make.TCP4, addresses),
            make.v2(make.PROXY, 0x10, addresses),
            make.v2(make.PROXY, 0x13, addresses),
            make.v2(make.PROXY, 0x41, addresses),
            make.v2(make.PROXY, 0x01, addresses),
            make.v2(make.PROXY, make.TCP4, addresses[:-1]),
            make.v2(make.PROXY, make.TCP6, addresses),
            make.v2(make.PROXY, make.UNIX, addresses),
            make.v2(make.PROXY, make.TCP4),
            with_tls(b"\x04"),
            with_tls(b"\x04\x00"),
            with_tls(b"\x04\x00\x02x"),
            with_tls(make.record(make.SSL_TYPE, bytes(4))),
            with_tls(make.record(make.SSL_TYPE, b"\x01" + bytes(4) + b"\x21\x00\x09x")),
        ):
            self.assert_refused(data, "a malformed PROXY header of version 2")

    @given(
        st.one_of(
            st.binary(),
            st.binary().map(lambda rest: b"PROXY " + rest),
            st.binary().map(lambda rest: b"PROXY TCP4 " + rest + b"\r\n"),
            st.binary().map(lambda rest: make.SIGNATURE + rest),
            st.builds(make.v2, st.integers(0, 255), st.integers(0, 255), st.binary()),
            st.binary(max_size=80).map(with_tls),
            st.tuples(
                st.sampled_from(list(HEADERS)), st.integers(0), st.integers(0, 255)
            ).map(lambda t: _changed(*t)),
        )
    )
    @example(b"")
    def test_nothing_else_is_raised(self, data: bytes) -> None:
        results = []
        for sizes in ([], [len(data)] if data else []):
            try:
                results.append(read_dripped(data, sizes))
            except ProtocolError:
                results.append((None, -1))
        # However it comes, it means the same.
        self.assertEqual(results[0], results[1])

    def test_what_looks_like_one(self) -> None:
        for data in HEADERS:
            self.assertTrue(begins_header(data))
        for data in (b"", b"P", b"PROXY", b"GET / HTTP/1.1", b"\r\n\r\n"):
            self.assertFalse(begins_header(data))


def _changed(data: bytes, place: int, byte: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([byte]) + data[place + 1 :]


class FakeWire:
    """A :class:`~django_daphne.protocol.wire.Wire` as far as it is needed."""

    def __init__(self) -> None:
        self.armed: float | None = None
        self.expired: Callable[[], None] = lambda: None
        self.closed = False

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        self.armed, self.expired = seconds, expired

    def close(self) -> None:
        self.closed = True


class EngineTests(unittest.TestCase):
    def setUp(self) -> None:
        self.wire = FakeWire()
        self.done: list[Any] = []
        self.reports: list[str] = []
        self.engine = ProxyHeaderEngine(
            self.wire,  # type: ignore[arg-type]
            10.0,
            lambda header, rest: self.done.append((header, rest)),
            lambda reason, status, data: self.reports.append(reason),
        )
        self.engine.start_reading()

    def test_a_header_and_what_follows(self) -> None:
        self.assertEqual(self.wire.armed, 10.0)
        self.engine.receive_data(make.V1[:20])
        self.assertEqual(self.done, [])
        self.engine.receive_data(make.V1[20:] + b"GET")
        self.assertEqual(self.done, [(HEADERS[make.V1], b"GET")])
        self.assertIsNone(self.wire.armed)
        self.assertFalse(self.wire.closed)
        self.assertEqual(self.reports, [])

    def assert_refused(self, *reports: str) -> None:
        self.assertEqual(self.reports, list(reports))
        self.assertTrue(self.wire.closed)
        self.assertEqual(self.done, [])

    def test_no_header(self) -> None:
        self.engine.receive_data(b"GET / HTTP/1.1\r\n")
        self.assert_refused(MISSING)

    def test_too_late(self) -> None:
        self.engine.receive_data(make.V2[:14])
        self.wire.expired()
        self.assert_refused("no PROXY header within TIMEOUTS['HEADERS']")

    def test_the_end_of_the_connection(self) -> None:
        self.engine.receive_eof()
        self.assert_refused()

    def test_the_end_within_the_header(self) -> None:
        self.engine.receive_data(b"PROXY")
        self.engine.receive_eof()
        self.assert_refused("the connection was closed inside a PROXY header")

    def test_a_server_that_stops(self) -> None:
        self.engine.drain()
        self.engine.writable_again()
        self.assertFalse(self.wire.closed)
        self.engine.connection_lost()
