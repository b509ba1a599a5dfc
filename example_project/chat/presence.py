"""Who is here.

There is one row for each open socket, so a person with three tabs is here until the
third is closed. A row is a claim that its consumer renews; a killed server renews
nothing, and what was not renewed for a while is taken away by whoever renews next.

Every change first locks the room's row and draws the next version. Snapshots that
different processes broadcast may overtake each other; whoever receives them keeps the
highest version, and that one is the truth.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from example_project.chat.models import Presence, Room

#: Heartbeats that may fail to come before somebody counts as gone.
MISSED_BEATS = 3


@dataclass(frozen=True)
class Snapshot:
    version: int
    people: list[dict[str, Any]]


def fresh() -> QuerySet[Presence]:
    """The rows whose sockets were open lately."""
    return Presence.objects.filter(last_seen__gte=_oldest_fresh())


def arrive(room_id: int, user_id: int, channel_name: str) -> Snapshot:
    with transaction.atomic():
        room = Room.objects.select_for_update().get(pk=room_id)
        Presence.objects.update_or_create(
            channel_name=channel_name,
            defaults={
                "room_id": room_id,
                "user_id": user_id,
                "last_seen": timezone.now(),
            },
        )
        return _next_snapshot(room)


def depart(room_id: int, channel_name: str) -> Snapshot:
    with transaction.atomic():
        room = Room.objects.select_for_update().get(pk=room_id)
        Presence.objects.filter(channel_name=channel_name).delete()
        return _next_snapshot(room)


def renew(room_id: int, user_id: int, channel_name: str) -> Snapshot | None:
    """Say that a socket is still open; a snapshot if that changed who is here."""
    renewed = Presence.objects.filter(channel_name=channel_name).update(
        last_seen=timezone.now()
    )
    if not renewed:
        # We slept so long (a suspended laptop) that somebody took us away.
        return arrive(room_id, user_id, channel_name)
    stale = Presence.objects.filter(room_id=room_id, last_seen__lt=_oldest_fresh())
    if not stale.exists():
        return None
    with transaction.atomic():
        room = Room.objects.select_for_update().get(pk=room_id)
        stale.delete()
        return _next_snapshot(room)


def _next_snapshot(room: Room) -> Snapshot:
    room.presence_version += 1
    room.save(update_fields=["presence_version"])
    here = get_user_model().objects.filter(
        pk__in=fresh().filter(room=room).values("user")
    )
    people = [{"id": user.pk, "name": user.get_username()} for user in here]
    people.sort(key=lambda person: person["name"].casefold())
    return Snapshot(room.presence_version, people)


def _oldest_fresh() -> Any:
    return timezone.now() - timedelta(seconds=MISSED_BEATS * settings.CHAT_HEARTBEAT)
