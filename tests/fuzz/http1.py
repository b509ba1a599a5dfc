"""HTTP/1.1: one head, and whole conversations."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from django_daphne.errors import ProtocolError
from django_daphne.protocol.http1 import (
    BODY_HIGH_WATER,
    PIPELINE_HIGH_WATER,
    Head,
    HTTP1Engine,
    read_request_line,
)

from .. import test_http1_engine as given
from ..serving import Reader
from . import cuttings
from .chunked import plain

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE = re.compile(rb"([!-~]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")

#: A request whose body nobody has read the end of must not be mistaken for the next.
_NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

LIMITS = {"request_line": 300, "header_bytes": 1000, "header_count": 12}


class Conversation(given.Conversation):
    """One that takes offence at a request after the end."""

    def _begin(self, engine: HTTP1Engine, head: Head) -> given.FakeStream:
        assert self.wire.ended is None, "a request was begun after the end"
        return super()._begin(engine, head)

    def check(self) -> None:
        """What holds at any time."""
        engine = self.engine
        largest = max(map(len, self.wire_parts), default=0)
        assert len(engine._pending) <= PIPELINE_HIGH_WATER + largest
        for stream in self.streams:
            assert stream.untaken <= BODY_HIGH_WATER + largest
        refusals = [report for report in self.reports if report[1]]
        assert len(refusals) <= 1, refusals
        if refusals:
            assert self.wire.ended is not None

    wire_parts: list[bytes]

    def run(self, parts: list[bytes], *, early: bool = False) -> Conversation:
        """``early``: requests are answered before their bodies have come."""
        self.wire_parts = parts
        for part in parts:
            self.feed(part)
            self.check()
            if early:
                self.answer_early()
        if not early:
            self.settle()
        self.check()
        # However it has ended so far, its end is survived.
        self.heads = [outline(stream) for stream in self.streams]
        self.requests = [
            (outline(stream), stream.body) for stream in self.streams if stream.ended
        ]
        self.engine.connection_lost()
        return self

    def answer_early(self) -> None:
        while True:
            self.wire.flush()
            stream = self.engine.stream
            if not isinstance(stream, given.FakeStream) or stream.answered:
                return
            stream.answer(200, [], b"a", b"b")


def outline(stream: given.FakeStream) -> tuple[object, ...]:
    head = stream.head
    return (
        head.method, head.path, head.raw_path, head.query, head.http_version,
        tuple(head.headers), head.length, head.keep_alive, head.upgrade,
        head.expect_continue, head.trailers_accepted,
    )  # fmt: skip


def conversation(data: bytes) -> None:
    """Anything that a client can send."""
    whole = Conversation(LIMITS).run([data])
    _check_answers(whole)
    expected = list(_walk(data, len(whole.requests)))
    assert [body for _, body in whole.requests] == expected
    for parts in cuttings(data):
        other = Conversation(LIMITS).run(parts)
        assert other.heads == whole.heads, (parts, other.heads, whole.heads)
        assert other.requests == whole.requests, parts
        assert bool(other.wire.ended) == bool(whole.wire.ended), parts
        assert len(other.reports) == len(whole.reports), (other.reports, parts)
        _check_answers(other)
        hasty = Conversation(LIMITS).run(parts, early=True)
        assert hasty.heads == whole.heads[: len(hasty.heads)], (parts, hasty.heads)
        _check_answers(hasty)


def _check_answers(conversation: Conversation) -> None:
    """Everything written is a response, in order, none of them cut short."""
    source = io.BytesIO(conversation.written)
    reader = Reader(source.read)
    methods = iter([stream.head.method for stream in conversation.streams])
    while not reader.ended():
        answer = reader.read_head()
        if answer.status >= 200:
            reader._read_body(answer, next(methods, "GET"))
        assert answer.complete or answer.status == 100, answer


def _walk(data: bytes, count: int) -> Iterator[bytes]:
    """The bodies of the first ``count`` messages, framed by the letter of RFC 9112."""
    for _ in range(count):
        data = data.lstrip(b"\r\n")
        head, end, data = data.partition(b"\r\n\r\n")
        assert end
        line, *fields = head.split(b"\r\n")
        match = _LINE.fullmatch(line)
        assert match and _TOKEN.fullmatch(match[1]), line
        lengths, codings, hosts = [], [], 0
        for field in fields:
            match = _FIELD.fullmatch(field)
            assert match, field
            name, value = match[1].lower(), match[2].strip(b" \t")
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value)
            hosts += name == b"host"
        assert len(lengths) + len(codings) <= 1 and hosts <= 1
        if codings:
            assert codings[0].lower() == b"chunked"
            body, data = plain(data)
            yield body
        else:
            size = int(lengths[0]) if lengths else 0
            assert size <= len(data)
            yield data[:size]
            data = data[size:]


def head(data: bytes) -> None:
    """One head, whatever is wrong with it, and a request behind it."""
    line, _, section = data.partition(b"\n")
    try:
        read_request_line(line)
    except ProtocolError as error:
        assert 400 <= error.status < 600
    message = data.rstrip(b"\r\n") + b"\r\n\r\n"
    alone = Conversation(LIMITS).run([message])
    followed = Conversation(LIMITS).run([message + _NEXT])
    assert followed.heads[: len(alone.heads)] == alone.heads
    served = followed.requests and followed.requests[-1][0][2] == b"/next"
    if served and data.strip(b"\r\n"):
        # It is served only behind a request that was read to its end.
        assert alone.wire.ended is None and alone.streams[-1].ended
    # The section alone, with a request line that is nothing to be refused for.
    conversation(b"POST / HTTP/1.1\r\n" + section.rstrip(b"\r\n") + b"\r\n\r\n" + _NEXT)
