"""What is said in a room, and how it is read back without loss or repetition.

Writing locks the room's row, so the messages of a room are numbered 1, 2, 3 … in the
order in which they are committed. Whoever has seen message 7 can ask for what came
after it and can be certain of not missing one; whoever receives 9 after 7 knows that
there is something to ask for.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django.db import transaction

from example_project.chat.models import Attachment, Message, Room

#: How many messages are read at a time, when a page opens and when it catches up.
PAGE = 50

#: Longer than anybody types, short enough to be read.
LONGEST_TEXT = 2000

#: More is an album.
MOST_ATTACHMENTS = 10


class Refused(Exception):
    """A message that cannot be accepted; the text tells its author why."""


def post(
    room_id: int,
    author_id: int,
    client_id: uuid.UUID,
    text: str,
    attachment_ids: Iterable[uuid.UUID] = (),
) -> tuple[Message, bool]:
    """Store a message; return it and whether it is new.

    The same ``client_id`` from the same author in the same room is the same message:
    it is stored once, and returned as it was stored.
    """
    wanted = list(dict.fromkeys(attachment_ids))
    # What JSON can say and a database cannot store: NUL and half a surrogate pair.
    text = text.replace("\0", "").encode("utf-8", "replace").decode().strip()

    with transaction.atomic():
        room = Room.objects.select_for_update().get(pk=room_id)
        already = room.messages.filter(author_id=author_id, client_id=client_id).first()
        if already is not None:
            return already, False

        if not text and not wanted:
            raise Refused("There is nothing in this message.")
        if len(text) > LONGEST_TEXT:
            raise Refused(f"A message has at most {LONGEST_TEXT} characters.")
        if len(wanted) > MOST_ATTACHMENTS:
            raise Refused(f"A message carries at most {MOST_ATTACHMENTS} files.")

        room.last_number += 1
        room.save(update_fields=["last_number"])
        message = Message.objects.create(
            room=room,
            number=room.last_number,
            author_id=author_id,
            client_id=client_id,
            text=text,
        )
        for position, pk in enumerate(wanted):
            attached = Attachment.objects.filter(
                pk=pk, uploader_id=author_id, message=None
            ).update(message=message, position=position)
            if not attached:
                raise Refused("An attached file is no longer there. Attach it again.")
    return message, True


def last_number(room_id: int) -> int:
    """The number of the newest message, 0 in a silent room."""
    return Room.objects.values_list("last_number", flat=True).get(pk=room_id)


def after(room: Room, number: int) -> dict[str, Any]:
    """The oldest page of what came after message ``number``."""
    # Read first: what is committed between the two queries is then asked for again.
    last = last_number(room.pk)
    page = list(_complete(room).filter(number__gt=number)[: PAGE + 1])
    more = len(page) > PAGE
    page = page[:PAGE]
    if more:
        last = page[-1].number
    return _as_history(page, more=more, last=last)


def before(room: Room, number: int | None = None) -> dict[str, Any]:
    """The newest page of what came before message ``number``, or of everything."""
    last = last_number(room.pk)
    messages = _complete(room).order_by("-number")
    messages = messages.filter(number__lte=last if number is None else number - 1)
    page = list(messages[: PAGE + 1])
    return _as_history(page[:PAGE][::-1], more=len(page) > PAGE, last=last)


def as_json(message: Message) -> dict[str, Any]:
    return {
        "number": message.number,
        "id": str(message.client_id),
        "author": {"id": message.author_id, "name": message.author.get_username()},
        "text": message.text,
        "sent_at": message.sent_at.isoformat(),
        "attachments": [
            attachment_as_json(attachment) for attachment in message.attachments.all()
        ],
    }


def attachment_as_json(attachment: Attachment) -> dict[str, Any]:
    return {
        "id": str(attachment.pk),
        "name": attachment.name,
        "size": attachment.size,
        "image": bool(attachment.image_type),
        "url": attachment.get_absolute_url(),
    }


def _complete(room: Room) -> Any:
    return room.messages.select_related("author").prefetch_related("attachments")


def _as_history(page: list[Message], *, more: bool, last: int) -> dict[str, Any]:
    return {
        "messages": [as_json(message) for message in page],
        # The reader has seen everything up to here, also what has been deleted since.
        "last": last,
        # Whether the same question, asked from the end of this page, has an answer.
        "more": more,
    }
