"""The example project in a real browser, as two people at two windows use it."""

from __future__ import annotations

import json
import os
import signal
import urllib.parse
from collections.abc import Callable
from typing import Any, ClassVar

from django.test import SimpleTestCase, tag
from playwright.sync_api import (
    Browser,
    Locator,
    Page,
    Playwright,
    WebSocketRoute,
    expect,
    sync_playwright,
)

from tests.example_server import PATIENCE, ExampleServer, seeded
from tests.services import find, require

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

#: Seconds between signs of life: short, so that a crash is noticed within a test.
HEARTBEAT = "1"

#: Where nothing has to be noticed, a busy machine is not taken for one that has died.
CALM = "60"

ROOM = "/rooms/lobby/"

#: Bytes of an upload that is followed, and how many of them leave in a second until
#: what is to be seen meanwhile has been seen.
UPLOAD = 1_200_000
SLOW = UPLOAD / PATIENCE


class Window:
    """A browser window in which somebody is logged in and in the lobby."""

    def __init__(self, page: Page, server: ExampleServer) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def log_in(self, name: str) -> None:
        self.page.goto(self.server.url + ROOM)
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", name)
        self.page.press("#id_password", "Enter")
        self.wait_for_connection()

    def wait_for_connection(self, state: str = "open") -> None:
        self.page.wait_for_selector(f"#connection[data-state={state}]")

    def write(self, *texts: str) -> None:
        for text in texts:
            self.page.fill("#text", text)
            self.page.press("#text", "Enter")

    @property
    def messages(self) -> Locator:
        return self.page.locator("#messages .text")

    @property
    def pending(self) -> Locator:
        return self.page.locator("#pending .text")

    @property
    def people(self) -> Locator:
        return self.page.locator("#people li span:last-child")

    def said(self) -> list[str]:
        """Everything on the screen after the messages of the seed."""
        return self.messages.all_inner_texts()[6:]

    def newer(self) -> Window:
        """Another window of the same person, in the same browser."""
        window = Window(self.page.context.new_page(), self.server)
        window.page.goto(self.server.url + ROOM)
        window.wait_for_connection()
        return window


def everything(content: dict[str, Any]) -> bool:
    return True


class Wire:
    """Between a window and the server; loses what ``carries`` says no to.

    What it carries, it delivers so many ``times``, in both directions.
    """

    def __init__(self) -> None:
        self.times = 1
        self.carries: Callable[[dict[str, Any]], bool] = everything

    def __call__(self, page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        page.on_message(lambda frame: self.carry(frame, server))
        server.on_message(lambda frame: self.carry(frame, page))

    def carry(self, frame: str | bytes, end: WebSocketRoute) -> None:
        if self.carries(json.loads(frame)):
            for _ in range(self.times):
                end.send(frame)


class BrowserTestCase(SimpleTestCase):
    command: ClassVar[str]
    heartbeat: ClassVar[str] = HEARTBEAT
    playwright: ClassVar[Playwright]
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        expect.set_options(timeout=PATIENCE * 1000)
        cls.playwright = cls.enterClassContext(sync_playwright())
        cls.browser = cls.playwright.chromium.launch(
            executable_path=find("chromium"), args=ARGUMENTS, timeout=PATIENCE * 1000
        )
        cls.addClassCleanup(cls.browser.close)

    def setUp(self) -> None:
        self.server = seeded(
            self.command, self.addCleanup, CHAT_HEARTBEAT=self.heartbeat
        )

    def window(self, name: str | None = "demo", **options: Any) -> Window:
        context = self.browser.new_context(locale="en-GB", **options)
        self.addCleanup(context.close)
        window = Window(context.new_page(), self.server)
        # Cleanups run last to first: before the context is closed.
        self.addCleanup(lambda: self.assertEqual(window.errors, []))
        if name is not None:
            window.log_in(name)
        return window

    def assertSaid(self, texts: list[str], *windows: Window) -> None:
        """Each window comes to show exactly these, in this order, and keeps to it."""
        for window in windows:
            expect(window.pending).to_have_count(0)
            expect(window.messages).to_have_count(6 + len(texts))
            self.assertEqual(window.said(), texts)


class Conversations:
    """What has to work under every command that serves the example."""

    def test_two_windows_talk(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        demo.write("Hello")
        expect(friend.messages).to_have_count(7)
        friend.write("Hello yourself", "Nice here")
        expect(demo.messages).to_have_count(9)
        demo.write("<b>Is it?</b> See http://localhost/x.")
        said = [
            "Hello",
            "Hello yourself",
            "Nice here",
            "<b>Is it?</b> See http://localhost/x.",
        ]
        self.assertSaid(said, demo, friend)
        link = friend.page.locator("#messages a").last
        expect(link).to_have_attribute("href", "http://localhost/x")
        # A screen reader hears what others say, with their names.
        self.assertEqual(
            demo.page.locator("#announcements p").all_inner_texts(),
            ["friend: Hello yourself", "friend: Nice here"],
        )

    def test_a_reload_in_the_middle(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        demo.write("One", "Two")
        expect(friend.messages).to_have_count(8)
        friend.page.reload(wait_until="commit")
        demo.write("Three", "Four")
        friend.wait_for_connection()
        # What two people write at the same time may come in either order.
        expect(demo.messages).to_have_count(10)
        friend.write("Five")
        expect(demo.messages).to_have_count(11)
        demo.page.reload()
        demo.wait_for_connection()
        self.assertSaid(["One", "Two", "Three", "Four", "Five"], demo, friend)

    def test_the_server_is_killed_and_started_again(self) -> None:
        self.restart_in_the_middle(self.server.kill)

    def test_the_server_is_stopped_and_started_again(self) -> None:
        self.restart_in_the_middle(lambda: self.server.stop(signal.SIGTERM))

    def restart_in_the_middle(self, stop: Any) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        before = [f"Before {number}" for number in range(5)]
        # The server goes while these are on their way, or not yet, or already back.
        demo.write(*before)
        stop()
        demo.wait_for_connection("lost")
        friend.wait_for_connection("lost")
        demo.write("While it is down", "Still down")
        friend.write("Down here, too")
        expect(demo.pending.last).to_have_text("Still down")
        expect(friend.page.locator("#pending .reason")).to_have_text(
            "Waiting for the connection"
        )
        self.server.start()
        demo.wait_for_connection()
        friend.wait_for_connection()
        expect(demo.messages).to_have_count(14)
        demo.write("After")
        expect(friend.messages).to_have_count(15)
        expect(demo.messages).to_have_count(15)
        said = demo.said()
        self.assertSaid(said, demo, friend)
        self.assertCountEqual(
            said,
            [*before, "While it is down", "Still down", "Down here, too", "After"],
        )
        of_demo = [text for text in said if text != "Down here, too"]
        self.assertEqual(of_demo, [*before, "While it is down", "Still down", "After"])
        demo.page.reload()
        demo.wait_for_connection()
        self.assertSaid(said, demo)

    def test_an_answer_that_is_lost_makes_no_second_message(self) -> None:
        demo, wire = self.wired_window()
        friend = self.window("friend")
        # A heartbeat makes the window ask for what it missed: that is lost as well.
        wire.carries = lambda content: content["type"] not in ("message", "history")
        demo.write("Did you get this?")
        expect(friend.messages).to_have_count(7)
        expect(demo.pending).to_have_count(1)
        wire.carries = everything
        demo.page.reload()
        demo.wait_for_connection()
        self.assertSaid(["Did you get this?"], demo, friend)

    def test_what_never_left_survives_a_reload(self) -> None:
        demo, wire = self.wired_window()
        friend = self.window("friend")
        wire.carries = lambda content: content["type"] != "send"
        demo.write("Wait", "for me")
        expect(demo.pending).to_have_count(2)
        wire.carries = everything
        demo.page.reload()
        demo.wait_for_connection()
        self.assertSaid(["Wait", "for me"], demo, friend)

    def test_what_gets_lost_is_missed_and_asked_for(self) -> None:
        demo, wire = self.wired_window()
        friend = self.window("friend")
        lost = ["One"]
        wire.carries = lambda content: (
            not (content["type"] == "message" and content["message"]["text"] in lost)
        )
        friend.write("One", "Two", "Three")
        self.assertSaid(["One", "Two", "Three"], demo)
        # Nothing follows the fourth but a heartbeat.
        lost.append("Four")
        friend.write("Four")
        self.assertSaid(["One", "Two", "Three", "Four"], demo)

    def test_what_is_told_twice_is_said_once(self) -> None:
        demo, wire = self.wired_window()
        friend = self.window("friend")
        wire.times = 2
        wire.carries = lambda content: content.get("message", {}).get("text") != "One"
        friend.write("One", "Two")
        expect(demo.messages).to_have_count(8)
        demo.write("Three", "Four")
        self.assertSaid(["One", "Two", "Three", "Four"], demo, friend)

    def wired_window(self) -> tuple[Window, Wire]:
        window, wire = self.window(None), Wire()
        window.page.route_web_socket("**/ws/**", wire)
        window.log_in("demo")
        return window, wire

    def test_who_is_here(self) -> None:
        demo = self.window("demo")
        expect(demo.people).to_have_text(["demo (you)"])
        friend = self.window("friend")
        expect(demo.people).to_have_text(["demo (you)", "friend"])
        twin = friend.newer()
        expect(twin.people).to_have_text(["demo", "friend (you)"])
        friend.page.close()
        # The twin is still here; a message tells us that the news has passed.
        twin.write("I am two")
        expect(demo.messages).to_have_count(7)
        expect(demo.people).to_have_text(["demo (you)", "friend"])
        twin.page.close()
        expect(demo.people).to_have_text(["demo (you)"])
        expect(demo.page.locator("#people-count")).to_have_text("1")

    def test_who_leaves_while_the_server_is_down_is_gone(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        expect(demo.people).to_have_text(["demo (you)", "friend"])
        self.server.kill()
        friend.page.close()
        self.server.start()
        demo.wait_for_connection()
        expect(demo.people).to_have_text(["demo (you)"])

    def test_an_upload_shows_its_progress(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        network = demo.page.context.new_cdp_session(demo.page)
        network.send("Network.enable")

        def upload_at_most(bytes_per_second: float) -> None:
            network.send(
                "Network.emulateNetworkConditions",
                {
                    "offline": False,
                    "latency": 0,
                    "downloadThroughput": -1,
                    "uploadThroughput": bytes_per_second,
                },
            )

        upload_at_most(SLOW)
        demo.page.evaluate(
            """() => {
                window.seen = [];
                new MutationObserver(() => {
                    const bar = document.querySelector("#files progress");
                    if (bar && !bar.hidden) seen.push(bar.value);
                }).observe(document.querySelector("#files"), {
                    attributes: true, childList: true, subtree: true,
                });
            }"""
        )
        content = os.urandom(UPLOAD)
        demo.page.set_input_files(
            "#file", {"name": "noise.bin", "mimeType": "text/html", "buffer": content}
        )
        demo.page.fill("#text", "Listen")
        demo.page.press("#text", "Enter")
        expect(demo.page.locator("#complaint")).to_contain_text("Wait for the upload")
        demo.page.wait_for_function(
            "() => new Set(seen.filter((v) => 0 < v && v < 100)).size > 2"
        )
        upload_at_most(-1)
        expect(demo.page.locator("#files .done .state")).to_have_text("1.1 MB")
        expect(demo.page.locator("#upload-status")).to_have_text(
            "noise.bin is uploaded."
        )
        seen = demo.page.evaluate("window.seen")
        self.assertEqual(seen, sorted(seen))
        demo.page.press("#text", "Enter")
        link = friend.page.locator("#messages a.file")
        expect(link).to_contain_text("noise.bin")
        with friend.page.expect_download() as download:
            link.click()
        self.assertEqual(download.value.suggested_filename, "noise.bin")
        self.assertEqual(download.value.path().read_bytes(), content)
        self.assertSaid(["Listen"], demo, friend)

    def test_the_clock_ticks_and_goes_on_after_a_restart(self) -> None:
        page = self.window().page
        clock = page.locator("#clock.live")
        for _ in range(2):
            before = clock.inner_text()
            self.assertRegex(before, r"^\d\d:\d\d:\d\d$")
            expect(clock).not_to_have_text(before)
        self.server.kill()
        expect(page.locator("#clock:not(.live)")).to_have_count(1)
        self.server.start()
        expect(clock).not_to_have_text(before)

    def test_the_newest_message_is_offered_to_who_reads_older_ones(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        friend.write(*(f"Line {number}" for number in range(60)))
        expect(demo.messages.last).to_have_text("Line 59")
        demo.page.reload()
        demo.wait_for_connection()
        demo.page.click("#earlier")
        expect(demo.messages).to_have_count(66)
        expect(demo.page.locator("#earlier")).to_be_hidden()
        friend.write("Look here")
        demo.page.click("#newest")
        expect(demo.messages.last).to_be_in_viewport()
        self.assertSaid([*(f"Line {n}" for n in range(60)), "Look here"], demo)


@tag("browser")
@require("chromium")
class RunserverTests(Conversations, BrowserTestCase):
    command = "runserver"


@tag("browser")
@require("chromium")
class RunasgiTests(Conversations, BrowserTestCase):
    command = "runasgi"


@tag("browser")
@require("chromium")
class HTTP2Tests(BrowserTestCase):
    command = "runasgi, TLS"
    heartbeat = CALM

    def test_two_windows_talk(self) -> None:
        demo, friend = (
            self.window(name, ignore_https_errors=True) for name in ("demo", "friend")
        )
        demo.write("Hello")
        expect(friend.messages).to_have_count(7)
        friend.write("Hello yourself")
        self.assertSaid(["Hello", "Hello yourself"], demo, friend)
        # All that was not in the browser's cache.
        protocols = demo.page.evaluate(
            "[...performance.getEntriesByType('navigation'),"
            " ...performance.getEntriesByType('resource')]"
            ".map((entry) => entry.nextHopProtocol).filter(Boolean)"
        )
        self.assertEqual(set(protocols), {"h2"})
        self.assertGreater(len(protocols), 1)
        # What a browser does not tell of its WebSockets the access log does.
        self.server.wait_for(r'"WSCONNECT /\S+ HTTP/2" 200')
        self.assertNotIn("HTTP/1.1", self.server.output)


@tag("browser")
@require("chromium")
class PageTests(BrowserTestCase):
    """What depends on the pages and not on who serves them."""

    command = "runasgi"

    def focus_is_visible(self, page: Page) -> bool:
        return page.evaluate(
            """() => {
                const shown = (element, pseudo) => {
                    const style = element && getComputedStyle(element, pseudo);
                    return style && style.outlineStyle !== "none"
                        && parseFloat(style.outlineWidth) > 0;
                };
                const element = document.activeElement;
                // Between the last control and the first, the focus is the browser's.
                if (element === document.body) return true;
                return shown(element) || shown(element, "::after")
                    || shown(element.nextElementSibling);
            }"""
        )

    def tab_to(self, page: Page, selector: str) -> None:
        """Press Tab until the element has the focus; whatever has it, shows it."""
        for _ in range(20):
            page.keyboard.press("Tab")
            self.assertTrue(
                self.focus_is_visible(page),
                page.evaluate("document.activeElement.outerHTML.slice(0, 80)"),
            )
            if page.locator(selector).evaluate("e => e === document.activeElement"):
                return
        self.fail(f"Tab does not lead to {selector}")

    def test_without_a_mouse(self) -> None:
        window = self.window(None)
        page = window.page
        # Listened for from the beginning, since listening takes the browser a moment.
        page.on("filechooser", lambda chooser: None)
        page.goto(self.server.url + "/")
        # The page gives it the focus, but not before it has been drawn.
        expect(page.locator("#id_username")).to_be_focused()
        page.keyboard.type("demo")
        self.tab_to(page, "#id_password")
        page.keyboard.type("demo")
        page.keyboard.press("Enter")
        page.wait_for_url(self.server.url + "/")

        self.tab_to(page, ".skip")
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        self.tab_to(page, ".rooms a")
        page.keyboard.press("Enter")
        window.wait_for_connection()

        # The box has the focus already; the way to it is short all the same.
        expect(page.locator("#text")).to_be_focused()
        page.keyboard.type("One line")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("and another")
        page.keyboard.press("Enter")
        self.assertSaid(["One line\nand another"], window)

        page.keyboard.press("Shift+Tab")
        expect(page.locator("#file")).to_be_focused()
        self.assertTrue(self.focus_is_visible(page))
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(
            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"abc"}
        )
        expect(page.locator("#files .done")).to_have_count(1)
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name="Remove a.txt")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#files li")).to_have_count(0)
        expect(page.locator("#text")).to_be_focused()

        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        expect(page.locator("#log")).to_be_focused()
        self.assertTrue(self.focus_is_visible(page))

        page.reload()
        window.wait_for_connection()
        # Which takes the focus a last time by itself.
        expect(page.locator("#text")).to_be_focused()
        self.tab_to(page, ".skip")
        page.keyboard.press("Enter")
        expect(page.locator("#text")).to_be_focused()

    def test_every_control_has_a_name(self) -> None:
        page = self.window().page
        for path in (ROOM, "/"):
            page.goto(self.server.url + path)
            nameless = page.evaluate(
                """() => [...document.querySelectorAll(
                    "button, a, textarea, input:not([type=hidden])"
                )].filter((element) => !(
                    element.getAttribute("aria-label") || element.labels?.length
                    || element.textContent.trim()
                )).map((element) => element.outerHTML)"""
            )
            self.assertEqual(nameless, [])
        page.goto(self.server.url + ROOM)
        self.assertEqual(
            page.locator("#announcements").get_attribute("aria-live"), "polite"
        )

    def test_light_and_dark_can_be_read(self) -> None:
        """Every text has the contrast that WCAG 2.1 asks for, 4.5 to 1."""
        for count, scheme in enumerate(("light", "dark"), 7):
            window = self.window(color_scheme=scheme)
            window.write("Mine, with http://localhost/ in it")
            expect(window.messages).to_have_count(count)
            for path in (ROOM, "/"):
                window.page.goto(self.server.url + path)
                if path == ROOM:
                    window.wait_for_connection()
                for text, contrast in window.page.evaluate(CONTRASTS):
                    with self.subTest(scheme=scheme, path=path, text=text):
                        self.assertGreaterEqual(contrast, 4.5)

    def test_a_phone_needs_no_sideways_scrolling(self) -> None:
        window = self.window(viewport={"width": 360, "height": 640})
        window.write("a" * 300)
        window.page.set_input_files(
            "#file",
            {
                "name": "n" * 100 + ".txt",
                "mimeType": "text/plain",
                "buffer": b"abc",
            },
        )
        expect(window.page.locator("#files .done")).to_have_count(1)
        window.page.press("#text", "Enter")
        expect(window.page.locator("#messages a.file")).to_have_count(1)
        for element in ("html", "#log"):
            widths = window.page.locator(element).evaluate(
                "e => [e.scrollWidth, e.clientWidth]"
            )
            self.assertEqual(widths[0], widths[1], element)
        expect(window.page.locator("#text")).to_be_in_viewport()

    def test_pictures_are_shown(self) -> None:
        demo, friend = self.window("demo"), self.window("friend")
        demo.page.set_input_files(
            "#file", {"name": "dot.gif", "mimeType": "text/plain", "buffer": DOT}
        )
        expect(demo.page.locator("#files .done")).to_have_count(1)
        demo.page.press("#text", "Enter")
        picture = friend.page.locator("#messages img[alt='dot.gif']")
        expect(picture).to_be_visible()
        expect(picture).to_have_js_property("naturalWidth", 1)

    def test_a_file_that_is_too_large_is_not_even_sent(self) -> None:
        page = self.window().page
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.method))
        page.evaluate(
            """() => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(11e6)], "large.bin"));
                const input = document.querySelector("#file");
                input.files = files.files;
                input.dispatchEvent(new Event("change"));
            }"""
        )
        expect(page.locator("#complaint")).to_have_text(
            "large.bin is larger than 10 MB."
        )
        self.assertNotIn("POST", requests)

    def test_an_interrupted_upload_can_be_tried_again(self) -> None:
        window = self.window()
        self.server.kill()
        window.wait_for_connection("lost")
        window.page.set_input_files(
            "#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"abc"}
        )
        retry = window.page.get_by_role("button", name="Retry")
        expect(retry).to_be_visible()
        self.server.start()
        window.wait_for_connection()
        retry.click()
        expect(window.page.locator("#files .done")).to_have_count(1)
        window.page.press("#text", "Enter")
        expect(window.page.locator("#messages a.file")).to_have_text("a.txt3 bytes")

    def test_what_is_refused_is_given_back(self) -> None:
        demo = self.window()
        demo.page.evaluate("document.querySelector('#text').maxLength = 9999")
        demo.write("x" * 2001)
        expect(demo.page.locator("#pending .reason")).to_have_text(
            "A message has at most 2000 characters."
        )
        demo.write("Short")
        expect(demo.messages).to_have_count(7)
        demo.page.get_by_role("button", name="Discard").click()
        self.assertSaid(["Short"], demo)

    def test_logging_out_in_one_window_leads_the_other_to_the_login(self) -> None:
        one = self.window()
        two = one.newer()
        two.page.get_by_role("button", name="Log out").click()
        one.page.wait_for_url("**/login/**")
        query = urllib.parse.urlsplit(one.page.url).query
        self.assertEqual(urllib.parse.parse_qs(query), {"next": [ROOM]})

    def test_waiting_can_be_cut_short(self) -> None:
        window = self.window()
        self.server.kill()
        window.wait_for_connection("lost")
        # As after many attempts, when the next one is far away.
        self.server.start()
        window.page.evaluate("document.querySelector('#connect-now').click()")
        window.wait_for_connection()
        expect(window.page.locator("#text")).to_be_focused()


#: The smallest picture there is: one transparent dot.
DOT = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002014400"
    "3b"
)

#: For each text on the page, the ratio between its colour and what is behind it.
CONTRASTS = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((c) => {
            c /= 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour[3] !== 0) return colour;
        }
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
        const own = [...element.childNodes].some(
            (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()
        );
        if (!own || !element.checkVisibility({ visibilityProperty: true })) continue;
        if (element.tagName === "SCRIPT" || element.tagName === "NOSCRIPT") continue;
        const one = light(parse(getComputedStyle(element).color));
        const other = light(behind(element));
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        found.push([element.textContent.trim().slice(0, 40), ratio]);
    }
    return found;
}"""
