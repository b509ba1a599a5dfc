"""HTTP/1.1 without sockets: what is a request, what is none, and what is answered."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import unittest
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from django_daphne.config import Limits, Timeouts
from django_daphne.errors import IllegalMessage, ProtocolError
from django_daphne.protocol import headers as fields
from django_daphne.protocol import http1
from django_daphne.protocol.http1 import (
    BODY_HIGH_WATER,
    DISCARD_LIMIT,
    LULL,
    PIPELINE_HIGH_WATER,
    Head,
    HTTP1Engine,
)
from django_daphne.protocol.wire import TICK

from .serving import Answer, Reader

DATE = b"Date: Fri, 20 Nov 2026 10:00:00 GMT"


class FakeClock:
    date_line = DATE
    seconds = 1000.0


class FakeWire:
    """Holds what is written; delivers nothing while paused, as a transport would."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.writable = True
        self.written = bytearray()
        self.engine: Any = None
        self.paused = False
        #: How the engine ended it: "close", "linger" or "abort".
        self.ended: str | None = None
        self.armed: tuple[float, Callable[[], None]] | None = None
        self.due = 0.0
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        assert self.ended is None, f"{data!r} after {self.ended}"
        assert isinstance(data, bytes)
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        # It would put off the end of a connection that lingers.
        assert self.ended is None, f"a timer after {self.ended}"
        self.armed = None if seconds is None else (seconds, expired)
        self.due = self.clock.seconds + (seconds or 0.0)

    def expire(self, expected: float) -> None:
        """Let the time pass for which the timer was set, which is ``expected``."""
        assert self.armed is not None, "no timer is armed"
        (seconds, expired), self.armed = self.armed, None
        assert seconds == expected, f"{seconds} s instead of {expected} s"
        self.clock.seconds += seconds
        expired()

    def turns(self) -> None:
        """Let the loop turn until nothing is left to do."""
        self.flush()

    def wait(self, seconds: float) -> None:
        """Let time pass; the timer expires when it is due."""
        end = self.clock.seconds + seconds
        while self.armed is not None and self.due <= end:
            (_, expired), self.armed = self.armed, None
            self.clock.seconds = max(self.clock.seconds, self.due)
            expired()
            self.turns()
        self.clock.seconds = end

    def close(self) -> None:
        self._end("close")

    def linger(self) -> None:
        self._end("linger")

    def abort(self) -> None:
        self._end("abort")

    def switch(self, engine: Any) -> None:
        self.engine = engine

    def _end(self, how: str) -> None:
        if self.ended is None:
            self.ended = how
            self.armed = None

    # -- The other side ----------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        self._waiting.append(data)
        self.flush()

    def flush(self) -> None:
        while self._waiting and not self.paused:
            data = self._waiting.pop(0)
            if self.ended is None and data:
                self.engine.receive_data(data)

    @property
    def undelivered(self) -> int:
        return sum(map(len, self._waiting))


class FakeStream:
    """Keeps what the engine tells; the test answers through the engine."""

    def __init__(self, engine: HTTP1Engine, head: Head) -> None:
        self.engine = engine
        self.head = head
        self.body = b""
        self.untaken = 0
        self.ended = False
        self.answered = False
        self.resets: list[tuple[str, int]] = []

    def data(self, chunk: bytes) -> None:
        assert chunk
        assert not self.ended and not self.resets
        self.body += chunk
        self.untaken += len(chunk)

    def end(self) -> None:
        assert not self.ended, "the end was told twice"
        self.ended = True

    def reset(self, reason: str, status: int = 0) -> None:
        assert not self.resets
        self.resets.append((reason, status))

    def writable_again(self) -> None: ...
    def drain(self) -> None: ...

    def take(self) -> None:
        size, self.untaken = self.untaken, 0
        self.engine.consumed(size)

    def answer(
        self,
        status: int = 200,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *parts: bytes,
    ) -> None:
        """Send a whole response in as many pieces as there are ``parts``."""
        self.answered = True
        first, *others = parts or (b"",)
        self.engine.start(status, list(headers), first, bool(others), False)
        for number, part in enumerate(others, 1):
            self.engine.body(part, number < len(others))


class Conversation:
    """An engine, its wire, and the requests that it has begun."""

    def __init__(
        self,
        limits: dict[str, Any] | None = None,
        timeouts: dict[str, Any] | None = None,
        server_line: bytes | None = None,
    ) -> None:
        self.wire = FakeWire()
        self.streams: list[FakeStream] = []
        self.reports: list[tuple[str, int, bytes]] = []
        self.refusal: ProtocolError | None = None
        self.engine = HTTP1Engine(
            self.wire,
            self._begin,
            lambda *report: self.reports.append(report),
            dataclasses.replace(Limits(), **(limits or {})),
            dataclasses.replace(Timeouts(), **(timeouts or {})),
            server_line,
        )
        self.wire.engine = self.engine
        self.engine.start_reading()

    def _begin(self, engine: HTTP1Engine, head: Head) -> FakeStream:
        if self.refusal is not None:
            raise self.refusal
        stream = FakeStream(engine, head)
        self.streams.append(stream)
        return stream

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            self.wire.deliver(part)

    def settle(self) -> None:
        """Let the applications take every body and answer every request."""
        while True:
            self.wire.flush()
            stream = self.engine.stream
            if not isinstance(stream, FakeStream) or stream.answered:
                return
            if stream.untaken:
                stream.take()
            elif stream.ended:
                stream.answer(200, [], b"%d" % len(self.streams))
            else:
                return

    @property
    def stream(self) -> FakeStream:
        """The one request there was."""
        (stream,) = self.streams
        return stream

    @property
    def head(self) -> Head:
        return self.stream.head

    @property
    def written(self) -> bytes:
        return bytes(self.wire.written)

    def answers(self, *methods: str) -> list[Answer]:
        """The responses written, read strictly; ``methods`` are the requests'."""
        source = io.BytesIO(self.written)
        reader = Reader(source.read)
        answers = []
        wanted = iter(methods)
        while not reader.ended():
            answer = reader.read_head()
            if answer.status >= 200:
                reader._read_body(answer, next(wanted, "GET"))
            answers.append(answer)
        return answers


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""]) + body


def get(target: bytes = b"/", *fields: bytes) -> bytes:
    return request(b"GET " + target + b" HTTP/1.1", b"Host: a", *fields)


def post(body: bytes, *fields: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return request(b"POST / HTTP/1.1", b"Host: a", length, *fields, body=body)


def talk(*parts: bytes, **options: Any) -> Conversation:
    conversation = Conversation(**options)
    conversation.feed(*parts)
    return conversation


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def split(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


# -- What comes in ---------------------------------------------------------------------


class RequestLine(unittest.TestCase):
    def read(self, line: bytes) -> Head:
        return talk(request(line, b"Host: a")).head

    def test_method_target_and_version(self) -> None:
        head = self.read(b"GET /a/b?c=d&e HTTP/1.1")
        self.assertEqual(head.method, "GET")
        self.assertEqual(head.path, "/a/b")
        self.assertEqual(head.raw_path, b"/a/b")
        self.assertEqual(head.query, b"c=d&e")
        self.assertEqual(head.http_version, "1.1")
        self.assertEqual(self.read(b"GET / HTTP/1.0").http_version, "1.0")

    def test_any_token_is_a_method(self) -> None:
        for method in (
            b"PURGE", b"M-SEARCH", b"REPORT", b"PATCH", b"QUERY", b"A",
            b"!#$%&'*+.^_`|~",
            b"X" * 300,
        ):  # fmt: skip
            self.assertEqual(self.read(method + b" / HTTP/1.1").method, method.decode())

    def test_methods_are_given_in_upper_case(self) -> None:
        self.assertEqual(self.read(b"get / HTTP/1.1").method, "GET")
        self.assertEqual(self.read(b"Purge / HTTP/1.1").method, "PURGE")

    def test_paths_are_decoded_and_kept_raw(self) -> None:
        for raw, path in (
            (b"/%C3%A9", "/é"),
            (b"/\xc3\xa9", "/é"),
            (b"/%c3%a9%2Fb", "/é/b"),
            (b"/a%00b", "/a\0b"),
            (b"/%zz%", "/%zz%"),
            (b"/a+b", "/a+b"),
            (b"/\xff", "/�"),
            (b"//evil.example/a", "//evil.example/a"),
            (b"/../a/./b", "/../a/./b"),
            (b"/a;b=c", "/a;b=c"),
            (b'/<">\\^`{|}', '/<">\\^`{|}'),
        ):
            head = self.read(b"GET " + raw + b" HTTP/1.1")
            self.assertEqual((head.path, head.raw_path), (path, raw))

    def test_queries_are_kept_raw(self) -> None:
        for query in (b"", b"%C3%A9", b"\xc3\xa9", b"a?b?c", b"?", b"/a=//"):
            head = self.read(b"GET /a?" + query + b" HTTP/1.1")
            self.assertEqual(
                (head.path, head.raw_path, head.query), ("/a", b"/a", query)
            )

    def test_absolute_targets_give_path_and_query(self) -> None:
        for target, raw_path, query in (
            (b"http://example.org/a?b", b"/a", b"b"),
            (b"http://example.org", b"/", b""),
            (b"HTTP://example.org:80/", b"/", b""),
            (b"https://[::1]:443/%41", b"/%41", b""),
            (b"http://example.org?b", b"/", b"b"),
            (b"http://example.org//a", b"//a", b""),
        ):
            head = self.read(b"GET " + target + b" HTTP/1.1")
            self.assertEqual((head.raw_path, head.query), (raw_path, query))
            self.assertNotIn("example", head.path)

    def test_an_absolute_targets_host_replaces_the_field(self) -> None:
        conversation = talk(
            request(b"GET http://b.example:81/ HTTP/1.1", b"Host: a", b"X: 1")
        )
        self.assertEqual(
            conversation.head.headers, [(b"host", b"b.example:81"), (b"x", b"1")]
        )

    def test_the_whole_server(self) -> None:
        head = self.read(b"OPTIONS * HTTP/1.1")
        self.assertEqual((head.path, head.raw_path, head.query), ("*", b"*", b""))
        head = self.read(b"OPTIONS http://a.example HTTP/1.1")
        self.assertEqual(head.path, "*")
        head = self.read(b"OPTIONS http://a.example/ HTTP/1.1")
        self.assertEqual(head.path, "/")

    def test_empty_lines_before_it_are_skipped(self) -> None:
        for number in range(http1.MAX_LEADING_CRLF + 1):
            data = b"\r\n" * number + get(b"/after")
            for parts in ([data], byte_by_byte(data)):
                self.assertEqual(talk(*parts).head.path, "/after")

    def test_empty_lines_between_requests_are_skipped(self) -> None:
        conversation = talk(post(b"x") + b"\r\n" + get(b"/b"))
        conversation.settle()
        self.assertEqual([s.head.path for s in conversation.streams], ["/", "/b"])

    def test_remembered_lines_are_bounded(self) -> None:
        for number in range(2 * http1.MAX_KNOWN_LINES):
            self.read(b"GET /bounded/%d HTTP/1.1" % number)
        self.assertLessEqual(len(http1._known_lines), http1.MAX_KNOWN_LINES)
        long = b"GET /" + b"l" * http1.MAX_KNOWN_LINE + b" HTTP/1.1"
        self.read(long)
        self.assertNotIn(long, http1._known_lines)


class Fields(unittest.TestCase):
    def read(self, *fields: bytes) -> list[tuple[bytes, bytes]]:
        return talk(request(b"GET / HTTP/1.1", b"Host: a", *fields)).head.headers[1:]

    def test_names_in_lower_case_in_order(self) -> None:
        self.assertEqual(
            self.read(b"X-B: 1", b"x-a: 2", b"X-b: 3"),
            [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")],
        )

    def test_white_space_around_values_is_not_theirs(self) -> None:
        for field in (b"X:1", b"X: 1", b"X: \t 1", b"X:1 ", b"X: 1\t", b"X:  1 \t "):
            self.assertEqual(self.read(field), [(b"x", b"1")])
        self.assertEqual(self.read(b"X:"), [(b"x", b"")])
        self.assertEqual(self.read(b"X: \t"), [(b"x", b"")])
        self.assertEqual(self.read(b"X: 1 \t 2 "), [(b"x", b"1 \t 2")])

    def test_white_space_behind_framing_fields(self) -> None:
        conversation = talk(
            request(b"POST / HTTP/1.1", b"Host: a \t", b"Content-Length: 1 ", body=b"x")
        )
        self.assertEqual(conversation.stream.body, b"x")
        self.assertTrue(conversation.stream.ended)

    def test_values_may_have_any_bytes_that_print(self) -> None:
        value = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
        self.assertEqual(self.read(b"X: " + value), [(b"x", value)])

    def test_names_may_be_any_token(self) -> None:
        self.assertEqual(self.read(b"!#$%&'*+-.^`|~0: 1"), [(b"!#$%&'*+-.^`|~0", b"1")])

    def test_names_with_an_underscore_are_dropped(self) -> None:
        self.assertEqual(
            self.read(b"X_Forwarded_For: 1", b"X-Forwarded-For: 2", b"_: 3"),
            [(b"x-forwarded-for", b"2")],
        )

    def test_an_underscore_makes_no_framing(self) -> None:
        conversation = talk(
            request(b"POST / HTTP/1.1", b"Host: a", b"Content_Length: 3")
            + get(b"/next")
        )
        conversation.settle()
        self.assertEqual([s.body for s in conversation.streams], [b"", b""])

    def test_an_application_may_change_its_headers(self) -> None:
        conversation = Conversation()
        for _ in range(3):
            conversation.feed(get(b"/", b"X: 1"))
            headers = conversation.streams[-1].head.headers
            self.assertEqual(headers, [(b"host", b"a"), (b"x", b"1")])
            headers.clear()
            conversation.settle()

    def test_an_absolute_target_changes_one_request_only(self) -> None:
        conversation = talk(get(b"http://b/") + get(b"/") + get(b"http://c/"))
        conversation.settle()
        hosts = [dict(s.head.headers)[b"host"] for s in conversation.streams]
        self.assertEqual(hosts, [b"b", b"a", b"c"])

    def test_a_section_that_repeats_under_another_version(self) -> None:
        for first, second in ((b"1.1", b"1.0"), (b"1.0", b"1.1")):
            conversation = talk(
                request(b"GET / HTTP/" + first, b"Host: a"),
                request(b"GET / HTTP/" + second, b"Host: a"),
            )
            conversation.settle()
            versions = [s.head.http_version for s in conversation.streams]
            # HTTP/1.0 without keep-alive is the last request.
            self.assertEqual(versions, ["1.1", "1.0"] if first == b"1.1" else ["1.0"])
            self.assertIsNotNone(conversation.wire.ended)

    def test_hosts(self) -> None:
        for host in (
            b"", b"a", b"a.example", b"a:80", b"a:", b"127.0.0.1:8000", b"[::1]",
            b"[::1]:80", b"[fe80::1%25eth0]", b"xn--a", b"a_b", b"%41", b"[v1.a:b]",
        ):  # fmt: skip
            head = talk(request(b"GET / HTTP/1.1", b"Host: " + host)).head
            self.assertEqual(head.headers, [(b"host", host)])

    def test_http_1_0_needs_no_host(self) -> None:
        self.assertEqual(talk(request(b"GET / HTTP/1.0")).head.headers, [])


class Refusals(unittest.TestCase):
    """Each of these is answered once, and nothing after it is a request."""

    def refused(self, data: bytes, status: int = 400, **options: Any) -> None:
        follower = get(b"/smuggled")
        for how, parts in (
            ("whole", [data + follower]),
            ("in two", [data, follower]),
            ("byte by byte", byte_by_byte(data + follower)),
        ):
            with self.subTest(data=data[:100], how=how):
                conversation = talk(*parts, **options)
                conversation.settle()
                paths = [s.head.path for s in conversation.streams]
                self.assertNotIn("/smuggled", paths)
                answer = conversation.answers()[-1]
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.get("Connection"), "close")
                self.assertTrue(answer.complete)
                self.assertIn(conversation.wire.ended, ("close", "linger"))
                self.assertEqual(conversation.reports[-1][1], status)

    def test_request_lines(self) -> None:
        for line in (
            b"GET /", b"GET", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1",
            b"GET / a HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ",
            b"GET\t/\tHTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1",
            b"GET / HTTP/1.1.1", b"GET / HTTP/11", b"GET / HTTP/ 1.1",
            b"GET / HTTP/-1.1", b"GET / HTTP/1.10", b"GET / HTTP/1.\xb2",
            b"GET / ICY/1.0", b"GET / RTSP/1.0", b"G(T / HTTP/1.1",
            b"G\xc3\x89T / HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET /\x00 HTTP/1.1",
            b"GET /\x7f HTTP/1.1", b"GET /\t HTTP/1.1", b"GET a HTTP/1.1",
            b"GET * HTTP/1.1", b"GET ? HTTP/1.1", b"GET ftp://a/ HTTP/1.1",
            b"GET http:///a HTTP/1.1", b"GET http:/a HTTP/1.1",
            b"GET http://b@a/ HTTP/1.1", b"GET http://a\\b/ HTTP/1.1",
            b"GET http://[::1/ HTTP/1.1", b"GET a:80 HTTP/1.1", b'"GET / HTTP/1.1"',
            b"HTTP/1.1 200 OK", b"GET / HTTP/1.1\rX: y",
        ):  # fmt: skip
            self.refused(request(line, b"Host: a"))

    def test_versions(self) -> None:
        for version in (b"2.0", b"1.2", b"0.9", b"3.0", b"9.9", b"0.0"):
            self.refused(request(b"GET / HTTP/" + version, b"Host: a"), 505)

    def test_the_preface_of_http_2(self) -> None:
        self.refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)

    def test_connect(self) -> None:
        for target in (b"a:80", b"/", b"http://a/"):
            self.refused(request(b"CONNECT " + target + b" HTTP/1.1", b"Host: a"), 501)
        self.refused(request(b"connect a:80 HTTP/1.1", b"Host: a"), 501)

    def test_tls_on_the_plain_port(self) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2
        for parts in ([hello], [hello[:5], hello[5:]], [hello[:2], hello[2:]]):
            conversation = talk(*parts)
            self.assertEqual(conversation.answers()[0].status, 400)
            self.assertEqual(conversation.reports[0][0], http1.TLS_ON_PLAIN_PORT)

    def test_line_ends(self) -> None:
        self.refused(b"GET / HTTP/1.1\nHost: a\n\n")
        self.refused(b"GET / HTTP/1.1\nHost: a\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nX: y\nHost: a\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\r\n\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\n\n")
        self.refused(b"GET / HTTP/1.1\rHost: a\r\r")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: 1\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\n\rHost: a\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n")

    def test_before_the_request_line(self) -> None:
        for prefix in (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\n", b" ", b"\r\n "):
            self.refused(prefix + get())
        self.refused(b"\r\n" * (http1.MAX_LEADING_CRLF + 1) + get())

    def test_obsolete_folding(self) -> None:
        for fold in (b" ", b"\t"):
            self.refused(get(b"/", b"X: a", fold + b"b"))
            self.refused(get(b"/", b"X: a", fold))
            self.refused(
                request(b"GET / HTTP/1.1", b"Host: a", fold + b"Content-Length: 3")
            )
            self.refused(request(b"GET / HTTP/1.1", fold + b"Host: a"))
        self.refused(
            request(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding:", b" chunked")
        )

    def test_names(self) -> None:
        for field in (
            b"X : 1", b"X\t: 1", b": 1", b" : 1", b"X", b"X 1", b"X\x00: 1",
            b"X\xff: 1", b"X(: 1", b"X\x0b: 1", b'"X": 1', b"X;: 1", b"X\x7f: 1",
            b"Content-Length : 3", b"Transfer-Encoding : chunked",
        ):  # fmt: skip
            self.refused(get(b"/", field))

    def test_values(self) -> None:
        for code in [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]:
            self.refused(get(b"/", b"X: a%cb" % code))
            self.refused(get(b"/", b"X: a%c" % code))
            self.refused(get(b"/", b"X: %cb" % code))

    def test_hosts(self) -> None:
        self.refused(request(b"GET / HTTP/1.1"))
        self.refused(request(b"GET / HTTP/1.1", b"X: a"))
        self.refused(request(b"GET / HTTP/1.1", b"Host: a", b"Host: a"))
        self.refused(request(b"GET / HTTP/1.1", b"Host: a", b"host: b"))
        self.refused(request(b"GET / HTTP/1.0", b"Host: a", b"Host: b"))
        self.refused(request(b"GET http://a/ HTTP/1.1"))
        for host in (
            b"a b", b"a/b", b"a@b", b"a?b", b"a#b", b"a\\b", b"a:b", b"a:80:80",
            b"[::1", b"::1", b"[g]", b"[]", b"a\xff", b"a%4", b"http://a", b'"a"',
            b"<a>", b"a, a",
        ):  # fmt: skip
            self.refused(request(b"GET / HTTP/1.1", b"Host: " + host))
            self.refused(request(b"GET / HTTP/1.0", b"Host: " + host))

    def test_both_statements_of_length(self) -> None:
        length, coding = b"Content-Length: 4", b"Transfer-Encoding: chunked"
        for pair in ((length, coding), (coding, length)):
            self.refused(post_raw(*pair, body=b"0\r\n\r\n"))
        self.refused(post_raw(coding, b"Content-Length: 0", body=b"0\r\n\r\n"))

    def test_content_lengths(self) -> None:
        for values in (
            (b"3", b"3"), (b"3", b"4"), (b"0", b"0"), (b"3, 3",), (b"3,3",), (b"",),
            (b"-3",), (b"+3",), (b"0x3",), (b"3.0",), (b"3 3",), (b"1e1",), (b"1_0",),
            (b"\xb2",), (b"3;",), (b"a",), (b"9" * 20,), (b"9" * 5000,),
            (b"18446744073709551616",),
        ):  # fmt: skip
            fields = [b"Content-Length: " + value for value in values]
            self.refused(post_raw(*fields, body=b"abc"))

    def test_transfer_codings(self) -> None:
        for values in (
            (b"gzip, chunked",), (b"chunked, gzip",), (b"chunked, chunked",),
            (b"chunked", b"chunked"), (b"gzip",), (b"identity",), (b"",),
            (b"chunked,",), (b",chunked",), (b"xchunked",), (b"chunked;a=b",),
            (b'"chunked"',), (b"chunke",), (b"gzip", b"chunked"),
            (b"chunked", b"identity"), (b"\x0bchunked",), (b"chunked\x00",), (b"cow",),
        ):  # fmt: skip
            fields = [b"Transfer-Encoding: " + value for value in values]
            self.refused(post_raw(*fields, body=b"0\r\n\r\n"))

    def test_chunks_under_http_1_0(self) -> None:
        for options in ((), (b"Connection: keep-alive",)):
            self.refused(
                request(
                    b"POST / HTTP/1.0",
                    b"Host: a",
                    b"Transfer-Encoding: chunked",
                    *options,
                    body=b"0\r\n\r\n",
                )
            )

    def test_bad_chunks(self) -> None:
        for body in (
            b"x\r\n\r\n", b"1\nx\r\n0\r\n\r\n", b"1\r\nxx\r\n0\r\n\r\n", b"-1\r\n",
            b"1;\r\nx\r\n0\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n\rX: y\r\n\r\n",
            b"1\r\nx0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"f" * 17 + b"\r\n",
        ):  # fmt: skip
            self.refused(post_raw(b"Transfer-Encoding: chunked", body=body))

    def test_what_a_stream_refuses(self) -> None:
        conversation = Conversation()
        conversation.refusal = ProtocolError("no", 426, ((b"Upgrade", b"websocket"),))
        conversation.feed(get() + get(b"/b"))
        (answer,) = conversation.answers()
        self.assertEqual(answer.status, 426)
        self.assertEqual(answer.get("Upgrade"), "websocket")
        self.assertEqual(conversation.wire.ended, "linger")


def post_raw(*fields: bytes, body: bytes) -> bytes:
    return request(b"POST / HTTP/1.1", b"Host: a", *fields, body=body)


class HeadLimits(unittest.TestCase):
    """The limit itself passes, and one byte or field more does not."""

    def check(self, data: bytes, status: int, **limits: int) -> None:
        """``status`` is 200 for what passes."""
        for parts in ([data], byte_by_byte(data)):
            conversation = talk(*parts, limits=limits)
            conversation.settle()
            self.assertEqual(conversation.answers()[-1].status, status)

    def test_request_line(self) -> None:
        # Longer than what is remembered: a remembered line has passed some limit.
        line = b"GET /" + b"a" * http1.MAX_KNOWN_LINE + b" HTTP/1.1"
        self.check(request(line, b"Host: a"), 200, request_line=len(line))
        self.check(request(line, b"Host: a"), 414, request_line=len(line) - 1)

    def test_default_request_line(self) -> None:
        def line(size: int) -> bytes:
            return b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"

        self.check(request(line(8192), b"Host: a"), 200)
        self.check(request(line(8193), b"Host: a"), 414)

    def test_header_bytes(self) -> None:
        fields = [b"Host: a", b"X: " + b"b" * 200]
        size = sum(len(field) + 2 for field in fields)
        self.check(request(b"GET / HTTP/1.1", *fields), 200, header_bytes=size)
        self.check(request(b"GET / HTTP/1.1", *fields), 431, header_bytes=size - 1)

    def test_default_header_bytes(self) -> None:
        def fields(size: int) -> list[bytes]:
            return [b"Host: a", b"X: " + b"b" * (size - len("Host: a\r\nX: \r\n"))]

        for parts in (1, 7):
            for size, status in ((65536, 200), (65537, 431)):
                data = request(b"GET / HTTP/1.1", *fields(size))
                step = len(data) // parts + 1
                pieces = [data[i : i + step] for i in range(0, len(data), step)]
                conversation = talk(*pieces)
                conversation.settle()
                self.assertEqual(conversation.answers()[-1].status, status)

    def test_header_count(self) -> None:
        fields = [b"Host: a", *(b"X: %d" % n for n in range(9))]
        self.check(request(b"GET / HTTP/1.1", *fields), 200, header_count=10)
        self.check(request(b"GET / HTTP/1.1", *fields), 431, header_count=9)

    def test_dropped_names_count(self) -> None:
        # Their bytes do; a head that drips in must not take the square of its length.
        data = request(b"GET / HTTP/1.1", b"Host: a", *[b"X_Y: 1"] * 10_000)
        self.check(data, 431)

    def test_incomplete_heads(self) -> None:
        for data, status in (
            (b"G" * 9000, 414),
            (b"GET /" + b"a" * 9000, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 66_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"a" * 66_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 11_000, 431),
        ):
            for parts in ([data], split(data, [1000] * 70)):
                conversation = talk(*parts)
                self.assertEqual(conversation.answers()[-1].status, status)
                self.assertEqual(conversation.streams, [])

    def test_body_bytes(self) -> None:
        body = b"x" * 1000
        chunked = b"Transfer-Encoding: chunked"
        chunks = b"1f4\r\n%b\r\n" % (b"x" * 500) * 2 + b"0\r\n\r\n"
        self.check(post(body), 200, body_bytes=1000)
        self.check(post(body), 413, body_bytes=999)
        self.check(post_raw(chunked, body=chunks), 200, body_bytes=1000)
        self.check(post_raw(chunked, body=chunks), 413, body_bytes=999)

    def test_a_body_over_its_limit_never_begins_or_is_reset(self) -> None:
        conversation = talk(post(b"x" * 1000), limits={"body_bytes": 999})
        self.assertEqual(conversation.streams, [])
        conversation = talk(
            post_raw(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
            b"5\r\nhello\r\n",
            limits={"body_bytes": 9},
        )
        self.assertEqual(conversation.stream.body, b"hello")
        self.assertEqual(len(conversation.stream.resets), 1)
        self.assertFalse(conversation.stream.ended)


class Bodies(unittest.TestCase):
    def test_content_length(self) -> None:
        for parts in ([post(b"hello")], byte_by_byte(post(b"hello"))):
            stream = talk(*parts).stream
            self.assertEqual(stream.body, b"hello")
            self.assertTrue(stream.ended)

    def test_a_body_of_nothing(self) -> None:
        self.assertTrue(talk(post(b"")).stream.ended)
        data = post_raw(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")
        self.assertTrue(talk(data).stream.ended)

    def test_chunks(self) -> None:
        data = post_raw(
            b"Transfer-Encoding: Chunked",
            body=b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX: y\r\n\r\n",
        )
        for parts in ([data], byte_by_byte(data)):
            stream = talk(*parts).stream
            self.assertEqual(stream.body, b"hello world")
            self.assertTrue(stream.ended)
            self.assertNotIn(b"x", dict(stream.head.headers))

    def test_no_method_is_without_a_body(self) -> None:
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"X"):
            data = request(
                method + b" / HTTP/1.1", b"Host: a", b"Content-Length: 5", body=b"hello"
            )
            self.assertEqual(talk(data + get()).stream.body, b"hello")

    def test_an_upgrade_not_taken_is_served_with_its_body(self) -> None:
        # What "curl --http2 -d" sends.
        upgrade = (
            b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        )  # fmt: skip
        conversation = talk(post(b"a=b", *upgrade) + get(b"/next", *upgrade) + get())
        conversation.settle()
        bodies = [stream.body for stream in conversation.streams]
        self.assertEqual(bodies, [b"a=b", b"", b""])
        self.assertEqual(conversation.streams[0].head.upgrade, b"h2c")

    def test_an_upgrade_without_connection_is_none(self) -> None:
        self.assertIsNone(talk(get(b"/", b"Upgrade: websocket")).head.upgrade)
        head = talk(get(b"/", b"Upgrade: WebSocket", b"Connection: a, UPGRADE")).head
        self.assertEqual(head.upgrade, b"websocket")

    def test_websocket_among_several_upgrades(self) -> None:
        for upgrades in (
            [b"Upgrade: h2c, WebSocket"],
            [b"Upgrade: websocket", b"Upgrade: h2c"],
        ):
            head = talk(get(b"/", *upgrades, b"Connection: upgrade")).head
            self.assertEqual(head.upgrade, b"websocket")

    def test_an_upgrade_under_http_1_0_is_none(self) -> None:
        data = request(
            b"GET / HTTP/1.0", b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade"
        )
        self.assertIsNone(talk(data).head.upgrade)

    def test_reading_stops_while_the_application_takes_nothing(self) -> None:
        body = b"x" * 1_000_000
        conversation = talk(post(body)[:100])
        rest = post(body)[100:]
        conversation.feed(*(rest[i : i + 10_000] for i in range(0, len(rest), 10_000)))
        stream = conversation.stream
        self.assertTrue(conversation.wire.paused)
        self.assertLess(len(stream.body), BODY_HIGH_WATER + 10_001)
        while not stream.ended:
            before = len(stream.body)
            stream.take()
            self.assertFalse(conversation.wire.paused)
            conversation.wire.flush()
            self.assertGreater(len(stream.body), before)
        self.assertEqual(stream.body, body)

    def test_chunks_stop_the_reading_too(self) -> None:
        chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        conversation = talk(post_raw(b"Transfer-Encoding: chunked", body=b""))
        conversation.feed(*[chunk] * 50, b"0\r\n\r\n")
        self.assertTrue(conversation.wire.paused)
        self.assertLess(len(conversation.stream.body), BODY_HIGH_WATER + 10_001)
        conversation.settle()
        self.assertEqual(len(conversation.stream.body), 500_000)

    def test_reading_goes_on_when_the_answer_ends_the_exchange(self) -> None:
        conversation = talk(post(b"x" * 100_000)[:-10])
        self.assertTrue(conversation.wire.paused)
        conversation.stream.answer()
        self.assertFalse(conversation.wire.paused)
        conversation.feed(b"x" * 10, get(b"/next"))
        self.assertEqual(conversation.streams[-1].head.path, "/next")

    def test_the_end_of_the_connection_inside_a_body(self) -> None:
        conversation = talk(post(b"hello")[:-2])
        conversation.engine.receive_eof()
        self.assertEqual(len(conversation.stream.resets), 1)
        self.assertFalse(conversation.stream.ended)
        self.assertEqual(conversation.written, b"")


class Continue(unittest.TestCase):
    EXPECT = b"Expect: 100-continue"

    def test_asked_for_when_the_application_receives(self) -> None:
        head = post(b"hello", self.EXPECT)[:-5]
        conversation = talk(head)
        self.assertEqual(conversation.written, b"")
        conversation.engine.invite_body()
        self.assertEqual(conversation.written, b"HTTP/1.1 100 Continue\r\n\r\n")
        conversation.engine.invite_body()
        conversation.feed(b"hello")
        conversation.engine.invite_body()
        conversation.settle()
        self.assertEqual([a.status for a in conversation.answers()], [100, 200])

    def test_not_when_the_body_is_already_coming(self) -> None:
        conversation = talk(post(b"hello", self.EXPECT)[:-3])
        conversation.engine.invite_body()
        self.assertEqual(conversation.written, b"")

    def test_not_when_there_is_no_body(self) -> None:
        conversation = talk(get(b"/", self.EXPECT))
        conversation.engine.invite_body()
        conversation.settle()
        self.assertEqual([a.status for a in conversation.answers()], [200])

    def test_not_after_the_answer_has_begun(self) -> None:
        conversation = talk(post(b"hello", self.EXPECT)[:-5])
        conversation.engine.start(200, [], b"a", True, False)
        conversation.engine.invite_body()
        self.assertNotIn(b"100 Continue", conversation.written)

    def test_not_under_http_1_0(self) -> None:
        data = request(
            b"POST / HTTP/1.0", b"Host: a", b"Content-Length: 5", self.EXPECT
        )
        conversation = talk(data)
        conversation.engine.invite_body()
        self.assertEqual(conversation.written, b"")

    def test_an_answer_without_asking_closes(self) -> None:
        # The client may or may not send the body after it.
        for body in (b"hello", b"x" * 1_000_000):
            conversation = talk(post(body, self.EXPECT)[: -len(body)])
            conversation.stream.answer(403)
            (answer,) = conversation.answers()
            self.assertEqual(answer.get("Connection"), "close")
            self.assertEqual(conversation.wire.ended, "linger")

    def test_a_client_that_waits_politely_is_not_slow(self) -> None:
        conversation = talk(
            post(b"hello", self.EXPECT)[:-5], timeouts={"body": 3, "headers": 4}
        )
        if conversation.wire.armed is not None:
            conversation.wire.expire(conversation.wire.armed[0])
        self.assertEqual(conversation.written, b"")
        self.assertIsNone(conversation.wire.ended)
        conversation.engine.invite_body()
        conversation.wire.expire(3)
        self.assertEqual([a.status for a in conversation.answers()], [100, 408])


class Pipelining(unittest.TestCase):
    def test_in_order_one_at_a_time(self) -> None:
        conversation = talk(get(b"/a") + post(b"hello") + get(b"/c"))
        self.assertEqual(len(conversation.streams), 1)
        conversation.settle()
        self.assertEqual([s.head.path for s in conversation.streams], ["/a", "/", "/c"])
        self.assertEqual(
            [answer.body for answer in conversation.answers()], [b"1", b"2", b"3"]
        )

    def test_thousands_in_one_read(self) -> None:
        conversation = talk(get(b"/pipelined") * 5000)
        self.assertTrue(conversation.wire.paused)
        conversation.settle()
        self.assertEqual(len(conversation.streams), 5000)
        self.assertEqual(len(conversation.answers()), 5000)
        self.assertFalse(conversation.wire.paused)

    def test_what_is_sent_ahead_is_bounded(self) -> None:
        conversation = talk(*[get(b"/ahead")] * 100_000)
        self.assertTrue(conversation.wire.paused)
        held = len(get(b"/ahead")) * 100_000 - conversation.wire.undelivered
        self.assertLess(held, PIPELINE_HIGH_WATER + 1000)
        self.assertEqual(len(conversation.streams), 1)

    def test_an_answer_makes_room_for_no_more_than_was_answered(self) -> None:
        conversation = talk(get(b"/ahead") * 10_000)
        for _ in range(100):
            conversation.streams[-1].answer()
            self.assertTrue(conversation.wire.paused)
        self.assertEqual(len(conversation.streams), 101)

    def test_a_client_that_reads_no_answers_gets_no_more(self) -> None:
        conversation = talk(get(b"/a") + get(b"/b") + get(b"/c"))
        conversation.wire.writable = False
        conversation.settle()
        conversation.feed(get(b"/d"))
        conversation.settle()
        self.assertEqual(len(conversation.streams), 1)
        conversation.wire.writable = True
        conversation.engine.writable_again()
        conversation.settle()
        paths = [s.head.path for s in conversation.streams]
        self.assertEqual(paths, ["/a", "/b", "/c", "/d"])

    def test_what_follows_a_close_is_not_served(self) -> None:
        for field in (b"Connection: close", b"Connection: keep-alive, Close"):
            conversation = talk(get(b"/a", field) + get(b"/b"))
            conversation.settle()
            self.assertEqual(conversation.stream.head.path, "/a")
            (answer,) = conversation.answers()
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.get("Connection"), "close")
            # The client may still be sending: it must be able to read the answer.
            self.assertEqual(conversation.wire.ended, "linger")

    def test_a_bad_request_waits_for_the_answers_before_it(self) -> None:
        conversation = talk(get(b"/a") + b"nonsense\r\n\r\n" + get(b"/c"))
        self.assertEqual(conversation.written, b"")
        conversation.settle()
        self.assertEqual([a.status for a in conversation.answers()], [200, 400])


class KeepAlive(unittest.TestCase):
    def closes(self, data: bytes, headers: Any = (), *parts: bytes) -> bool:
        """Whether the connection ends with the answer, and the answer says so."""
        conversation = talk(data)
        for stream in conversation.streams:
            stream.answer(200, headers, *parts)
        (answer,) = conversation.answers()
        ended = conversation.wire.ended is not None
        if ended:
            self.assertEqual(answer.get("Connection"), "close")
        elif conversation.head.http_version == "1.0":
            self.assertEqual(answer.get("Connection"), "keep-alive")
        else:
            self.assertIsNone(answer.get("Connection"))
        if not ended:
            conversation.feed(get(b"/next"))
            self.assertEqual(conversation.streams[-1].head.path, "/next")
        return ended

    def test_http_1_1(self) -> None:
        self.assertFalse(self.closes(get()))
        self.assertFalse(self.closes(get(b"/", b"Connection: keep-alive")))
        self.assertFalse(self.closes(get(b"/", b"Connection: x")))
        self.assertTrue(self.closes(get(b"/", b"Connection: close")))
        self.assertTrue(self.closes(get(b"/", b"Connection: x, CLOSE ,y")))
        self.assertTrue(self.closes(get(b"/", b"Connection: x", b"Connection: close")))

    def test_http_1_0(self) -> None:
        line = b"GET / HTTP/1.0"
        self.assertTrue(self.closes(request(line)))
        self.assertTrue(self.closes(request(line, b"Connection: x")))
        self.assertFalse(self.closes(request(line, b"Connection: Keep-Alive")))
        self.assertTrue(self.closes(request(line, b"Connection: keep-alive, close")))

    def test_http_1_0_without_a_length(self) -> None:
        data = request(b"GET / HTTP/1.0", b"Connection: keep-alive")
        self.assertTrue(self.closes(data, (), b"a", b"b"))
        self.assertFalse(self.closes(data, [(b"content-length", b"2")], b"a", b"b"))

    def test_what_the_application_says(self) -> None:
        self.assertTrue(self.closes(get(), [(b"connection", b"close")]))
        self.assertTrue(self.closes(get(), [(b"Connection", b"x, Close")]))
        self.assertFalse(self.closes(get(), [(b"connection", b"keep-alive")]))
        self.assertFalse(self.closes(get(), [(b"keep-alive", b"timeout=5")]))

    def test_fields_of_proxies_and_others_leave_it_alone(self) -> None:
        for field in (
            b"Proxy-Connection: close", b"Proxy-Connection: keep-alive",
            b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"TE: trailers",
        ):  # fmt: skip
            with self.subTest(field=field):
                self.assertFalse(self.closes(get(b"/", field)))

    def test_a_draining_server_closes(self) -> None:
        conversation = talk(get())
        conversation.engine.drain()
        conversation.stream.answer()
        self.assertEqual(conversation.answers()[0].get("Connection"), "close")
        self.assertEqual(conversation.wire.ended, "close")

    def test_a_draining_server_closes_idle_connections(self) -> None:
        conversation = talk(get())
        conversation.settle()
        conversation.wire.clock.seconds += LULL + TICK
        conversation.engine.drain()
        self.assertEqual(conversation.wire.ended, "close")

    def test_a_draining_server_leaves_a_busy_connection_a_moment(self) -> None:
        conversation = talk(get(b"/a"))
        conversation.settle()
        conversation.engine.drain()
        self.assertTrue(conversation.engine.parting)
        # What was under way is answered, and the client told not to send more.
        conversation.feed(get(b"/b"))
        conversation.settle()
        answers = conversation.answers()
        self.assertEqual([a.get("Connection") for a in answers], [None, "close"])
        self.assertEqual(conversation.wire.ended, "close")

    def test_a_lull_is_not_shorter_for_a_clock_that_is_behind(self) -> None:
        conversation = talk(get())
        conversation.settle()
        # The last tick was just before the answer, and the next one just after.
        conversation.wire.clock.seconds += LULL
        conversation.engine.drain()
        self.assertIsNone(conversation.wire.ended)
        self.assertTrue(conversation.engine.parting)

    def test_a_busy_connection_that_falls_silent_closes(self) -> None:
        conversation = talk(get())
        conversation.settle()
        conversation.engine.drain()
        conversation.wire.expire(LULL + TICK)
        self.assertEqual(conversation.wire.ended, "close")
        self.assertFalse(conversation.engine.parting)

    def test_half_a_request_is_not_cut_by_the_lull(self) -> None:
        conversation = talk(get())
        conversation.settle()
        conversation.engine.drain()
        conversation.feed(b"GET / HT")
        conversation.wire.clock.seconds += LULL + TICK
        self.assertIsNone(conversation.wire.ended)
        self.assertFalse(conversation.engine.parting)

    def test_a_draining_server_serves_what_was_sent_ahead_of_it(self) -> None:
        conversation = talk(get(b"/a"))
        conversation.engine.drain()
        conversation.feed(get(b"/b"))
        conversation.settle()
        self.assertEqual(conversation.stream.head.path, "/a")
        self.assertEqual(conversation.wire.ended, "linger")


class UnreadBodies(unittest.TestCase):
    def test_a_small_rest_is_read_over(self) -> None:
        data = post(b"x" * 1000)
        conversation = talk(data[:-900])
        conversation.stream.answer(200, [], b"done")
        self.assertIsNone(conversation.answers()[0].get("Connection"))
        conversation.feed(data[-900:] + get(b"/next"))
        self.assertEqual(conversation.streams[-1].head.path, "/next")

    def test_small_chunks_are_read_over(self) -> None:
        conversation = talk(post_raw(b"Transfer-Encoding: chunked", body=b"5\r\nhe"))
        conversation.stream.answer()
        conversation.feed(b"llo\r\n0\r\n\r\n" + get(b"/next"))
        self.assertEqual(conversation.streams[-1].head.path, "/next")

    def test_bad_chunks_read_over_end_the_connection(self) -> None:
        conversation = talk(post_raw(b"Transfer-Encoding: chunked", body=b"5\r\nhe"))
        conversation.stream.answer()
        conversation.feed(b"llo0\r\n\r\n" + get(b"/smuggled"))
        conversation.settle()
        self.assertEqual(len(conversation.streams), 1)
        self.assertEqual(len(conversation.answers()), 1)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_large_rest_closes(self) -> None:
        conversation = talk(post(b"x" * 1_000_000)[:1000])
        conversation.stream.answer()
        self.assertEqual(conversation.answers()[0].get("Connection"), "close")
        self.assertEqual(conversation.wire.ended, "linger")

    def test_endless_chunks_close(self) -> None:
        conversation = talk(post_raw(b"Transfer-Encoding: chunked", body=b""))
        conversation.stream.answer()
        conversation.feed(*[b"3e8\r\n" + b"x" * 1000 + b"\r\n"] * 100)
        self.assertEqual(conversation.wire.ended, "linger")
        self.assertLess(conversation.engine._body_read, DISCARD_LIMIT + 1001)

    def test_a_response_that_streams_decides_at_its_end(self) -> None:
        conversation = talk(post(b"x" * 1_000_000)[:1000])
        conversation.engine.start(200, [], b"a", True, False)
        conversation.engine.body(b"b", False)
        self.assertTrue(conversation.answers()[0].complete)
        self.assertEqual(conversation.wire.ended, "linger")

    def test_a_stop_while_a_rest_is_read_over(self) -> None:
        conversation = talk(post(b"x" * 1000)[:-900])
        conversation.stream.answer()
        conversation.engine.drain()
        # Closed at once, the bytes on their way would turn the answer into a reset.
        self.assertEqual(conversation.wire.ended, "linger")

    def test_a_stop_before_a_rest_would_be_read_over(self) -> None:
        conversation = talk(post(b"x" * 1000)[:-900])
        conversation.engine.start(200, [], b"a", True, False)
        conversation.engine.drain()
        conversation.engine.body(b"b", False)
        self.assertTrue(conversation.answers()[0].complete)
        self.assertEqual(conversation.wire.ended, "linger")

    def test_a_rest_that_does_not_come(self) -> None:
        conversation = talk(post(b"x" * 1000)[:-900], timeouts={"body": 3})
        conversation.stream.answer()
        conversation.wire.expire(3)
        self.assertEqual(len(conversation.answers()), 1)
        self.assertIsNotNone(conversation.wire.ended)


# -- What goes out ---------------------------------------------------------------------


def respond(
    status: int,
    headers: list[tuple[bytes, bytes]],
    *parts: bytes,
    method: str = "GET",
    version: bytes = b"1.1",
    server_line: bytes | None = None,
) -> tuple[Answer, str | None]:
    """The answer to one request, and how the connection ended."""
    conversation = talk(
        request(method.encode() + b" / HTTP/" + version, b"Host: a"),
        server_line=server_line,
    )
    conversation.stream.answer(status, headers, *parts)
    (answer,) = conversation.answers(method)
    return answer, conversation.wire.ended


class Responses(unittest.TestCase):
    def test_head_and_body_in_one_piece(self) -> None:
        conversation = talk(get())
        conversation.stream.answer(200, [(b"X-Y", b"z")], b"hello")
        self.assertEqual(
            conversation.written,
            b"HTTP/1.1 200 OK\r\nX-Y: z\r\n" + DATE + b"\r\n"
            b"Content-Length: 5\r\n\r\nhello",
        )

    def test_length_is_counted_when_it_is_known(self) -> None:
        answer, ended = respond(200, [], b"hello")
        self.assertEqual(answer.get("Content-Length"), "5")
        self.assertEqual(answer.body, b"hello")
        self.assertIsNone(ended)
        self.assertEqual(respond(200, [])[0].get("Content-Length"), "0")

    def test_chunks_when_it_is_not(self) -> None:
        answer, ended = respond(200, [], b"", b"hello", b"", b" world", b"")
        self.assertEqual(answer.get("Transfer-Encoding"), "chunked")
        self.assertEqual(answer.body, b"hello world")
        self.assertTrue(answer.complete)
        self.assertIsNone(ended)
        answer, _ = respond(200, [], b"hello", b" world")
        self.assertEqual(answer.body, b"hello world")

    def test_until_the_connection_closes_under_http_1_0(self) -> None:
        answer, ended = respond(200, [], b"hello", b" world", version=b"1.0")
        self.assertIsNone(answer.get("Transfer-Encoding"))
        self.assertIsNone(answer.get("Content-Length"))
        self.assertEqual(answer.body, b"hello world")
        self.assertEqual(ended, "close")

    def test_the_applications_length_is_sent(self) -> None:
        for parts in ((b"hello",), (b"he", b"llo"), (b"", b"hello", b"")):
            answer, ended = respond(200, [(b"Content-length", b"5")], *parts)
            self.assertEqual(answer.get("Content-Length"), "5")
            self.assertEqual(answer.body, b"hello")
            self.assertTrue(answer.complete)
            self.assertIsNone(ended)

    def test_more_than_the_length_is_an_error(self) -> None:
        conversation = talk(get())
        start = conversation.engine.start
        with self.assertRaisesRegex(IllegalMessage, "longer than its Content-Length"):
            start(200, [(b"content-length", b"2")], b"abc", False, False)
        self.assertEqual(conversation.written, b"")
        start(200, [(b"content-length", b"2")], b"a", True, False)
        with self.assertRaisesRegex(IllegalMessage, "1 bytes were left"):
            conversation.engine.body(b"bc", False)
        conversation.engine.body(b"b", False)
        self.assertEqual(conversation.answers()[0].body, b"ab")

    def test_less_than_the_length_ends_the_connection(self) -> None:
        for parts in ((b"ab",), (b"a", b"b"), (b"",)):
            conversation = talk(get() + get(b"/next"))
            conversation.stream.answer(200, [(b"content-length", b"3")], *parts)
            (answer,) = conversation.answers()
            self.assertFalse(answer.complete)
            self.assertIsNotNone(conversation.wire.ended)
            self.assertEqual(len(conversation.streams), 1)
            self.assertIn("less than its Content-Length", conversation.reports[0][0])

    def test_the_applications_transfer_encoding_is_not_sent(self) -> None:
        for value in (b"chunked", b"gzip, chunked", b"identity"):
            for parts in ((b"hello",), (b"he", b"llo")):
                for version in (b"1.1", b"1.0"):
                    answer, _ = respond(
                        200, [(b"transfer-encoding", value)], *parts, version=version
                    )
                    self.assertEqual(answer.body, b"hello")
                    self.assertTrue(answer.complete)
        answer, _ = respond(
            200,
            [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")],
            b"hello",
        )
        self.assertIsNone(answer.get("Transfer-Encoding"))

    def test_the_last_length_counts(self) -> None:
        answer, _ = respond(
            200, [(b"content-length", b"9"), (b"content-length", b"5")], b"hello"
        )
        self.assertEqual(answer.get("Content-Length"), "5")

    def test_lengths_that_are_none(self) -> None:
        for value in (b"", b"-1", b"+1", b"a", b"1 ", b"1.0", b"9" * 20, b"\xb2"):
            with self.subTest(value=value), self.assertRaises(IllegalMessage):
                respond(200, [(b"content-length", value)], b"")

    def test_large_bodies_are_not_copied_and_arrive(self) -> None:
        body = b"x" * 200_000
        for parts in ((body,), (body, body), (b"", body, b"")):
            answer, _ = respond(200, [], *parts)
            self.assertEqual(answer.body, b"".join(parts))
            length = b"%d" % len(b"".join(parts))
            answer, _ = respond(200, [(b"content-length", length)], *parts)
            self.assertEqual(answer.body, b"".join(parts))

    def test_head_has_no_body(self) -> None:
        answer, ended = respond(200, [], b"hello", method="HEAD")
        self.assertEqual(answer.get("Content-Length"), "5")
        self.assertIsNone(ended)
        headers = [(b"content-length", b"1000")]
        for parts in ((), (b"",), (b"hello",), (b"he", b"llo"), (b"x" * 2000,)):
            answer, ended = respond(200, headers, *parts, method="HEAD")
            self.assertEqual(answer.get("Content-Length"), "1000")
            self.assertIsNone(ended)
        answer, ended = respond(200, [], b"he", b"llo", method="HEAD")
        self.assertEqual(answer.get("Transfer-Encoding"), "chunked")
        self.assertIsNone(ended)

    def test_head_says_nothing_of_a_length_that_it_does_not_know(self) -> None:
        self.assertIsNone(respond(200, [], method="HEAD")[0].get("Content-Length"))

    def test_204_and_304_have_no_body(self) -> None:
        for status in (204, 304):
            for parts in ((), (b"hello",), (b"he", b"llo")):
                conversation = talk(get() + get(b"/next"))
                conversation.stream.answer(status, [], *parts)
                answer = conversation.answers()[0]
                self.assertEqual(answer.status, status)
                self.assertTrue(conversation.written.endswith(b"\r\n\r\n"))
                # The next request is served: nothing was left on the wire.
                self.assertEqual(len(conversation.streams), 2)
        answer, _ = respond(204, [(b"content-length", b"0")])
        self.assertIsNone(answer.get("Content-Length"))
        answer, _ = respond(304, [(b"content-length", b"9")])
        self.assertEqual(answer.get("Content-Length"), "9")

    def test_date(self) -> None:
        answer, _ = respond(200, [])
        self.assertEqual(answer.get("Date"), "Fri, 20 Nov 2026 10:00:00 GMT")
        answer, _ = respond(200, [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")])
        self.assertEqual(answer.get("Date"), "Thu, 01 Jan 1970 00:00:00 GMT")
        (answer,) = talk(b"nonsense\r\n\r\n").answers()
        self.assertEqual(answer.get("Date"), "Fri, 20 Nov 2026 10:00:00 GMT")

    def test_server(self) -> None:
        self.assertIsNone(respond(200, [])[0].get("Server"))
        answer, _ = respond(200, [], server_line=b"Server: a")
        self.assertEqual(answer.get("Server"), "a")
        answer, _ = respond(200, [(b"server", b"b")], server_line=b"Server: a")
        self.assertEqual(answer.get("Server"), "b")

    def test_repeated_fields_stay_repeated(self) -> None:
        answer, _ = respond(200, [(b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d")])
        self.assertEqual(answer.all("Set-Cookie"), ["a=b", "c=d"])

    def test_statuses_without_a_name(self) -> None:
        answer, _ = respond(299, [], b"a")
        self.assertEqual((answer.status, answer.reason), (299, ""))
        self.assertEqual(respond(418, [])[0].status, 418)

    def test_fields_that_would_be_more_than_they_are(self) -> None:
        for name, value in (
            (b"x", b"a\r\nb: c"), (b"x", b"a\nb"), (b"x", b"a\rb"), (b"x", b"a\0b"),
            (b"x", b"\r\n\r\n<html>"), (b"x", b"a\r\n"), (b"date", b"a\r\nb"),
            (b"server", b"a\n"), (b"x\r\ny", b"a"), (b"x:", b"a"), (b"", b"a"),
            (b"x y", b"a"), (b"x\0", b"a"), (b"\xff", b"a"),
            (b"content-length", b"1\n"),
        ):  # fmt: skip
            for more in (False, True):
                with self.subTest(name=name, value=value):
                    conversation = talk(get())
                    with self.assertRaises(IllegalMessage):
                        conversation.engine.start(
                            200, [(b"ok", b"1"), (name, value)], b"", more, False
                        )
                    self.assertEqual(conversation.written, b"")
                    # Something else can still be answered.
                    conversation.stream.answer(500)
                    self.assertEqual(conversation.answers()[0].status, 500)

    def test_injected_connection_and_framing_values_never_reach_the_wire(self) -> None:
        for name in (b"connection", b"keep-alive", b"transfer-encoding"):
            conversation = talk(get())
            try:
                conversation.stream.answer(200, [(name, b"a\r\nevil: 1")])
            except IllegalMessage:
                continue
            self.assertNotIn(b"evil", conversation.written)

    def test_what_is_wrong_is_named(self) -> None:
        for headers, words in (
            ([(b"x", "a")], "byte strings, not str: b'x'"),
            ([("x", b"a")], "byte strings, not str: 'x'"),
            ([(b"x", None)], "byte strings, not NoneType"),
            ([(b"x", 5)], "byte strings, not int"),
            ([(b"x", b"a\nb")], "would inject headers"),
            ([(b"x y", b"a")], "not a valid header name"),
            ([(b"x",)], "pairs"),
            ([b"xyz"], "pairs"),
            ([None], "pairs"),
            ([(b"content-length", b"x")], "invalid Content-Length"),
        ):
            with (
                self.subTest(headers=headers),
                self.assertRaisesRegex(IllegalMessage, words),
            ):
                talk(get()).engine.start(200, headers, b"", False, False)  # type: ignore[arg-type]

    TABLES: tuple[Any, ...] = (
        fields.REQUEST_NAMES,
        fields._RESPONSE_NAMES,
        fields.RESPONSE_FIELDS,
        fields.KNOWN_HOSTS,
    )

    def test_remembered_names_are_bounded(self) -> None:
        for number in range(2 * fields.MAX_LEARNT_NAMES):
            respond(200, [(b"x-%d" % number, b"")])
            talk(get(b"/", b"x-%d: 1" % number))
            talk(request(b"GET / HTTP/1.1", b"Host: a%d" % number))
        for table in self.TABLES:
            self.assertLessEqual(len(table), fields.MAX_LEARNT_NAMES)

    def test_remembered_names_are_short(self) -> None:
        long = b"x" * 10_000
        respond(200, [(long, b"")])
        talk(get(b"/", long + b": 1"))
        talk(request(b"GET / HTTP/1.1", b"Host: " + long))
        talk(request(b"GET http://" + long[:5000] + b"/ HTTP/1.1", b"Host: a"))
        for table in self.TABLES:
            for key in table:
                size = len(key) if isinstance(key, bytes) else sum(map(len, key))
                self.assertLessEqual(size, fields.MAX_LEARNT_LINE)

    def test_invented_names_do_not_crowd_out_the_real_ones(self) -> None:
        for number in range(2 * fields.MAX_LEARNT_NAMES):
            talk(get(b"/", b"x-invented-%d: 1" % number))
            talk(request(b"GET / HTTP/1.1", b"Host: invented%d" % number))
        talk(request(b"GET / HTTP/1.1", b"Host: real", b"X-Real: 1"))
        self.assertIn(b"X-Real", fields.REQUEST_NAMES)
        self.assertIn(b"real", fields.KNOWN_HOSTS)


class Informational(unittest.TestCase):
    LINKS = [(b"link", b"</a.css>; rel=preload")]

    def test_early_hints(self) -> None:
        conversation = talk(get())
        conversation.engine.informational(103, self.LINKS)
        conversation.engine.informational(103, self.LINKS)
        conversation.settle()
        hint, again, final = conversation.answers()
        self.assertEqual((hint.status, again.status, final.status), (103, 103, 200))
        self.assertEqual(hint.headers, [("link", "</a.css>; rel=preload")])

    def test_not_for_http_1_0(self) -> None:
        conversation = talk(request(b"GET / HTTP/1.0"))
        conversation.engine.informational(103, self.LINKS)
        self.assertEqual(conversation.written, b"")

    def test_injection(self) -> None:
        conversation = talk(get())
        for value in (b"a\r\nb: c", b"a\nb", b"a\0"):
            with self.assertRaises(IllegalMessage):
                conversation.engine.informational(103, [(b"link", value)])
        self.assertEqual(conversation.written, b"")


class Trailers(unittest.TestCase):
    ACCEPTS = b"TE: gzip, trailers"
    FIELDS = [(b"Digest", b"abc"), (b"X", b"y")]

    def converse(self, method: bytes = b"GET", *fields: bytes) -> Conversation:
        return talk(
            request(method + b" / HTTP/1.1", b"Host: a", self.ACCEPTS, *fields)
            + get(b"/next")
        )

    def test_sent_behind_the_last_chunk(self) -> None:
        for parts in ((b"hello",), (b"", b"hello"), (b"he", b"llo")):
            conversation = self.converse()
            first, *others = parts
            conversation.engine.start(200, [], first, bool(others), True)
            for number, part in enumerate(others, 1):
                conversation.engine.body(part, number < len(others), True)
            self.assertEqual(len(conversation.streams), 1)
            conversation.engine.trailers(self.FIELDS)
            (answer,) = conversation.answers()
            self.assertEqual(answer.body, b"hello")
            self.assertEqual(answer.trailers, [("Digest", "abc"), ("X", "y")])
            self.assertEqual(len(conversation.streams), 2)

    def test_none_where_there_is_no_body(self) -> None:
        for method, status in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304)):
            conversation = self.converse(method)
            conversation.engine.start(status, [], b"hello", False, True)
            conversation.engine.trailers(self.FIELDS)
            (answer,) = conversation.answers(method.decode())
            self.assertEqual(answer.status, status)
            self.assertNotIn(b"Digest", conversation.written)
            # Exactly one exchange ended, and the next is untouched.
            self.assertEqual(len(conversation.streams), 2)
            self.assertIs(conversation.engine.stream, conversation.streams[1])

    def test_injection(self) -> None:
        conversation = self.converse()
        conversation.engine.start(200, [], b"a", False, True)
        for bad in ([(b"x", b"a\r\nb")], [(b"x y", b"a")], [(b"x", "a")]):
            with self.assertRaises(IllegalMessage):
                conversation.engine.trailers(bad)  # type: ignore[arg-type]
        conversation.engine.trailers([])
        self.assertTrue(conversation.answers()[0].complete)

    def test_accepted_is_what_the_client_says(self) -> None:
        self.assertTrue(self.converse().streams[0].head.trailers_accepted)
        self.assertFalse(talk(get(b"/", b"TE: gzip")).head.trailers_accepted)
        self.assertFalse(talk(get()).head.trailers_accepted)
        data = request(b"GET / HTTP/1.0", b"TE: trailers")
        self.assertFalse(talk(data).head.trailers_accepted)


class Endings(unittest.TestCase):
    def test_abort_before_the_head(self) -> None:
        conversation = talk(get() + get(b"/next"))
        conversation.engine.abort()
        self.assertEqual(conversation.written, b"")
        self.assertEqual(conversation.wire.ended, "abort")
        self.assertEqual(len(conversation.streams), 1)

    def test_abort_inside_a_framed_body(self) -> None:
        for headers in ([], [(b"content-length", b"9")]):
            conversation = talk(get() + get(b"/next"))
            conversation.engine.start(200, headers, b"abc", True, False)
            conversation.engine.abort()
            (answer,) = conversation.answers()
            self.assertEqual(answer.body, b"abc")
            self.assertFalse(answer.complete)
            # The framing tells; what was sent need not be lost.
            self.assertEqual(conversation.wire.ended, "close")
            self.assertEqual(len(conversation.streams), 1)

    def test_abort_inside_a_body_that_ends_with_the_connection(self) -> None:
        conversation = talk(request(b"GET / HTTP/1.0"))
        conversation.engine.start(200, [], b"abc", True, False)
        conversation.engine.abort()
        # A close would look like the end of the body.
        self.assertEqual(conversation.wire.ended, "abort")

    def test_loss_resets_the_stream_once(self) -> None:
        conversation = talk(get())
        conversation.engine.connection_lost()
        self.assertEqual(len(conversation.stream.resets), 1)
        conversation = talk(get())
        conversation.engine.receive_eof()
        conversation.engine.connection_lost()
        self.assertEqual(len(conversation.stream.resets), 1)

    def test_loss_after_the_answer_resets_nobody(self) -> None:
        conversation = talk(get())
        conversation.settle()
        conversation.engine.receive_eof()
        conversation.engine.connection_lost()
        self.assertEqual(conversation.stream.resets, [])

    def test_the_end_of_an_idle_connection_is_nothing_to_report(self) -> None:
        conversation = talk(get())
        conversation.settle()
        conversation.engine.receive_eof()
        self.assertEqual(conversation.reports, [])
        self.assertEqual(conversation.wire.ended, "close")


class Time(unittest.TestCase):
    TIMEOUTS = {"headers": 2, "body": 3, "keep_alive": 5, "request": None}

    def talk(self, *parts: bytes, **timeouts: float) -> Conversation:
        return talk(*parts, timeouts={**self.TIMEOUTS, **timeouts})

    def test_nothing_at_all_closes_in_silence(self) -> None:
        conversation = self.talk()
        conversation.wire.expire(2)
        self.assertEqual(conversation.wire.ended, "close")
        self.assertEqual(conversation.written, b"")
        self.assertEqual(
            conversation.reports, [("no request within TIMEOUTS['HEADERS']", 0, b"")]
        )

    def test_part_of_a_head_is_408(self) -> None:
        for data in (b"G", b"GET / HTTP/1.1\r\n", b"\r\nG", get()[:-1]):
            conversation = self.talk(data)
            conversation.wire.expire(2)
            (answer,) = conversation.answers()
            self.assertEqual(answer.status, 408)
            self.assertEqual(answer.get("Connection"), "close")
            self.assertEqual(conversation.reports[0][1], 408)

    def test_dripping_does_not_help(self) -> None:
        conversation = self.talk(b"G")
        armed = conversation.wire.armed
        conversation.feed(*byte_by_byte(get()[1:-1]))
        self.assertIs(conversation.wire.armed, armed)

    def test_an_empty_line_is_no_part_of_a_head(self) -> None:
        for data in (b"\r\n", b"\r"):
            conversation = self.talk(data)
            conversation.wire.expire(2)
            self.assertEqual(conversation.written, b"")
            self.assertEqual(conversation.wire.ended, "close")

    def test_idle_after_an_answer_closes_in_silence(self) -> None:
        conversation = self.talk(get())
        conversation.settle()
        written = conversation.written
        conversation.wire.expire(5)
        self.assertEqual(conversation.wire.ended, "close")
        self.assertEqual(conversation.written, written)
        self.assertEqual(
            conversation.reports, [("idle for TIMEOUTS['KEEP_ALIVE']", 0, b"")]
        )

    def test_idle_counts_from_the_last_answer(self) -> None:
        conversation = self.talk(get())
        conversation.settle()
        conversation.wire.clock.seconds += 4
        conversation.feed(get())
        conversation.settle()
        # The timer of the first answer: one second of quiet so far.
        assert conversation.wire.armed is not None
        conversation.wire.clock.seconds += 1
        (_, expired), conversation.wire.armed = conversation.wire.armed, None
        expired()
        self.assertIsNone(conversation.wire.ended)
        conversation.wire.expire(4)
        self.assertEqual(conversation.wire.ended, "close")

    def test_an_idle_timer_leaves_a_request_alone(self) -> None:
        conversation = self.talk(get())
        conversation.settle()
        conversation.feed(get(b"/b"))
        conversation.wire.expire(5)
        self.assertIsNone(conversation.wire.ended)
        conversation.settle()
        conversation.wire.expire(5)
        self.assertEqual(conversation.wire.ended, "close")

    def test_part_of_a_second_head_is_408(self) -> None:
        for parts in ((get(), b"GET /b"), (get() + b"GET /b",)):
            conversation = self.talk(*parts)
            conversation.settle()
            if len(parts) == 2:
                conversation = self.talk(parts[0])
                conversation.settle()
                conversation.feed(parts[1])
            conversation.wire.expire(2)
            self.assertEqual([a.status for a in conversation.answers()], [200, 408])

    def test_a_stalled_body_is_408(self) -> None:
        for data in (
            post(b"hello")[:-1],
            post(b"hello")[:-5],
            post_raw(b"Transfer-Encoding: chunked", body=b""),
            post_raw(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n"),
        ):
            conversation = self.talk(data)
            conversation.wire.expire(3)
            (answer,) = conversation.answers()
            self.assertEqual(answer.status, 408)
            self.assertEqual([r[1] for r in conversation.stream.resets], [408])

    def test_a_body_that_stalls_while_the_answer_is_sent(self) -> None:
        conversation = self.talk(post(b"hello")[:-1])
        conversation.engine.start(200, [], b"a", True, False)
        conversation.wire.expire(3)
        (answer,) = conversation.answers()
        self.assertFalse(answer.complete)
        self.assertEqual([r[1] for r in conversation.stream.resets], [0])

    def test_time_in_which_we_do_not_read_is_not_the_clients(self) -> None:
        conversation = self.talk(post(b"x" * 200_000)[:-10])
        self.assertTrue(conversation.wire.paused)
        self.assertIsNone(conversation.wire.armed)
        conversation.stream.take()
        conversation.wire.expire(3)
        self.assertEqual(conversation.answers()[0].status, 408)

    def test_a_response_that_takes_too_long_is_503(self) -> None:
        for data in (
            get(),
            post(b"hello"),
            post_raw(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
            # Bodies whose end the application keeps waiting.
            post(b"x" * 200_000)[:-10],
            post_raw(b"Content-Length: 5", b"Expect: 100-continue", body=b""),
        ):
            conversation = self.talk(data, request=4)
            conversation.wire.expire(4)
            (answer,) = conversation.answers()
            self.assertEqual(answer.status, 503)
            self.assertEqual([r[1] for r in conversation.stream.resets], [503])
            conversation = self.talk(data, request=4)
            conversation.engine.start(200, [], b"a", True, False)
            conversation.wire.expire(4)
            self.assertFalse(conversation.answers()[0].complete)

    def test_an_application_that_reads_on_has_its_time_anew(self) -> None:
        conversation = self.talk(post(b"x" * 200_000)[:-10], request=4)
        conversation.stream.take()
        # It is the client's turn.
        conversation.wire.expire(3)
        self.assertEqual(conversation.answers()[0].status, 408)
        conversation = self.talk(
            post_raw(b"Content-Length: 5", b"Expect: 100-continue", body=b""), request=4
        )
        conversation.engine.invite_body()
        conversation.wire.expire(3)
        self.assertEqual(conversation.answers()[-1].status, 408)

    def test_an_answer_in_time_stops_that_clock(self) -> None:
        conversation = self.talk(get(), request=4)
        conversation.settle()
        conversation.wire.expire(5)
        self.assertEqual([a.status for a in conversation.answers()], [200])
        self.assertEqual(conversation.wire.ended, "close")

    def test_disabled(self) -> None:
        none = {"headers": None, "body": None, "keep_alive": None, "request": None}
        for parts, settle in (
            ((), False),
            ((b"G",), False),
            ((post(b"hello")[:-1],), False),
            ((get(),), True),
            ((post(b"hello"), get()), True),
        ):
            conversation = talk(*parts, timeouts=none)
            if settle:
                conversation.settle()
            self.assertIsNone(conversation.wire.armed)


# -- Properties ------------------------------------------------------------------------

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"M-SEARCH", b"purge"])
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"/%C3%A9", b"/\xc3\xa9", b"http://h/x"])
NAMES = st.sampled_from([b"X", b"X-Long-Name", b"Accept", b"x_y", b"Cookie"])
VALUES = st.sampled_from([b"", b"1", b"a b\tc", b"\xff", b"v" * 50])
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=80),
    st.lists(st.binary(min_size=1, max_size=40), max_size=4),
)


@dataclasses.dataclass
class Request:
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes | list[bytes] | None

    @property
    def raw(self) -> bytes:
        lines = [b"%b: %b" % field for field in self.fields]
        body = b""
        if isinstance(self.body, bytes):
            lines.append(b"Content-Length: %d" % len(self.body))
            body = self.body
        elif self.body is not None:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in self.body)
            body += b"0\r\n\r\n"
        line = self.method + b" " + self.target + b" HTTP/1.1"
        return request(line, b"Host: h", *lines, body=body)

    @property
    def meaning(self) -> tuple[Any, ...]:
        body = self.body
        if not isinstance(body, bytes):
            body = b"".join(body or [])
        fields = [(n.lower(), v) for n, v in self.fields if b"_" not in n]
        path, _, query = self.target.removeprefix(b"http://h").partition(b"?")
        return self.method.decode().upper(), path, query, fields, body


REQUESTS = st.lists(
    st.builds(
        Request,
        METHODS,
        TARGETS,
        st.lists(st.tuples(NAMES, VALUES), max_size=3),
        BODIES,
    ),
    min_size=1,
    max_size=5,
)

FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n",
                b"Host: a\r\n", b"Host: b\r\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n",
                b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"hello",
                b" ", b"\t", b"Transfer-Encoding: chunked\r\n",
                b"Transfer-Encoding: gzip\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n",
                b"0\r\n", b"Connection: close\r\n",
                b"Expect: 100-continue\r\n", b"X: y\r\n", b"X:y\n", b" folded\r\n",
                b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"GET", b" / ", b"HTTP/1.1",
                b":", b"\x16\x03\x01", b"\x00", b"\xff",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ]
        ),
        st.binary(max_size=6),
    ),
    max_size=14,
)  # fmt: skip

SIZES = st.lists(st.integers(1, 60), max_size=40)


def understood(conversation: Conversation) -> list[tuple[Any, ...]]:
    return [
        (
            s.head.method,
            s.head.raw_path,
            s.head.query,
            [field for field in s.head.headers if field[0] in (b"x", b"x-long-name",
                                                               b"accept", b"cookie")],
            s.body,
        )
        for s in conversation.streams
        if s.ended
    ]  # fmt: skip


class Properties(unittest.TestCase):
    @settings(deadline=None, max_examples=200)
    @given(REQUESTS, SIZES, st.booleans())
    def test_requests_are_the_same_however_they_arrive(
        self, requests: list[Request], sizes: list[int], promptly: bool
    ) -> None:
        conversation = Conversation()
        for part in split(b"".join(r.raw for r in requests), sizes):
            conversation.feed(part)
            if promptly:
                conversation.settle()
        conversation.settle()
        self.assertEqual(understood(conversation), [r.meaning for r in requests])
        methods = [stream.head.method for stream in conversation.streams]
        bodies = [
            b"" if method == "HEAD" else b"%d" % number
            for number, method in enumerate(methods, 1)
        ]
        self.assertEqual([a.body for a in conversation.answers(*methods)], bodies)
        self.assertIsNone(conversation.wire.ended)
        self.assertEqual(conversation.reports, [])

    @settings(deadline=None, max_examples=500)
    @given(FRAGMENTS, SIZES, st.booleans())
    def test_anything_is_answered_or_awaited(
        self, fragments: list[bytes], sizes: list[int], promptly: bool
    ) -> None:
        data = b"".join(fragments)
        whole = Conversation()
        whole.feed(data)
        whole.settle()
        parts = Conversation()
        for part in split(data, sizes):
            parts.feed(part)
            if promptly:
                parts.settle()
        parts.settle()
        self.assertEqual(understood(parts), understood(whole))
        for conversation in (whole, parts):
            refused = [report for report in conversation.reports if report[1]]
            self.assertLessEqual(len(refused), 1)
            if refused:
                self.assertIsNotNone(conversation.wire.ended)
            methods = [stream.head.method for stream in conversation.streams]
            for answer in conversation.answers(*methods):
                self.assertTrue(answer.complete)

    @settings(deadline=None, max_examples=200)
    @given(REQUESTS, FRAGMENTS, SIZES)
    def test_nothing_is_served_after_a_refusal(
        self, requests: list[Request], fragments: list[bytes], sizes: list[int]
    ) -> None:
        conversation = Conversation()
        follower = get(b"/smuggled")
        data = b"".join(r.raw for r in requests) + b"\x00\r\n\r\n"
        conversation.feed(*split(data + b"".join(fragments) + follower, sizes))
        conversation.settle()
        self.assertEqual(understood(conversation), [r.meaning for r in requests])
        self.assertEqual(conversation.reports[-1][1], 400)
        self.assertIsNotNone(conversation.wire.ended)


class Life(RuleBasedStateMachine):
    """A connection to which anything happens, in any order.

    The application behaves: it answers each request once, in whatever way. Nothing
    may raise, what is written stays well-formed, and nobody is left waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation(
            timeouts={"headers": 2, "body": 3, "keep_alive": 5, "request": 7}
        )
        self.wire = self.conversation.wire
        self.engine = self.conversation.engine
        self.lost = False
        #: How the response under way goes on: "start", "body", or "trailers".
        self.due = "start"
        self.answering: FakeStream | None = None

    @property
    def stream(self) -> FakeStream | None:
        """Whose turn it is to answer."""
        stream = self.engine.stream
        return stream if isinstance(stream, FakeStream) else None

    @rule(fragments=FRAGMENTS)
    def bytes_arrive(self, fragments: list[bytes]) -> None:
        self.conversation.feed(*fragments)

    @precondition(lambda self: not self.lost)
    @rule(requests=REQUESTS, sizes=SIZES)
    def requests_arrive(self, requests: list[Request], sizes: list[int]) -> None:
        self.conversation.feed(*split(b"".join(r.raw for r in requests), sizes))

    @precondition(lambda self: self.stream and self.stream.untaken)
    @rule()
    def application_takes_body(self) -> None:
        assert self.stream is not None
        self.stream.take()
        self.wire.flush()

    @precondition(lambda self: self.stream)
    @rule()
    def application_waits_for_body(self) -> None:
        self.engine.invite_body()

    @precondition(lambda self: self.stream and not self.stream.answered)
    @rule(
        status=st.sampled_from([200, 204, 304, 404]),
        length=st.sampled_from([None, b"0", b"3", b"100"]),
        body=st.binary(max_size=5),
        more=st.booleans(),
        trailers=st.booleans(),
    )
    def application_starts(
        self,
        status: int,
        length: bytes | None,
        body: bytes,
        more: bool,
        trailers: bool,
    ) -> None:
        stream = self.stream
        assert stream is not None
        trailers = trailers and stream.head.trailers_accepted
        headers = [] if length is None else [(b"content-length", length)]
        self.answering = stream
        try:
            self.engine.start(status, headers, body, more, trailers)
        except IllegalMessage:
            return
        stream.answered = True
        self.trailers = trailers
        self.due = "body" if more else "trailers"

    @precondition(
        lambda self: (
            self.stream and self.stream is self.answering and self.stream.answered
        )
    )
    @rule(body=st.binary(max_size=5), more=st.booleans())
    def application_goes_on(self, body: bytes, more: bool) -> None:
        if self.due == "trailers":
            self.engine.trailers([(b"x", b"y")])
            return
        with contextlib.suppress(IllegalMessage):
            self.engine.body(body, more, self.trailers)
            if not more:
                self.due = "trailers"

    @precondition(lambda self: self.stream)
    @rule()
    def application_fails(self) -> None:
        self.engine.abort()

    @precondition(lambda self: self.wire.ended is None)
    @rule()
    def wire_fills(self) -> None:
        self.wire.writable = False

    @precondition(lambda self: not self.wire.writable and self.wire.ended is None)
    @rule()
    def wire_empties(self) -> None:
        self.wire.writable = True
        self.engine.writable_again()
        self.wire.flush()

    @precondition(lambda self: self.wire.armed)
    @rule()
    def time_passes(self) -> None:
        assert self.wire.armed is not None
        self.wire.expire(self.wire.armed[0])

    @precondition(lambda self: self.wire.ended is None)
    @rule()
    def server_drains(self) -> None:
        self.engine.drain()

    @precondition(lambda self: self.wire.ended is None and not self.lost)
    @rule()
    def client_ends(self) -> None:
        self.engine.receive_eof()

    @precondition(lambda self: not self.lost)
    @rule()
    def connection_is_lost(self) -> None:
        self.lost = True
        self.wire.close()
        self.engine.connection_lost()

    @invariant()
    def one_request_at_a_time(self) -> None:
        for stream in self.conversation.streams[:-1]:
            assert stream.answered or stream.resets, "a request was passed over"

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """Where nothing runs and nothing is armed, the connection has ended."""
        if self.wire.ended or self.stream is not None:
            return
        if self.wire.writable:
            assert self.wire.armed, "an idle connection without a timer"
            assert not self.wire.paused, "an idle connection that does not read"

    def teardown(self) -> None:
        streams = self.conversation.streams
        if not self.lost:
            self.connection_is_lost()
        for stream in streams:
            assert stream.answered or stream.resets or stream.engine.stream is None
        # Every response but the last is complete and well-formed.
        methods = [stream.head.method for stream in streams if stream.answered]
        answers = [a for a in self.conversation.answers(*methods) if a.status >= 200]
        for answer in answers[:-1]:
            assert answer.complete


Life.TestCase.settings = settings(
    deadline=None, max_examples=100, stateful_step_count=25
)


class LifeTests(Life.TestCase):  # type: ignore[misc,name-defined]
    """Life, for a runner that looks for classes."""
