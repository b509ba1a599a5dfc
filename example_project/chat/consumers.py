"""One browser tab in one room.

The tab says ``hello`` with the number of the last message it has seen, and is told what
it missed. It ``send``s messages under ids of its own, as often as it takes to see them
come back. Between the two nothing that is lost on the way, in either direction or by a
channel layer that was full, stays lost: the number of the newest message travels with
every heartbeat, and a tab that is behind says ``hello`` again.
"""

import asyncio
import json
import logging
import uuid
from importlib import import_module
from typing import Any

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from example_project.chat import history, presence
from example_project.chat.models import Room

logger = logging.getLogger(__name__)

# Closing codes the browser acts upon. Refusing the handshake instead would give it
# nothing to tell "you are logged out" from "the server is down".
NOT_UNDERSTOOD = 4400
LOGGED_OUT = 4401
NO_SUCH_ROOM = 4404
SERVER_ERROR = 1011

#: JavaScript counts exactly up to here.
LARGEST_NUMBER = 2**53


class RoomConsumer(AsyncJsonWebsocketConsumer):
    room: Room | None = None
    group: str = ""
    heartbeat: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()
        self.user = self.scope["user"]
        if not self.user.is_authenticated:
            await self.close(code=LOGGED_OUT)
            return
        slug = self.scope["url_route"]["kwargs"]["slug"]
        room = await database_sync_to_async(Room.objects.filter(slug=slug).first)()
        if room is None:
            await self.close(code=NO_SUCH_ROOM)
            return
        self.room = room
        self.group = f"room.{room.pk}"
        # Listen first and read the history afterwards: what falls between is heard
        # twice, which the browser sorts out, and not never.
        await self.channel_layer.group_add(self.group, self.channel_name)
        try:
            snapshot = await self.call(presence.arrive, self.user.pk, self.channel_name)
        except Room.DoesNotExist:
            await self.close(code=NO_SUCH_ROOM)
            return
        await self.announce(snapshot)
        self.heartbeat = asyncio.create_task(self.beat())

    async def disconnect(self, code: int) -> None:
        if self.heartbeat is not None:
            self.heartbeat.cancel()
        if self.room is None:
            return
        await self.channel_layer.group_discard(self.group, self.channel_name)
        try:
            snapshot = await self.call(presence.depart, self.channel_name)
        except Room.DoesNotExist:
            return
        await self.announce(snapshot)

    # What the tab says

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        if self.room is None:
            return
        try:
            match json.loads(text_data or ""):
                case {"type": "hello", "after": int(number)} if (
                    0 <= number <= LARGEST_NUMBER
                ):
                    answer = self.catch_up(number)
                case {
                    "type": "send",
                    "id": str(client_id),
                    "text": str(text),
                    "attachments": list(attachments),
                }:
                    answer = self.post(
                        as_uuid(client_id), text, [as_uuid(pk) for pk in attachments]
                    )
                case _:
                    raise ValueError("not a message of ours")
        except ValueError as error:
            logger.warning("Closing the socket of %s: %s", self.user, error)
            await self.close(code=NOT_UNDERSTOOD)
            return
        try:
            await answer
        except Room.DoesNotExist:
            await self.close(code=NO_SUCH_ROOM)

    async def catch_up(self, number: int) -> None:
        missed = await database_sync_to_async(history.after)(self.room, number)
        await self.send_json({"type": "history", **missed})

    async def post(
        self, client_id: uuid.UUID, text: str, attachment_ids: list[uuid.UUID]
    ) -> None:
        def store() -> tuple[dict[str, Any], bool]:
            message, new = history.post(
                self.room.pk, self.user.pk, client_id, text, attachment_ids
            )
            return history.as_json(message), new

        try:
            message, new = await database_sync_to_async(store)()
        except history.Refused as refusal:
            await self.send_json(
                {"type": "refused", "id": str(client_id), "reason": str(refusal)}
            )
            return
        event = {"type": "room.message", "message": message}
        if new:
            # It is stored: if we die here, the heartbeat tells everybody.
            await self.channel_layer.group_send(self.group, event)
        else:
            # The first answer was lost, and only its author is still waiting.
            await self.room_message(event)

    # What the room says

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "message", "message": event["message"]})

    async def room_presence(self, event: dict[str, Any]) -> None:
        await self.send_json(
            {
                "type": "presence",
                "version": event["version"],
                "people": event["people"],
            }
        )

    async def announce(self, snapshot: presence.Snapshot) -> None:
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "room.presence",
                "version": snapshot.version,
                "people": snapshot.people,
            },
        )

    # Signs of life

    async def beat(self) -> None:
        try:
            while True:
                await asyncio.sleep(settings.CHAT_HEARTBEAT)
                if not await self.still_logged_in():
                    await self.close(code=LOGGED_OUT)
                    return
                changed = await self.call(
                    presence.renew, self.user.pk, self.channel_name
                )
                if changed is not None:
                    await self.announce(changed)
                last = await self.call(history.last_number)
                await self.send_json({"type": "beat", "last": last})
        except Room.DoesNotExist:
            await self.close(code=NO_SUCH_ROOM)
        except Exception:
            # Nobody awaits this task. The browser comes back when its socket closes.
            logger.exception("The heartbeat of %s in %s failed", self.user, self.room)
            await self.close(code=SERVER_ERROR)

    async def still_logged_in(self) -> bool:
        """Read the session anew: the one in the scope is as old as the socket."""
        session_key = self.scope["session"].session_key
        session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
        user = await get_user({"session": session})
        return user.is_authenticated and user.pk == self.user.pk

    async def call(self, function: Any, *arguments: Any) -> Any:
        return await database_sync_to_async(function)(self.room.pk, *arguments)


def as_uuid(text: Any) -> uuid.UUID:
    if not isinstance(text, str):
        raise ValueError("an id is a string")
    return uuid.UUID(text)
