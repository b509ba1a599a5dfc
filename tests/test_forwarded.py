"""What is believed of X-Forwarded-* and Forwarded, and what is not."""

from __future__ import annotations

import unittest
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from django_daphne.protocol.forwarded import (
    MAX_LIST,
    NOTHING,
    Said,
    read_element,
    read_forwarded,
    read_node,
    read_x_forwarded,
)
from django_daphne.trust import Trust

#: The client's proxy is 10.0.0.1; others of its network may be between it and us.
TRUST = Trust(["10.0.0.0/8", "fd00::/8"])
CLIENT = ("192.0.2.7", 0)

#: What a client may send to have its proxy's words misread.
nasty = st.one_of(
    st.binary(max_size=60),
    st.text(
        alphabet='for=10.2";,\\[]:_ unknowpthsFR\t', max_size=80
    ).map(lambda text: text.encode()),
    st.lists(
        st.sampled_from(
            [b'"', b",", b";", b"\\", b"=", b"for=", b"for=10.0.0.9", b"proto=https",
             b"10.0.0.9", b"unknown", b"_x", b"[", b"]", b":", b" ", b"\t", b'\\"',
             b"host=evil", b"for=\"10.0.0.9\""]
        ),
        max_size=20,
    ).map(b"".join),
)  # fmt: skip


def x_forwarded(*values: bytes, **others: bytes) -> Said:
    headers = [(b"x-forwarded-for", value) for value in values]
    for name, value in others.items():
        headers.append((b"x-forwarded-" + name.encode(), value))
    return read_x_forwarded(headers, TRUST)


def forwarded(*values: bytes) -> Said:
    return read_forwarded([(b"forwarded", value) for value in values], TRUST)


class NodeTests(unittest.TestCase):
    def test_addresses(self) -> None:
        for text, expected in {
            "192.0.2.1": ("192.0.2.1", 0),
            "192.0.2.1:4711": ("192.0.2.1", 4711),
            "2001:db8::1": ("2001:db8::1", 0),
            "2001:DB8:0:0::1": ("2001:db8::1", 0),
            "[2001:db8::1]": ("2001:db8::1", 0),
            "[2001:db8::1]:443": ("2001:db8::1", 443),
            "::": ("::", 0),
            "::ffff:192.0.2.1": ("192.0.2.1", 0),
            "[::ffff:192.0.2.1]:1": ("192.0.2.1", 1),
            "192.0.2.1:_port": ("192.0.2.1", 0),
            "192.0.2.1:0": ("192.0.2.1", 0),
            "192.0.2.1:65535": ("192.0.2.1", 65535),
        }.items():
            self.assertEqual(read_node(text), expected, text)

    def test_what_is_none(self) -> None:
        for text in (
            "", "unknown", "_hidden", "localhost", "example.org", "192.0.2",
            "1.2.3.4.5", "192.0.2.256", "192.0.02.1", "192.0.2.1:", "192.0.2.1:65536",
            "192.0.2.1:-1", "192.0.2.1:80:80", "192.0.2.1 ", "[192.0.2.1]", "[::1",
            "::1]", "[::1]:", "[::1]x", ":::", "1::2::3", "fe80::1%eth0",
            "[fe80::1%25e]", "::1/64", "0x7f.0.0.1", "2130706433", "'; --", "\n",
            "192.0.2.1\n", "\u0661\u0662.0.0.1", "192.0.2.1:\u0661",
        ):  # fmt: skip
            self.assertIsNone(read_node(text), text)

    @given(st.text(max_size=60))
    def test_anything(self, text: str) -> None:
        node = read_node(text)
        if node is not None:
            self.assertEqual(read_node(node[0]), (node[0], 0))


class XForwardedTests(unittest.TestCase):
    def test_nothing(self) -> None:
        self.assertIs(read_x_forwarded([(b"host", b"x")], TRUST), NOTHING)

    def assert_client(self, expected: tuple[str, int] | None, *lines: bytes) -> None:
        self.assertEqual(x_forwarded(*lines).client, expected, lines)

    def test_the_right_most_who_is_not_trusted(self) -> None:
        self.assert_client(CLIENT, b"192.0.2.7")
        self.assert_client(CLIENT, b"198.51.100.1, 192.0.2.7")
        self.assert_client(CLIENT, b"198.51.100.1, 192.0.2.7, 10.0.0.2,10.0.0.3")
        self.assert_client(CLIENT, b"127.0.0.1, 192.0.2.7")
        self.assert_client(CLIENT, b"10.0.0.9, 192.0.2.7")
        self.assert_client(("192.0.2.7", 4711), b"192.0.2.7:4711, 10.0.0.2:80")
        self.assert_client(("2001:db8::1", 0), b"2001:db8::1, fd00::1")
        self.assert_client(("2001:db8::1", 9), b"[2001:DB8::1]:9, [fd00::1]:80")

    def test_when_all_are_trusted_it_is_the_first(self) -> None:
        self.assert_client(("10.0.0.9", 0), b"10.0.0.9, 10.0.0.2")

    def test_several_lines(self) -> None:
        self.assert_client(CLIENT, b"198.51.100.1", b"192.0.2.7", b"10.0.0.2")
        self.assert_client(CLIENT, b"198.51.100.1, 192.0.2.7", b"")
        self.assert_client(CLIENT, b"192.0.2.7, 10.0.0.3", b"10.0.0.2")

    def test_empty_members(self) -> None:
        self.assert_client(CLIENT, b" ,, 192.0.2.7 ,\t, ")
        self.assert_client(None, b"")
        self.assert_client(None, b" , ,")

    def test_the_unreadable_ends_the_way(self) -> None:
        for word in (b"unknown", b"_secret", b"garbage", b"10.0.0.300", b"\xff", b'"'):
            self.assert_client(None, b"192.0.2.7, " + word)
            self.assert_client(("10.0.0.2", 0), b"192.0.2.7, " + word + b", 10.0.0.2")
            self.assert_client(CLIENT, word + b", 192.0.2.7")

    def test_a_list_without_end(self) -> None:
        endless = b"192.0.2.7, " + b"10.0.0.2, " * MAX_LIST + b"10.0.0.3"
        said = x_forwarded(endless)
        assert said.client is not None
        self.assertTrue(TRUST.covers(said.client[0]))
        # What is cut in two is not taken for another address.
        for kept in range(1, 11):
            cut = b"192.0.2.77" + b"," * (MAX_LIST - kept)
            self.assert_client(("192.0.2.77", 0) if kept == 10 else None, cut)

    def test_schemes(self) -> None:
        for value, expected in {
            b"https": "https",
            b"HTTP": "http",
            b"wss": "https",
            b"ws": "http",
            b"http, https": "https",
            b"https, http": "http",
            b"https,": "https",
            b"": None,
            b"javascript": None,
            b"https http": None,
            b"\xff": None,
        }.items():
            self.assertEqual(x_forwarded(proto=value).scheme, expected, value)

    def test_hosts(self) -> None:
        for value, expected in {
            b"example.org": b"example.org",
            b"example.org:8443": b"example.org:8443",
            b"[::1]:80": b"[::1]:80",
            b"evil.example, example.org": b"example.org",
            b"": None,
            b":80": None,
            b"a b": None,
            b"evil/..": None,
            b"user@host": None,
            b"\xff": None,
        }.items():
            self.assertEqual(x_forwarded(host=value).host, expected, value)

    def test_ports(self) -> None:
        for value, expected in {
            b"443": 443,
            b"80, 8443": 8443,
            b"0": None,
            b"65536": None,
            b"99999999": None,
            b"-1": None,
            b"https": None,
            b"": None,
        }.items():
            self.assertEqual(x_forwarded(port=value).port, expected, value)

    @given(nasty)
    @example(b'"')
    @example(b"10.0.0.9,")
    def test_a_client_cannot_choose(self, sent: bytes) -> None:
        """The proxy appends, in the same line or in one of its own."""
        self.assert_client(CLIENT, sent + b", 192.0.2.7")
        self.assert_client(CLIENT, sent, b"192.0.2.7")
        self.assert_client(CLIENT, sent + b",192.0.2.7, 10.0.0.2")

    @given(st.lists(st.tuples(st.sampled_from(
        [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
         b"x-forwarded-port", b"x-forwarded-", b"forwarded"]), nasty)))  # fmt: skip
    def test_nothing_raises(self, headers: list[tuple[bytes, bytes]]) -> None:
        for read in (read_x_forwarded, read_forwarded):
            said = read(headers, TRUST)
            self.assertIn(said.scheme, (None, "http", "https"))
            if said.client is not None:
                self.assertEqual(read_node(said.client[0]), (said.client[0], 0))


class ElementTests(unittest.TestCase):
    def test_pairs(self) -> None:
        for text, expected in {
            "for=192.0.2.1": {"for": "192.0.2.1"},
            'For="[2001:db8::1]:80"; PROTO=https;host=x': {
                "for": "[2001:db8::1]:80",
                "proto": "https",
                "host": "x",
            },
            r'host="a\"b\\c"': {"host": r"a\"b\c".replace('\\"', '"')},
            "": {},
            ";;": {},
            "for=2001:db8::1": {"for": "2001:db8::1"},
            'secret=";,="': {"secret": ";,="},
        }.items():
            self.assertEqual(read_element(text), expected, text)

    def test_what_is_malformed(self) -> None:
        for text in (
            "192.0.2.1", "for", "for=", "=x", "for =x", "for= x", 'for="x', 'for=x"',
            'for="x"y', "for=a b", "for=1;for=2", "for=1;FOR=2", "for=\xff", "for=a,b",
            'for="\\"', "fo\xf6=1", "for=x;proto",
        ):  # fmt: skip
            self.assertIsNone(read_element(text), text)


class ForwardedTests(unittest.TestCase):
    def assert_said(self, lines: list[bytes], *expected: Any) -> None:
        self.assertEqual(forwarded(*lines), Said(*expected), lines)

    def test_nothing(self) -> None:
        self.assertIs(forwarded(), NOTHING)
        self.assertIs(forwarded(b""), NOTHING)
        self.assertIs(read_forwarded([(b"x-forwarded-for", b"x")], TRUST), NOTHING)

    def test_the_element_of_the_client(self) -> None:
        near = b"for=10.0.0.2;proto=http;host=inner"
        for line in (
            b"for=192.0.2.7;proto=https;host=example.org",
            b'FOR="192.0.2.7" ; Proto=HTTPS;host="example.org";by=_x',
            b"for=198.51.100.1;proto=http;host=evil, for=192.0.2.7;proto=https"
            b";host=example.org",
        ):
            expected = (CLIENT, "https", b"example.org")
            self.assert_said([line], *expected)
            self.assert_said([line + b" , " + near], *expected)
            self.assert_said([line, near], *expected)

    def test_addresses(self) -> None:
        for value, expected in {
            b'"[2001:db8:cafe::17]:4711"': ("2001:db8:cafe::17", 4711),
            b'"[2001:db8:cafe::17]"': ("2001:db8:cafe::17", 0),
            b"2001:db8:cafe::17": ("2001:db8:cafe::17", 0),
            b'"192.0.2.43:47011"': ("192.0.2.43", 47011),
            b'"192.0.2.43:_obfuscated"': ("192.0.2.43", 0),
            b"192.0.2.43": ("192.0.2.43", 0),
        }.items():
            self.assertEqual(forwarded(b"for=" + value).client, expected, value)

    def test_what_a_proxy_does_not_tell(self) -> None:
        for value in (b"unknown", b"_hidden", b'"_gazonk"', b"garbage", b'"[::1"'):
            line = b"for=198.51.100.1, for=" + value + b";proto=https;host=h"
            # Scheme and host are still what the proxy has seen.
            self.assert_said([line], None, "https", b"h")
            self.assert_said([line, b"for=10.0.0.2"], ("10.0.0.2", 0), "https", b"h")
        self.assert_said([b"proto=https"], None, "https")

    def test_the_malformed_ends_the_way(self) -> None:
        for word in (b"garbage", b'for="', b"for=1;for=2", b"for=10.0.0.9 x", b"="):
            line = b"for=198.51.100.1, " + word
            self.assertIs(forwarded(line), NOTHING, line)
            near = b"for=10.0.0.2;proto=http;host=inner"
            self.assert_said([line, near], ("10.0.0.2", 0), "http", b"inner")
            self.assertEqual(forwarded(line, b"for=192.0.2.7").client, CLIENT)

    def test_commas_in_quotation_marks(self) -> None:
        self.assert_said([b'for=192.0.2.7;secret="a,b, c"'], CLIENT)
        self.assert_said([b'secret=",,";for=192.0.2.7, for=10.0.0.2'], CLIENT)
        many = b'secret="' + b"a," * 5000 + b'"'
        self.assertIs(forwarded(b"for=192.0.2.7, " + many), NOTHING)

    def test_an_open_quotation_mark_swallows_nothing(self) -> None:
        for sent in (b'for="', b'for="10.0.0.9', b'x="\\', b'for="\\"', b'"'):
            self.assertEqual(forwarded(sent + b", for=192.0.2.7").client, CLIENT)
            near = b', for=192.0.2.7;secret="x", for="10.0.0.2"'
            self.assertEqual(forwarded(sent + near).client, CLIENT)

    @given(
        nasty,
        st.sampled_from([b"for=192.0.2.7;proto=http", b'proto=http;for="192.0.2.7"']),
    )
    @example(b'for="', b"for=192.0.2.7;proto=http")
    @example(b'for="10.0.0.9;x=', b'proto=http;for="192.0.2.7"')
    def test_a_client_cannot_choose(self, sent: bytes, appended: bytes) -> None:
        for lines in (
            [sent + b", " + appended],
            [sent, appended],
            [sent + b"," + appended + b", for=10.0.0.2;proto=https;host=x"],
        ):
            self.assert_said(lines, CLIENT, "http")
