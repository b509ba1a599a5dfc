import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client, TransactionTestCase, override_settings

from example_project.asgi import application
from example_project.chat import history
from example_project.chat.models import Message, Presence, Room

#: Seconds that an answer may take, on a machine that is busy with other things.
PATIENCE = 30


class Socket(ApplicationCommunicator):
    """The browser's end of a WebSocket.

    Channels has one of these, in a package that cannot be imported without daphne.
    """

    def __init__(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
        }
        super().__init__(application, scope)
        self.kept: list[dict[str, Any]] = []

    async def connect(self) -> bool:
        await self.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(timeout=PATIENCE)
        return answer["type"] == "websocket.accept"

    async def say(self, content: dict[str, Any] | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        await self.send_input({"type": "websocket.receive", "text": text})

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this kind; other kinds are kept for later."""
        for content in self.kept:
            if content["type"] == kind:
                self.kept.remove(content)
                return content
        while True:
            event = await self.receive_output(timeout=PATIENCE)
            content = json.loads(event["text"])
            if content["type"] == kind:
                return content
            self.kept.append(content)

    async def closing_code(self) -> int:
        """The code that we are closed with, whatever is said before."""
        while (event := await self.receive_output(timeout=PATIENCE))["type"] != (
            "websocket.close"
        ):
            pass
        return event["code"]

    async def disconnect(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.wait(timeout=PATIENCE)


class ConsumerTests(TransactionTestCase):
    def setUp(self) -> None:
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.ann = User.objects.create_user("ann")
        self.bob = User.objects.create_user("bob")

    def socket(
        self, user: User | None, slug: str = "lobby", origin: str = ""
    ) -> Socket:
        browser = Client()
        if user is not None:
            browser.force_login(user)
        cookies = "; ".join(f"{k}={v.value}" for k, v in browser.cookies.items())
        headers = [
            (b"host", b"testserver"),
            (b"origin", (origin or "http://testserver").encode()),
            (b"cookie", cookies.encode()),
        ]
        return Socket(f"/ws/rooms/{slug}/", headers)

    @asynccontextmanager
    async def tab(self, user: User, after: int = 0) -> AsyncIterator[Socket]:
        socket = await sync_to_async(self.socket)(user)
        self.assertTrue(await socket.connect())
        try:
            await socket.say({"type": "hello", "after": after})
            await socket.hear("history")
            yield socket
        finally:
            await socket.disconnect()

    async def test_a_message_reaches_everybody(self) -> None:
        async with self.tab(self.ann) as ann, self.tab(self.bob) as bob:
            message = said("Hello")
            await ann.say(message)
            for socket in (ann, bob):
                heard = (await socket.hear("message"))["message"]
                self.assertEqual(heard["text"], "Hello")
                self.assertEqual(heard["author"]["name"], "ann")
                self.assertEqual(heard["id"], message["id"])
                self.assertEqual(heard["number"], 1)

    async def test_sent_twice_is_said_once(self) -> None:
        async with self.tab(self.ann) as ann, self.tab(self.bob) as bob:
            message = said("Hello")
            await ann.say(message)
            await ann.say(message)
            first = await ann.hear("message")
            self.assertEqual(await ann.hear("message"), first)
            await ann.say(said("Next"))
            texts = [(await bob.hear("message"))["message"]["text"] for _ in range(2)]
            self.assertEqual(texts, ["Hello", "Next"])
        self.assertEqual(await Message.objects.acount(), 2)

    async def test_who_comes_back_is_told_what_was_missed(self) -> None:
        for text in ("1", "2", "3"):
            await sync_to_async(history.post)(
                self.room.pk, self.bob.pk, uuid.uuid4(), text
            )
        async with self.tab(self.ann) as ann:
            await ann.say({"type": "hello", "after": 1})
            missed = await ann.hear("history")
        self.assertEqual([m["text"] for m in missed["messages"]], ["2", "3"])
        self.assertEqual(missed["last"], 3)
        self.assertFalse(missed["more"])

    async def test_who_is_here(self) -> None:
        async with self.tab(self.bob) as bob:
            self.assertEqual(await self.people_after(bob), ["bob"])
            async with self.tab(self.ann), self.tab(self.ann):
                self.assertEqual(await self.people_after(bob), ["ann", "bob"])
                self.assertEqual(await self.people_after(bob), ["ann", "bob"])
            self.assertEqual(await self.people_after(bob), ["ann", "bob"])
            self.assertEqual(await self.people_after(bob), ["bob"])
        self.assertEqual(await Presence.objects.acount(), 0)

    async def people_after(self, socket: Socket) -> list[str]:
        return [p["name"] for p in (await socket.hear("presence"))["people"]]

    async def test_a_refusal_says_which_message_and_why(self) -> None:
        async with self.tab(self.ann) as ann:
            message = said(" ")
            await ann.say(message)
            refusal = await ann.hear("refused")
        self.assertEqual(refusal["id"], message["id"])
        self.assertIn("nothing", refusal["reason"])

    async def test_half_a_character_is_survived(self) -> None:
        async with self.tab(self.ann) as ann:
            await ann.say(
                '{"type": "send", "text": "\\ud83d", "attachments": [], "id": '
                f'"{uuid.uuid4()}"'
                "}"
            )
            heard = await ann.hear("message")
        self.assertEqual(heard["message"]["text"], "?")

    async def test_nonsense_closes_the_socket(self) -> None:
        for nonsense in (
            "",
            "nonsense",
            "[]",
            '{"type": "dance"}',
            '{"type": "hello", "after": "yesterday"}',
            '{"type": "hello", "after": -1}',
            '{"type": "hello", "after": 1e999}',
            '{"type": "hello", "after": 99999999999999999999}',
            '{"type": "send", "id": "1", "text": "", "attachments": []}',
            '{"type": "send", "id": 1, "text": "", "attachments": []}',
        ):
            with self.subTest(nonsense), self.assertLogs("example_project.chat"):
                socket = await sync_to_async(self.socket)(self.ann)
                await socket.connect()
                await socket.say(nonsense)
                self.assertEqual(await socket.closing_code(), 4400)
                await socket.disconnect()

    async def test_strangers_are_sent_to_the_login(self) -> None:
        socket = await sync_to_async(self.socket)(None)
        await socket.connect()
        self.assertEqual(await socket.closing_code(), 4401)
        await socket.disconnect()

    async def test_no_such_room(self) -> None:
        socket = await sync_to_async(self.socket)(self.ann, slug="cellar")
        await socket.connect()
        self.assertEqual(await socket.closing_code(), 4404)
        await socket.disconnect()

    async def test_other_sites_are_refused(self) -> None:
        socket = await sync_to_async(self.socket)(
            self.ann, origin="http://elsewhere.test"
        )
        self.assertFalse(await socket.connect())
        await socket.wait()

    @override_settings(CHAT_HEARTBEAT=0.05)
    async def test_the_heartbeat_tells_the_newest_number(self) -> None:
        async with self.tab(self.ann) as ann:
            # Stored, but its server died before it could tell anybody.
            await sync_to_async(history.post)(
                self.room.pk, self.bob.pk, uuid.uuid4(), "Psst"
            )
            while (await ann.hear("beat"))["last"] == 0:
                pass

    @override_settings(CHAT_HEARTBEAT=0.05)
    async def test_logging_out_elsewhere_closes_the_socket(self) -> None:
        socket = await sync_to_async(self.socket)(self.ann)
        await socket.connect()
        await socket.hear("presence")
        await sync_to_async(Session.objects.all().delete)()
        self.assertEqual(await socket.closing_code(), 4401)
        await socket.disconnect()

    @override_settings(CHAT_HEARTBEAT=0.05)
    async def test_deleting_the_room_closes_the_socket(self) -> None:
        socket = await sync_to_async(self.socket)(self.ann)
        await socket.connect()
        await socket.hear("presence")
        await sync_to_async(self.room.delete)()
        self.assertEqual(await socket.closing_code(), 4404)
        await socket.disconnect()


def said(text: str) -> dict[str, Any]:
    return {"type": "send", "id": str(uuid.uuid4()), "text": text, "attachments": []}
