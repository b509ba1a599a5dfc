from io import StringIO

from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import TransactionTestCase, override_settings

from example_project.chat.models import Message, Room


@override_settings(DEBUG=True)
class SeedTests(TransactionTestCase):
    def seed(self, *arguments: str) -> str:
        output = StringIO()
        call_command("seed_demo", *arguments, stdout=output)
        return output.getvalue()

    def test_it_prints_where_to_go_and_who_to_be(self) -> None:
        output = self.seed("--url", "http://localhost:1234/")
        self.assertIn("http://localhost:1234/rooms/lobby/", output)
        for name in ("demo", "friend"):
            self.assertIn(f"{name} / {name}", output)
            self.assertIsNotNone(authenticate(username=name, password=name))
        self.assertTrue(User.objects.get(username="demo").is_superuser)
        self.assertFalse(User.objects.get(username="friend").is_staff)

    def test_twice_is_once(self) -> None:
        self.seed()
        before = list(Message.objects.values())
        User.objects.get(username="demo").set_password("changed")
        self.seed()
        self.assertEqual(list(Message.objects.values()), before)
        self.assertEqual(Room.objects.count(), 1)
        self.assertEqual(User.objects.count(), 2)

    def test_messages_are_in_order_of_time(self) -> None:
        self.seed()
        times = list(
            Message.objects.order_by("number").values_list("sent_at", flat=True)
        )
        self.assertEqual(times, sorted(set(times)))

    def test_known_passwords_stay_out_of_production(self) -> None:
        with override_settings(DEBUG=False), self.assertRaises(CommandError):
            self.seed()
        self.assertFalse(User.objects.exists())
