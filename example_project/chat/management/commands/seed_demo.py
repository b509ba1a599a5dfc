"""``manage.py seed_demo``: something to look at, and somebody to be."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from example_project.chat import history
from example_project.chat.models import Message, Room

#: Name, and whether it may enter the admin. The password is the name.
PEOPLE = [("demo", True), ("friend", False)]

MESSAGES = [
    ("friend", "Hello! I came in through the other window."),
    ("demo", "Then open this room twice and talk to yourself."),
    (
        "friend",
        "What happens to what I write while the server restarts?",
    ),
    (
        "demo",
        "It waits in your window and is sent when the server is back. Once, not twice.",
    ),
    ("friend", "And what I miss meanwhile?"),
    ("demo", "You are told. Try it: stop the server, write, start it again."),
]

#: Seeding twice sends the same ids twice, and so stores the messages once.
IDS = uuid.UUID("c4f1b1c5-6f0e-4a3d-9a3c-0b8a8f1f6f5e")


class Command(BaseCommand):
    help = "Create the database, a room with a few messages, and two people."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="where the server will listen (default: %(default)s)",
        )

    def handle(self, *args: Any, url: str, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError(
                "Passwords that everybody knows are for development: "
                "seed_demo works with DEBUG only."
            )
        call_command("migrate", interactive=False, verbosity=0)
        people = {name: self.person(name, staff) for name, staff in PEOPLE}
        room, _ = Room.objects.get_or_create(
            slug="lobby",
            defaults={"name": "Lobby", "topic": "Everybody comes through here"},
        )
        started = timezone.now() - timedelta(minutes=len(MESSAGES))
        for minute, (author, text) in enumerate(MESSAGES):
            client_id = uuid.uuid5(IDS, text)
            message, new = history.post(room.pk, people[author].pk, client_id, text)
            if new:
                sent_at = started + timedelta(minutes=minute)
                Message.objects.filter(pk=message.pk).update(sent_at=sent_at)

        room_url = url.rstrip("/") + room.get_absolute_url()
        self.stdout.write(f"The room:  {room_url}")
        self.stdout.write(f"The admin: {url.rstrip('/')}/admin/ (as demo)")
        for name, _ in PEOPLE:
            self.stdout.write(f"Log in as: {name} / {name}")

    def person(self, name: str, staff: bool) -> Any:
        people = get_user_model().objects
        person, new = people.get_or_create(
            username=name, defaults={"is_staff": staff, "is_superuser": staff}
        )
        if new:
            person.set_password(name)
            person.save()
        return person
