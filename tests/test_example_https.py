"""The example's chat in a real browser over TLS: HTTP/2 alone, its WebSockets too."""

from __future__ import annotations

from typing import Any

from django.test import tag
from playwright.sync_api import expect

from tests.services import require
from tests.test_example_browser import CALM, BrowserTestCase, Window

#: What a response to a WebSocket's handshake has on HTTP/2 (RFC 8441 section 5.1); on
#: HTTP/1.1 it is 101.
OK = 200


class Handshakes:
    """Listens, in one window, to how its WebSockets are opened."""

    def __init__(self, window: Window) -> None:
        page = window.page
        self.statuses: list[int] = []
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.webSocketHandshakeResponseReceived", self._heard)

    def _heard(self, event: dict[str, Any]) -> None:
        self.statuses.append(event["response"]["status"])


class Conversation:
    """What the browser has to see from whichever command speaks TLS."""

    heartbeat = CALM

    def test_two_windows_talk_over_http_2(self) -> None:
        demo, friend = (self.window(None, ignore_https_errors=True) for _ in range(2))
        handshakes = Handshakes(demo)
        demo.log_in("demo")
        friend.log_in("friend")
        demo.write("Is this private?")
        expect(friend.messages).to_have_count(7)
        friend.write("As far as I can see")
        self.assertSaid(["Is this private?", "As far as I can see"], demo, friend)
        self.assertTrue(self.server.url.startswith("https:"))
        # The page, its style and its scripts: all that was not in the browser's cache.
        protocols = demo.page.evaluate(
            """() => [...performance.getEntriesByType("navigation"),
                      ...performance.getEntriesByType("resource")]
                .map((entry) => entry.nextHopProtocol).filter(Boolean)"""
        )
        self.assertEqual(set(protocols), {"h2"})
        self.assertGreater(len(protocols), 1)
        self.assertEqual(handshakes.statuses, [OK])


@tag("browser")
@require("chromium")
class RunasgiTests(Conversation, BrowserTestCase):
    command = "runasgi, TLS"


@tag("browser")
@require("chromium")
class RunserverTests(Conversation, BrowserTestCase):
    command = "runserver --https"
