"""Conversations that nobody wrote down, and what holds at the end of every one.

A client, the applications that answer it, and the wire between them each do what they
may, in any order; a stop comes at any time. Then everybody behaves: the client sends
the rest of what it began and takes all that it is sent, and the applications finish.
After that, whatever went before:

1. Nothing was raised, and nothing armed a timer after the end (the wire sees to it).

2. Each response that was begun is on the wire once, whole, and where it belongs.

3. Nothing of it is left behind: a connection that is to stop ends, and one that is not
   is idle, for KEEP_ALIVE and no longer.

4. Each application has finished, or was told that nobody listens.

Each step is a call of a method of the conversation, so that what Hypothesis prints of a
failure can be given to ``@example`` as it stands.
"""

from __future__ import annotations

import io
import unittest
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import methodcaller
from typing import Any, TypeVar

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_daphne.errors import ProtocolError
from django_daphne.protocol.http1 import LULL
from django_daphne.protocol.http2 import GOAWAY_PAUSE, STREAM_WINDOW
from django_daphne.protocol.status import BODILESS
from django_daphne.protocol.wire import TICK

from . import http2_peer as h2
from . import test_http1_engine as http1
from . import test_http2_engine as http2
from .http2_peer import END_STREAM, ENHANCE_YOUR_CALM, NO_ERROR, PADDED, PREFACE
from .serving import Answer, Reader

#: Conversations of each kind: some five seconds for them. A rare one needs more: what
#: once went wrong and is as rare stands as an example beside them.
EXAMPLES = 400

KEEP_ALIVE = 20.0
HEADERS = 5.0

#: What a response says: where one of its bytes belongs can be seen from those beside.
_TEXT = bytes(range(251)) * 1000

#: To this a WebSocket says goodbye.
_BYE = b"bye"

Step = methodcaller
T = TypeVar("T")


def pick(choices: Sequence[T], which: int) -> T | None:
    """One of what there is, counted from the latest; None where there is nothing."""
    return choices[-1 - which % len(choices)] if choices else None


class Application:
    """Answers one request, and remembers what it said."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.status: int | None = None
        self.said = b""
        #: It has no more to say, or nobody to say it to.
        self.over = False
        self.aborted = False

    @property
    def body(self) -> bytes:
        """What a client is to see of that which was said."""
        pretended = self.stream.head.method == "HEAD" or self.status in BODILESS
        return b"" if pretended else self.said

    def start(self, status: int, size: int, more: bool) -> None:
        self.status, self.over = status, not more
        self.stream.engine.start(status, [], self._words(size), more, False)

    def go_on(self, size: int, more: bool) -> None:
        self.over = not more
        self.stream.engine.body(self._words(size), more)

    def abort(self) -> None:
        self.aborted = self.over = True
        self.stream.engine.abort()

    def finish(self) -> None:
        if self.stream.untaken:
            self.stream.take()
        if self.stream.resets:
            return
        if self.status is None:
            self.start(200, 1, False)
        else:
            self.go_on(0, False)

    def _words(self, size: int) -> bytes:
        begin = len(self.said) % 251
        words = _TEXT[begin : begin + size]
        self.said += words
        return words


class Chat(http2.FakeWebSocket):
    """A WebSocket's engine that leaves when it is told to."""

    closed = False

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data)
        if data == _BYE:
            self.leave()

    def receive_eof(self) -> None:
        self.leave()

    def connection_lost(self) -> None:
        self.closed = True

    def drain(self) -> None:
        self.leave()

    def say(self, size: int) -> None:
        self.wire.write(_TEXT[:size])

    def leave(self) -> None:
        if not self.closed:
            self.closed = True
            self.wire.write(_BYE)
            self.wire.close()


class Talk(ABC):
    """What applications, the wire and time do in a conversation, whatever its version.

    It goes before the class of the version's conversation.
    """

    wire: http1.FakeWire
    engine: Any
    reports: list[Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.applications: list[Application] = []
        self.chats: list[Chat] = []
        self.stopped = False
        super().__init__(*arguments, **options)

    def _begin(self, engine: Any, head: Any) -> Any:
        stream = super()._begin(engine, head)  # type: ignore[misc]
        self.applications.append(Application(stream))
        return stream

    @abstractmethod
    def may_speak(self, application: Application) -> bool: ...

    def speakers(self) -> list[Application]:
        """The applications that still answer somebody."""
        return [
            application
            for application in self.applications
            if not application.over
            and not application.stream.resets
            and self.may_speak(application)
        ]

    # -- The applications --------------------------------------------------------------

    def takes(self, which: int) -> None:
        unread = [one for one in self.speakers() if one.stream.untaken]
        if application := pick(unread, which):
            application.stream.take()

    def invites(self, which: int) -> None:
        if application := pick(self.speakers(), which):
            application.stream.engine.invite_body()

    def starts(self, which: int, status: int, size: int, more: bool) -> None:
        silent = [one for one in self.speakers() if one.status is None]
        if application := pick(silent, which):
            application.start(status, size, more)

    def goes_on(self, which: int, size: int, more: bool) -> None:
        speaking = [one for one in self.speakers() if one.status is not None]
        if application := pick(speaking, which):
            application.go_on(size, more)

    def aborts(self, which: int) -> None:
        speaking = [one for one in self.speakers() if one.status is not None]
        if application := pick(speaking, which):
            application.abort()

    def accepts(self, which: int) -> None:
        asked = [
            one
            for one in self.speakers()
            if one.status is None and one.stream.head.upgrade == b"websocket"
        ]
        if application := pick(asked, which):
            application.over = True
            application.stream.engine.accept([], self._make_chat)

    def finish(self) -> None:
        """Every application takes what has come, and completes its response."""
        while self.wire.ended is None and (speakers := self.speakers()):
            speakers[0].finish()
            self.wire.turns()

    def _make_chat(self, wire: Any) -> Any:
        self.chats.append(Chat(wire))
        return self.chats[-1]

    def chats_on(self, which: int, size: int) -> None:
        if chat := pick([chat for chat in self.chats if not chat.closed], which):
            chat.say(size)

    # -- The wire and the server -------------------------------------------------------

    def fills(self) -> None:
        """The client reads nothing for now."""
        self.wire.writable = False

    def empties(self) -> None:
        if not self.wire.writable:
            self.wire.writable = True
            self.wire.engine.writable_again()
            self.wire.turns()

    def turns(self) -> None:
        self.wire.turns()

    def waits(self, seconds: float) -> None:
        self.wire.wait(seconds)

    def stops(self) -> None:
        self.stopped = True
        self.wire.engine.drain()

    # -- The whole ---------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self.wire.ended is not None:
                break
            step(self)
        self.wire.turns()
        self.behave()
        self.check_responses()
        if self.wire.ended is None:
            assert not self.wire.undelivered, "nobody reads what the client sent"
            self.check_rest()
        # Each WebSocket has heard that its client ended, or is gone.
        assert all(chat.closed for chat in self.chats), "a WebSocket stays"
        self.wire.engine.connection_lost()
        self.wire.turns()
        for application in self.applications:
            assert application.over or application.stream.resets, "it was not told"

    def behave(self) -> None:
        """From here on everybody does what the others wait for."""
        if self.wire.ended is None:
            self.empties()
        if self.wire.ended is None:
            self.send_the_rest()
        self.finish()

    @abstractmethod
    def send_the_rest(self) -> None:
        """Send what completes the requests, and take every response."""

    @abstractmethod
    def check_responses(self) -> None: ...

    @abstractmethod
    def check_rest(self) -> None:
        """The connection lives, and nothing is in progress on it."""

    def check_end(self, seconds: float) -> None:
        self.wire.wait(seconds)
        assert self.wire.ended is not None, f"it lives after {seconds} s"

    def check_idle_end(self) -> None:
        self.check_end(KEEP_ALIVE)
        assert "KEEP_ALIVE" in self.reports[-1][0], self.reports


# -- HTTP/1.1 --------------------------------------------------------------------------


class OverHTTP1(Talk, http1.Conversation):
    """One request after another, of which any number may be sent ahead."""

    #: What the client has begun to send and not sent yet.
    unsent = b""
    #: It has begun a request with an empty line, as is tolerated.
    expected = False
    #: How long the responses were when a WebSocket took the connection.
    switched: int | None = None

    def may_speak(self, application: Application) -> bool:
        return self.engine.stream is application.stream

    # -- The client --------------------------------------------------------------------

    def asks(self, method: bytes, options: Sequence[bytes], share: int) -> None:
        """Begin a request without a body, and send as :meth:`sends_on` does."""
        self.unsent += http1.request(method + b" / HTTP/1.1", b"Host: a", *options)
        self.sends_on(share)

    def posts(self, size: int, chunked: bool, expects: bool, share: int) -> None:
        body = _TEXT[:size]
        options = [b"Expect: 100-continue"] if expects else []
        if chunked:
            options.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n" % (size, body) if size else b""
            body += b"0\r\n\r\n"
        else:
            options.append(b"Content-Length: %d" % size)
        self.unsent += http1.post_raw(*options, body=body)
        self.sends_on(share)

    def sends_on(self, share: int) -> None:
        """Send ``share`` quarters of what was begun."""
        size = len(self.unsent) * share // 4
        data, self.unsent = self.unsent[:size], self.unsent[size:]
        if data:
            self.expected = False
            self.feed(data)

    def is_refused(self) -> None:
        """Ask when there is no room for more."""
        self.refusal = ProtocolError("none today", 503)
        self.asks(b"GET", [], 4)
        self.refusal = None

    def sends_empty_line(self) -> None:
        if not self.unsent:
            self.expected = True
            self.feed(b"\r\n")

    def ends(self) -> None:
        """Close one direction, which is taken for both."""
        self.wire.engine.receive_eof()

    # -- The application ---------------------------------------------------------------

    def _make_chat(self, wire: Any) -> Any:
        self.switched = len(self.wire.written)
        # As an engine does that has a time of its own for everything.
        wire.arm(None, self.turns)
        return super()._make_chat(wire)

    # -- The end -----------------------------------------------------------------------

    def send_the_rest(self) -> None:
        self.sends_on(4)
        if self.chats:
            self.ends()

    def check_responses(self) -> None:
        begun = [one for one in self.applications if one.status is not None]
        methods = iter(one.stream.head.method for one in begun)
        answers = list(self.read_answers(methods))
        for number, application in enumerate(begun, 1):
            assert answers, f"response {number} is missing"
            answer = answers.pop(0)
            assert answer.status == application.status
            if answer.complete:
                assert answer.body == application.body
            else:
                assert application.body.startswith(answer.body)
                assert self.wire.ended is not None and number == len(begun)
        # The only answer of ours that there may be is the last one.
        assert len(answers) <= 1, answers
        assert not answers or self.wire.ended == "linger", answers

    def read_answers(self, methods: Iterator[str]) -> Iterator[Answer]:
        """The responses but for the informational; ``methods`` are the requests'."""
        reader = Reader(io.BytesIO(self.written[: self.switched]).read)
        while not reader.ended():
            answer = reader.read_head()
            if answer.status >= 200:
                reader._read_body(answer, next(methods, "GET"))
                yield answer

    def check_rest(self) -> None:
        assert self.engine.stream is None
        if self.expected or not self.applications:
            # A stop waits for what a client may have begun to ask.
            self.check_end(HEADERS)
            return
        assert self.engine.idle
        if self.stopped:
            self.check_end(LULL + TICK)
        else:
            self.check_idle_end()


# -- HTTP/2 ----------------------------------------------------------------------------


class OverHTTP2(Talk, http2.Conversation):
    """Any number of requests at once, and WebSockets among them."""

    def __init__(self, window: int, **options: Any) -> None:
        greeting = PREFACE + h2.settings(INITIAL_WINDOW_SIZE=window)
        super().__init__(greeting=greeting, **options)
        #: The streams that the client has opened, and those that it has not ended.
        self.opened: list[int] = []
        self.uploads: list[int] = []
        #: Those that it has reset.
        self.left: set[int] = set()
        self.sent: dict[int, int] = {}

    def may_speak(self, application: Application) -> bool:
        return True

    # -- The client --------------------------------------------------------------------

    def asks(self, method: bytes, options: h2.Fields) -> None:
        self._open(h2.request(method, b"/", *options), END_STREAM)

    def posts(self, options: h2.Fields) -> None:
        self._open(h2.request(b"POST", b"/", *options), 0)

    def connects(self, ends: bool) -> None:
        self._open(http2.connect(), END_STREAM if ends else 0)

    def is_refused(self) -> None:
        """Ask when there is no room for more."""
        self.refusal = ProtocolError("none today", 503)
        self.posts([])
        self.refusal = None

    def _open(self, fields: h2.Fields, flags: int) -> None:
        opening = self.peer.open(fields, flags)
        self.opened.append(self.peer.last)
        if not flags & END_STREAM:
            self.uploads.append(self.peer.last)
        self.feed(opening)

    def sends(
        self, which: int, size: int, padding: int | None, ends: bool, pause: float
    ) -> None:
        """Send a piece of a body, or to a WebSocket, with a pause in its midst."""
        id = pick(self.uploads, which)
        payload, flags = _BYE[:size].ljust(size, b"."), 0
        if padding is not None:
            flags |= PADDED
            payload = bytes([padding]) + payload + bytes(padding)
        if id is None or len(payload) > self._room(id):
            return
        self.sent[id] = self.sent.get(id, 0) + len(payload)
        if ends:
            flags |= END_STREAM
            self.uploads.remove(id)
        frame = h2.data(id, payload, flags)
        middle = len(frame) // 2
        self.feed(frame[:middle])
        self.waits(pause)
        self.feed(frame[middle:])

    def _room(self, id: int) -> int:
        """What the server takes of a stream."""
        given = sum(
            one.number for one in self.peer.of(h2.WINDOW_UPDATE) if one.id == id
        )
        return STREAM_WINDOW + given - self.sent.get(id, 0)

    def sends_trailers(self, which: int) -> None:
        if (id := pick(self.uploads, which)) is not None:
            self.uploads.remove(id)
            self.feed(self.peer.headers(id, [(b"a", b"b")], END_STREAM))

    def resets(self, which: int) -> None:
        if (id := pick(self.opened, which)) is not None:
            self.left.add(id)
            if id in self.uploads:
                self.uploads.remove(id)
            self.feed(h2.reset(id))

    def sets_window(self, size: int) -> None:
        """Say what it takes of each stream, which may be less than it took before."""
        self.feed(h2.settings(INITIAL_WINDOW_SIZE=size))

    def takes_more(self, size: int) -> None:
        self.feed(h2.window_update(0, size))

    def takes_more_of(self, which: int, size: int) -> None:
        if (id := pick(self.opened, which)) is not None:
            self.feed(h2.window_update(id, size))

    def prefers(self, which: int, priority: bytes) -> None:
        coming = 2 * len(self.opened) + 1
        if (id := pick([*self.opened, coming], which)) is not None:
            self.feed(h2.priority_update(id, priority))

    def leaves(self) -> None:
        self.feed(h2.goaway())

    # -- The end -----------------------------------------------------------------------

    def send_the_rest(self) -> None:
        self.open_windows()
        for id in self.uploads:
            self.feed(h2.data(id, b"", END_STREAM))

    def check_responses(self) -> None:
        self.hear()
        for frame in self.peer.goaways():
            # A client that takes too little for too long has to go.
            assert frame.code in (NO_ERROR, ENHANCE_YOUR_CALM), frame
        for application in self.applications:
            if application.status is None:
                continue
            stream = application.stream
            response = self.peer.responses[stream.engine.id]
            if response.headers:
                assert response.status == application.status
            assert application.body.startswith(bytes(response.body))
            if self.wire.ended is None and not (
                application.aborted or stream.resets or stream.engine.id in self.left
            ):
                assert response.complete and response.body == application.body

    def check_rest(self) -> None:
        assert not self.engine.exchanges, f"left behind: {self.engine.exchanges}"
        if self.stopped:
            self.check_end(GOAWAY_PAUSE)
        else:
            self.check_idle_end()


# -- What may be done ------------------------------------------------------------------


def step(name: str, **choices: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(name), **choices)


def several(*choices: T) -> st.SearchStrategy[T]:
    return st.sampled_from(choices)


WHICH = st.integers(0, 3)
SIZES = several(5, 0, 3000, 3000, 100_000)
PRIORITIES = several(b"u=0", b"u=5", b"u=7", b"i", b"u=1, i")
SHARE = several(4, 4, 1, 2, 3)
YES_OR_NO = st.booleans()

APPLICATIONS = [
    step("takes", which=WHICH),
    step("invites", which=WHICH),
    step(
        "starts", which=WHICH, status=several(200, 204, 413), size=SIZES, more=YES_OR_NO
    ),
    step("goes_on", which=WHICH, size=SIZES, more=YES_OR_NO),
    step("finish"),
    step("accepts", which=WHICH),
    step("chats_on", which=WHICH, size=SIZES),
]

CIRCUMSTANCES = [
    step("turns"),
    step("fills"),
    step("empties"),
    step("empties"),
    step("waits", seconds=several(0.25, 0.25, 1.0, 4.0)),
]

HTTP1_CLIENT = [
    step(
        "asks",
        method=several(b"GET", b"GET", b"HEAD"),
        options=several(
            [],
            [],
            [b"Upgrade: h2c, foo", b"Connection: upgrade"],
            [b"Upgrade: websocket", b"Connection: upgrade"],
            [b"Connection: close"],
        ),
        share=SHARE,
    ),
    step(
        "posts",
        size=several(0, 1, 500, 70_000, 140_000),
        chunked=YES_OR_NO,
        expects=YES_OR_NO,
        share=SHARE,
    ),
    step("sends_on", share=SHARE),
    step("sends_empty_line"),
]

HTTP1_ENDING = [
    Step("stops"),
    Step("ends"),
    Step("is_refused"),
    Step("aborts", which=0),
]

HTTP2_CLIENT = [
    step(
        "asks",
        method=several(b"GET", b"HEAD"),
        options=st.one_of(
            st.just([]), PRIORITIES.map(lambda value: [(b"priority", value)])
        ),
    ),
    step(
        "posts",
        options=several(
            [],
            [(b"content-length", b"5")],
            [(b"content-length", b"2000")],
            [(b"content-length", b"200000")],
            [(b"expect", b"100-continue")],
        ),
    ),
    step("connects", ends=several(False, False, False, True)),
    step(
        "sends",
        which=WHICH,
        size=several(3, 0, 5, 1000, 16_000),
        padding=several(None, None, 0, 200),
        ends=YES_OR_NO,
        pause=several(0.0, 0.0, 1.0, 4.0),
    ),
    step("sends_trailers", which=WHICH),
    step("resets", which=WHICH),
    step("sets_window", size=several(70_000, 0, 100, 200_000)),
    step("takes_more", size=several(1000, 1, 1_000_000)),
    step("takes_more_of", which=WHICH, size=several(1000, 1, 50_000)),
    step("prefers", which=WHICH, priority=PRIORITIES),
    step("is_refused"),
    step("aborts", which=WHICH),
]

HTTP2_ENDING = [Step("stops"), Step("leaves")]


@st.composite
def conversation(
    draw: st.DrawFn,
    usual: list[st.SearchStrategy[Step]],
    ending: list[Step],
) -> list[Step]:
    """What happens; not much happens after what is ``ending``, so it comes late."""
    # A list of lists is longer than Hypothesis makes a list, and shrinks as well.
    scene = st.lists(st.one_of(*usual, *APPLICATIONS, *CIRCUMSTANCES), max_size=14)
    steps = [*chain(*draw(st.lists(scene, min_size=4, max_size=14)))]
    for end in draw(st.lists(st.sampled_from(ending), max_size=2, unique=True)):
        steps.insert(draw(st.integers(len(steps) // 2, len(steps))), end)
    return steps


#: Conversations are long, and the machine may have other things to do.
thoroughly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Conversations(unittest.TestCase):
    @thoroughly
    @given(
        limits=st.fixed_dictionaries(
            {
                "body_bytes": several(None, 1000, 100_000),
                "minimum_rate": several(None, 100),
            }
        ),
        timeouts=st.fixed_dictionaries(
            {
                "body": several(30.0, 3.0),
                "keep_alive": several(KEEP_ALIVE, 0.25),
                "request": several(None, None, 5.0),
            }
        ),
        steps=conversation(HTTP1_CLIENT, HTTP1_ENDING),
    )
    def test_over_http1(
        self, limits: dict[str, Any], timeouts: dict[str, Any], steps: list[Step]
    ) -> None:
        timeouts = {"headers": HEADERS, **timeouts}
        OverHTTP1(limits=limits, timeouts=timeouts).run(steps)

    # A client leaves, a stop comes, and all that is left is a body that nobody wants.
    @example(
        window=65_535,
        limits={},
        timeouts={},
        steps=[
            Step("posts", options=[]),
            Step("starts", which=0, status=200, size=5, more=False),
            Step("leaves"),
            Step("stops"),
        ],
    )
    # A request ends after it was refused, and before its client takes the refusal.
    @example(
        window=0,
        limits={"body_bytes": 1000},
        timeouts={},
        steps=[
            Step("posts", options=[(b"content-length", b"2000")]),
            Step("sends_trailers", which=0),
        ],
    )
    # What makes us end a WebSocket comes in the frame that ends it.
    @example(
        window=65_535,
        limits={},
        timeouts={},
        steps=[
            Step("connects", ends=False),
            Step("accepts", which=0),
            Step("sends", which=0, size=3, padding=None, ends=True, pause=0.0),
        ],
    )
    @thoroughly
    @given(
        window=several(65_535, 65_535, 0, 10, 200_000),
        limits=st.fixed_dictionaries(
            {
                "body_bytes": several(None, 1000, 100_000),
                "minimum_rate": several(None, 100),
                "streams": several(100, 3),
            }
        ),
        timeouts=st.fixed_dictionaries(
            {
                "body": several(None, 3.0),
                "request": several(None, 5.0),
                "write": several(None, 4.0),
            }
        ),
        steps=conversation(HTTP2_CLIENT, HTTP2_ENDING),
    )
    def test_over_http2(
        self,
        window: int,
        limits: dict[str, Any],
        timeouts: dict[str, Any],
        steps: list[Step],
    ) -> None:
        timeouts = {"headers": HEADERS, "keep_alive": KEEP_ALIVE, **timeouts}
        OverHTTP2(window, limits=limits, timeouts=timeouts).run(steps)
