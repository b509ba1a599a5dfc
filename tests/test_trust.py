"""Who is trusted: what the settings may name, and whom that covers."""

from __future__ import annotations

import ipaddress
import unittest

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.trust import Trust, parse_address, parse_trusted


class ParseTests(unittest.TestCase):
    def test_what_can_be_named(self) -> None:
        for text, expected in {
            "10.0.0.1": "10.0.0.1/32",
            "10.0.0.0/8": "10.0.0.0/8",
            "0.0.0.0/0": "0.0.0.0/0",
            "::1": "::1/128",
            "2001:DB8::/32": "2001:db8::/32",
            "::/0": "::/0",
        }.items():
            self.assertEqual(str(parse_trusted(text)), expected)
        self.assertIsNone(parse_trusted("unix"))

    def test_what_cannot(self) -> None:
        for text, says in {
            "*": "'*': write '0.0.0.0/0' and '::/0' to believe everybody.",
            "proxy.local": "neither an address, nor a network",
            "": "neither an address, nor a network",
            "10.0.0.0/33": "neither an address, nor a network",
            "010.0.0.1": "neither an address, nor a network",
            "10.0.0.1:80": "neither an address, nor a network",
            "[::1]": "neither an address, nor a network",
            "UNIX": "neither an address, nor a network",
            "10.0.0.1/8": "'10.0.0.1/8' is an address in the network '10.0.0.0/8'",
            "::ffff:10.0.0.1": "write it as IPv4, like '10.0.0.1'",
        }.items():
            with self.assertRaises(ValueError) as caught:
                parse_trusted(text)
            self.assertIn(says, str(caught.exception))

    @given(st.text())
    def test_anything_else(self, text: str) -> None:
        try:
            parse_trusted(text)
        except ValueError as error:
            self.assertIn(repr(text), str(error))

    @given(st.ip_addresses())
    def test_every_address(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        mapped = getattr(address, "ipv4_mapped", None)
        self.assertEqual(parse_address(str(address)), mapped or address)


class TrustTests(unittest.TestCase):
    def test_addresses_and_networks(self) -> None:
        trust = Trust(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])
        for text in (
            "10.0.0.1", "10.255.255.255", "192.0.2.1", "2001:db8::1",
            "2001:db8::1%eth0", "::ffff:10.1.2.3",
        ):  # fmt: skip
            self.assertTrue(trust.covers(text), text)
        for text in (
            "11.0.0.1", "192.0.2.2", "2001:db9::1", "::ffff:11.0.0.1", "", "10.0.0",
            "10.0.0.1:80", "nonsense", "%", "unix",
        ):  # fmt: skip
            self.assertFalse(trust.covers(text), text)
        self.assertFalse(trust.unix)

    def test_unix_sockets(self) -> None:
        trust = Trust(["unix"])
        self.assertTrue(trust.unix)
        self.assertFalse(trust.covers("127.0.0.1"))

    def test_nobody(self) -> None:
        trust = Trust([])
        self.assertFalse(trust.unix or trust.everyone or trust.covers("127.0.0.1"))

    def test_everyone(self) -> None:
        for texts in (["0.0.0.0/0"], ["::/0", "unix"], ["0.0.0.0/1", "128.0.0.0/1"]):
            self.assertTrue(Trust(texts).everyone, texts)
        for texts in (["unix"], ["10.0.0.0/8", "::1"], ["0.0.0.0/1"]):
            self.assertFalse(Trust(texts).everyone, texts)
