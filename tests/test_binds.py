"""Bind strings: every form, every refusal, and whatever Hypothesis thinks of."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import unittest

from hypothesis import assume, example, given
from hypothesis import strategies as st

from django_daphne.binds import (
    DEFAULT_UNIX_MODE,
    MAX_PORT,
    Bind,
    BindKind,
    EndpointTLS,
    parse_bind,
    quote,
)

TCP, UNIX, FD = BindKind.TCP, BindKind.UNIX, BindKind.FD
SYSTEMD, ENDPOINT = BindKind.SYSTEMD, BindKind.ENDPOINT


class FormTests(unittest.TestCase):
    def assertParses(self, text: str, kind: BindKind, **fields: object) -> None:
        with self.subTest(text):
            self.assertEqual(parse_bind(text), Bind(text, kind, **fields))

    def assertNames(self, text: str, host: str | None, port: int) -> None:
        self.assertParses(text, TCP, host=host, port=port, takes_tls=True)

    def test_host_and_port(self) -> None:
        self.assertNames("127.0.0.1:8000", "127.0.0.1", 8000)
        self.assertNames("0.0.0.0:0", "0.0.0.0", 0)
        self.assertNames("localhost:80", "localhost", 80)
        self.assertNames("my_app-1.internal:65535", "my_app-1.internal", 65535)
        self.assertNames("[::1]:8000", "::1", 8000)
        self.assertNames("[fe80::1%eth0]:80", "fe80::1%eth0", 80)

    def test_every_address(self) -> None:
        self.assertNames(":8000", None, 8000)
        self.assertNames(":0", None, 0)

    def test_unix(self) -> None:
        path = "/run/app.sock"
        self.assertParses("unix:/run/app.sock", UNIX, path=path, mode=0o660)
        self.assertParses("unix:run/app.sock", UNIX, path="run/app.sock")
        self.assertParses("unix:/run/app.sock:mode=666", UNIX, path=path, mode=0o666)
        self.assertParses("unix:/run/app.sock:mode=0o600", UNIX, path=path, mode=0o600)
        self.assertParses(
            "unix:/run/app.sock:mode=666:group=www-data", UNIX,
            path=path, mode=0o666, group="www-data",
        )  # fmt: skip
        self.assertParses("unix:/run/app.sock:group=33", UNIX, path=path, group="33")

    def test_unix_in_twisteds_spelling(self) -> None:
        self.assertParses(
            "unix:address=/run/app.sock:mode=640:lockfile=0:backlog=7", UNIX,
            path="/run/app.sock", mode=0o640, backlog=7,
        )  # fmt: skip
        self.assertParses(
            "unix:/run/app.sock:777:12:1", UNIX,
            path="/run/app.sock", mode=0o777, backlog=12,
        )  # fmt: skip

    def test_fd(self) -> None:
        self.assertParses("fd:3", FD, fd=3)
        self.assertParses("fd:0", FD, fd=0)
        self.assertParses("fd:fileno=17", FD, fd=17)

    def test_tls_on_passed_sockets(self) -> None:
        tls = {"takes_tls": True, "needs_tls": True}
        self.assertParses("fd:3:tls", FD, fd=3, **tls)
        self.assertParses("fd:fileno=3:tls", FD, fd=3, **tls)
        self.assertParses("systemd:tls", SYSTEMD, **tls)
        self.assertParses("systemd:name=web:tls", SYSTEMD, name="web", **tls)
        self.assertParses("systemd:name=tls", SYSTEMD, name="tls")

    def test_systemd(self) -> None:
        self.assertParses("systemd:", SYSTEMD)
        self.assertParses("systemd:name=web", SYSTEMD, name="web")
        self.assertParses(
            "systemd:domain=INET6:index=2", SYSTEMD, domain="INET6", index=2
        )
        self.assertParses("systemd:UNIX:0", SYSTEMD, domain="UNIX", index=0)
        self.assertParses(
            "systemd:domain=INET:name=a.socket", SYSTEMD, domain="INET", name="a.socket"
        )

    def test_tcp_endpoints_keep_twisteds_defaults(self) -> None:
        self.assertParses("tcp:8000", TCP, host="0.0.0.0", port=8000, dual_stack=True)
        self.assertParses(
            "tcp:8000:interface=127.0.0.1:backlog=5", TCP,
            host="127.0.0.1", port=8000, backlog=5, dual_stack=True,
        )  # fmt: skip
        self.assertParses(
            "tcp:port=8000:interface=", TCP, host="0.0.0.0", port=8000, dual_stack=True
        )
        self.assertParses(
            r"tcp:8000:interface=\:\:1", TCP, host="::1", port=8000, dual_stack=True
        )
        self.assertParses("tcp6:8000", TCP, host="::", port=8000, dual_stack=True)
        self.assertParses(
            r"tcp6:8000:50:\:\:1", TCP,
            host="::1", port=8000, backlog=50, dual_stack=True,
        )  # fmt: skip
        self.assertParses("TCP:8000", TCP, host="0.0.0.0", port=8000, dual_stack=True)

    def test_ssl_endpoints(self) -> None:
        self.assertParses(
            "ssl:443:privateKey=key.pem:certKey=crt.pem", TCP,
            host="0.0.0.0", port=443, dual_stack=True,
            tls=EndpointTLS("key.pem", "crt.pem"),
        )  # fmt: skip
        self.assertParses(
            "ssl:443", TCP, host="0.0.0.0", port=443, dual_stack=True,
            tls=EndpointTLS("server.pem", "server.pem"),
        )  # fmt: skip
        self.assertParses(
            "ssl:443:privateKey=both.pem", TCP, host="0.0.0.0", port=443,
            dual_stack=True, tls=EndpointTLS("both.pem", "both.pem"),
        )  # fmt: skip
        self.assertParses(
            r"ssl:port=443:privateKey=C\:/k.pem:certKey=C\:/c.pem:interface=\:\:1"
            ":extraCertChain=chain.pem:dhParameters=dh.pem:sslmethod=TLS_METHOD",
            TCP, host="::1", port=443, dual_stack=True,
            tls=EndpointTLS("C:/k.pem", "C:/c.pem", "chain.pem", "dh.pem"),
        )  # fmt: skip

    def test_sslmethod(self) -> None:
        for method in ("SSLv23_METHOD", "TLS_METHOD", "TLS_SERVER_METHOD"):
            tls = parse_bind(f"ssl:443:sslmethod={method}").tls
            self.assertFalse(tls.tls12_only, method)
        self.assertTrue(parse_bind("ssl:443:sslmethod=TLSv1_2_METHOD").tls.tls12_only)

    def test_everything_else_is_twisteds(self) -> None:
        for text in (
            r"haproxy:tcp\:8000",
            "haproxy:tcp:0:interface=127.0.0.1",
            "le:/certs:tcp:443",
            "tls:/certs:port=443",
            "lets-encrypt:a",
        ):
            self.assertParses(text, ENDPOINT)

    def test_one_word_and_a_number_is_a_host(self) -> None:
        # An endpoint like this needs its argument's name: "onion:public_port=80".
        self.assertNames("onion:80", "onion", 80)

    def test_escapes(self) -> None:
        self.assertEqual(parse_bind(r"unix:/a\:b\=c\\d").path, r"/a:b=c\d")
        self.assertEqual(parse_bind(r"unix:/run/\a").path, "/run/a")
        # Only the first = of an argument is a name's end.
        self.assertEqual(parse_bind("unix:address=/a=b").path, "/a=b")

    def test_binds_are_values(self) -> None:
        self.assertEqual(parse_bind("fd:3"), parse_bind("fd:3"))
        self.assertEqual(len({parse_bind(":1"), parse_bind(":1")}), 1)
        with self.assertRaises(dataclasses.FrozenInstanceError):
            parse_bind("fd:3").fd = 4  # type: ignore[misc]


class RefusalTests(unittest.TestCase):
    def assertRefuses(self, text: str, *words: str) -> None:
        with self.subTest(text), self.assertRaises(ValueError) as caught:
            parse_bind(text)
        message = str(caught.exception)
        self.assertTrue(message.startswith(repr(text)), message)
        self.assertTrue(message.endswith("."), message)
        self.assertNotIn("\n", message)
        for word in words:
            self.assertIn(word, message)

    def test_not_a_bind(self) -> None:
        for text in (
            "",
            " ",
            ":8000 ",
            " :8000",
            "a\n:80",
            "fd:3\x00",
            "?:80x",
            "é:80a",
        ):
            self.assertRefuses(text, "is not a bind: write it like '127.0.0.1:8000'")

    def test_missing_parts(self) -> None:
        self.assertRefuses("8000", "has no host", "'127.0.0.1:8000'", "':8000'")
        self.assertRefuses("127.0.0.1", "has no port", "'127.0.0.1:8000'")
        self.assertRefuses("localhost", "has no port", "'localhost:8000'")
        self.assertRefuses("localhost:", "has no port", "'localhost:8000'")
        self.assertRefuses(":", "has no port")
        self.assertRefuses("tcp:", "has no port")
        self.assertRefuses("ssl:privateKey=a", "has no port")
        self.assertRefuses("unix:", "has no path")
        self.assertRefuses("unix:mode=666", "has no path")

    def test_ports(self) -> None:
        for port in ("65536", "99999999999", "٣"):
            self.assertRefuses(f"127.0.0.1:{port}", "is not a port (0 to 65535)")
            self.assertRefuses(f"tcp:{port}", "is not a port")
        self.assertRefuses("[::1]:http", "'http' is not a port")
        self.assertRefuses("[::1]:", "'' is not a port")
        self.assertRefuses("tcp:-1", "'-1' is not a port")
        self.assertRefuses(f"a:{'9' * 5000}", "is not a port")

    def test_hosts(self) -> None:
        for host in ("999.1.1.1", "1.2.3", "1.2.3.4.5", "127.0.0.01", "1..2.3", "."):
            self.assertRefuses(f"{host}:80", "is not an IPv4 address")
        self.assertRefuses("*:80", "write ':80' for every address")
        self.assertRefuses("a b:80", "is not a host name or address")
        self.assertRefuses("-a:80", "is not a host name or address")
        self.assertRefuses("naïve:80", "is not a host name or address")
        self.assertRefuses("[127.0.0.1]:80", "is not an IPv6 address")
        self.assertRefuses("[::1", "lacks ']:PORT'")
        self.assertRefuses("[::1]", "lacks ']:PORT'")
        self.assertRefuses("::1:8000", "without brackets", "'[::1]:8000'")
        self.assertRefuses("fe80::1%eth0", "without brackets")
        self.assertRefuses("tcp6:80:interface=127.0.0.1", "is not an IPv6 address")
        self.assertRefuses(r"tcp:80:interface=\:x", "is not an IPv6 address")

    def test_urls(self) -> None:
        self.assertRefuses("http://127.0.0.1:8000", "is a URL")
        self.assertRefuses("https://example.com", "is a URL")

    def test_arguments(self) -> None:
        self.assertRefuses("tcp:80:colour=red", "'colour'", "known: port, interface")
        self.assertRefuses("tcp:80:port=81", "gives 'port' twice")
        self.assertRefuses("fd:3:4", "too many arguments at '4'")
        self.assertRefuses("unix:/a=b", "'/a'", r"In a path, write '\=' for '='")
        self.assertRefuses("tcp:80\\", "in the middle of an escape")
        for value in ("0", "-1", "many", ""):
            self.assertRefuses(f"tcp:80:backlog={value}", "backlog must be")

    def test_unix(self) -> None:
        for mode in ("668", "rw", "", "66", "77777"):
            self.assertRefuses(f"unix:/a:mode={mode}", "is not a mode", "'mode=660'")
        self.assertRefuses("unix:/a:group=", "group must be")
        self.assertRefuses("unix:/a:lockfile=2", "lockfile must be 0 or 1")
        self.assertRefuses("unix:@name", "abstract sockets", "'unix:./@name'")

    def test_descriptors(self) -> None:
        for text in ("fd:", "fd:-1", "fd:three", "fd:3.0", f"fd:{'9' * 5000}"):
            self.assertRefuses(text, "is not a file descriptor", "'fd:3'")

    def test_systemd(self) -> None:
        self.assertRefuses("systemd:domain=INET", "by index or by name")
        self.assertRefuses("systemd:index=0:name=a", "by index or by name")
        self.assertRefuses("systemd:index=first", "is not an index")
        self.assertRefuses("systemd:domain=X25:index=0", "one of INET, INET6, UNIX")

    def test_sslmethod(self) -> None:
        for method in ("SSLv3_METHOD", "TLSv1_METHOD", "TLSv1_1_METHOD", "TLS"):
            self.assertRefuses(f"ssl:443:sslmethod={method}", "sslmethod", method)


PORTS = st.integers(0, MAX_PORT)
#: What a path may hold; NUL and other control characters are refused.
PATHS = st.text(
    st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60
).filter(lambda path: path == path.strip() and not path.startswith("@"))


class PropertyTests(unittest.TestCase):
    @given(st.text())
    @example("unix:\ud800")
    @example("[%]:1")
    @example("[::%\n]:1")
    @example("²:80")
    @example("1.²:80")
    @example("fd:²")
    def test_any_text_gives_a_bind_or_a_sentence(self, text: str) -> None:
        try:
            bind = parse_bind(text)
        except ValueError as error:
            self.assertTrue(str(error).endswith("."), error)
            self.assertEqual(len(str(error).splitlines()), 1, error)
        else:
            self.assertEqual(bind.text, text)

    @given(
        st.sampled_from(
            ["tcp", "tcp6", "ssl", "unix", "fd", "systemd", "haproxy", "[", "a", ""]
        ),
        st.text(st.sampled_from("abc019:=\\[]%.-/ @*\x00²é")),
    )
    def test_any_arguments_give_a_bind_or_a_sentence(
        self, prefix: str, rest: str
    ) -> None:
        self.test_any_text_gives_a_bind_or_a_sentence.hypothesis.inner_test(
            self, f"{prefix}:{rest}"
        )

    @given(st.ip_addresses(), PORTS)
    def test_addresses(self, address: object, port: int) -> None:
        host = str(address)
        text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.assertEqual(
            parse_bind(text), Bind(text, TCP, host=host, port=port, takes_tls=True)
        )
        endpoint = parse_bind(f"tcp:{port}:interface={quote(host)}")
        self.assertEqual((endpoint.host, endpoint.port), (host, port))

    @given(st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True), PORTS)
    def test_names(self, host: str, port: int) -> None:
        assume(host not in ("tcp", "tcp6", "ssl", "unix", "fd", "systemd"))
        bind = parse_bind(f"{host}:{port}")
        self.assertEqual((bind.kind, bind.host, bind.port), (TCP, host, port))

    @given(PATHS, st.none() | st.integers(0, 0o777), st.none() | st.just("www-data"))
    def test_unix_paths(self, path: str, mode: int | None, group: str | None) -> None:
        text = f"unix:{quote(path)}"
        if mode is not None:
            text += f":mode={mode:03o}"
        if group is not None:
            text += f":group={group}"
        self.assertEqual(
            parse_bind(text),
            Bind(
                text,
                UNIX,
                path=path,
                mode=DEFAULT_UNIX_MODE if mode is None else mode,
                group=group,
            ),
        )

    @given(PATHS, PATHS, PATHS, PORTS, st.integers(1, 4096))
    def test_ssl(
        self, key: str, certificate: str, chain: str, port: int, backlog: int
    ) -> None:
        bind = parse_bind(
            f"ssl:{port}:certKey={quote(certificate)}:privateKey={quote(key)}"
            f":extraCertChain={quote(chain)}:backlog={backlog}"
        )
        self.assertEqual(bind.tls, EndpointTLS(key, certificate, chain))
        self.assertEqual((bind.port, bind.backlog), (port, backlog))

    @given(PATHS)
    def test_twisted_splits_as_we_do(self, value: str) -> None:
        from twisted.internet.endpoints import quoteStringArgument

        text = f"unix:address={quoteStringArgument(value)}"
        self.assertEqual(parse_bind(text).path, value)


class ImportTests(unittest.TestCase):
    def test_reading_binds_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; before = set(sys.modules);"
            "from django_daphne.binds import parse_bind;"
            "parse_bind('127.0.0.1:8000'); parse_bind('unix:/a');"
            "print(*sorted(set(sys.modules) - before))"
        )
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        heavy = {"asyncio", "django", "ipaddress", "socket", "ssl", "twisted", "zope"}
        self.assertEqual(heavy & set(output), set())
