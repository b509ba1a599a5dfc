from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.test import TestCase
from django.utils import timezone

from example_project.chat import presence
from example_project.chat.models import Presence, Room


class PresenceTests(TestCase):
    def setUp(self) -> None:
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.ann = User.objects.create_user("ann")
        self.bob = User.objects.create_user("Bob")

    def arrive(self, user: User, channel: str) -> list[str]:
        return names(presence.arrive(self.room.pk, user.pk, channel))

    def depart(self, channel: str) -> list[str]:
        return names(presence.depart(self.room.pk, channel))

    def age(self, channel: str) -> None:
        """As if its server had been killed some time ago."""
        long_ago = presence.MISSED_BEATS * settings.CHAT_HEARTBEAT + 1
        Presence.objects.filter(channel_name=channel).update(
            last_seen=timezone.now() - timedelta(seconds=long_ago)
        )

    def test_a_person_is_here_until_the_last_tab_closes(self) -> None:
        self.assertEqual(self.arrive(self.ann, "tab 1"), ["ann"])
        self.assertEqual(self.arrive(self.ann, "tab 2"), ["ann"])
        self.assertEqual(self.arrive(self.bob, "tab 3"), ["ann", "Bob"])
        self.assertEqual(self.depart("tab 1"), ["ann", "Bob"])
        self.assertEqual(self.depart("tab 2"), ["Bob"])

    def test_rooms_are_apart(self) -> None:
        attic = Room.objects.create(name="Attic", slug="attic")
        self.arrive(self.ann, "tab 1")
        self.assertEqual(
            names(presence.arrive(attic.pk, self.bob.pk, "tab 2")), ["Bob"]
        )

    def test_every_change_has_a_higher_version(self) -> None:
        versions = [
            presence.arrive(self.room.pk, self.ann.pk, "tab 1").version,
            presence.arrive(self.room.pk, self.bob.pk, "tab 2").version,
            presence.depart(self.room.pk, "tab 1").version,
        ]
        self.assertEqual(versions, sorted(set(versions)))

    def test_who_is_stale_is_gone_even_before_being_tidied_away(self) -> None:
        self.arrive(self.ann, "killed")
        self.age("killed")
        self.assertEqual(self.arrive(self.bob, "alive"), ["Bob"])

    def test_the_next_heartbeat_of_anybody_tidies(self) -> None:
        self.arrive(self.ann, "killed")
        self.arrive(self.bob, "alive")
        self.age("killed")
        snapshot = presence.renew(self.room.pk, self.bob.pk, "alive")
        self.assertEqual(names(snapshot), ["Bob"])
        self.assertFalse(Presence.objects.filter(channel_name="killed").exists())

    def test_a_heartbeat_that_changes_nothing_says_nothing(self) -> None:
        self.arrive(self.bob, "alive")
        self.assertIsNone(presence.renew(self.room.pk, self.bob.pk, "alive"))

    def test_a_heartbeat_keeps_its_own_row(self) -> None:
        self.arrive(self.bob, "slow")
        self.age("slow")
        presence.renew(self.room.pk, self.bob.pk, "slow")
        self.assertTrue(presence.fresh().filter(channel_name="slow").exists())

    def test_who_was_tidied_away_comes_back(self) -> None:
        self.arrive(self.ann, "suspended")
        Presence.objects.all().delete()
        snapshot = presence.renew(self.room.pk, self.ann.pk, "suspended")
        self.assertEqual(names(snapshot), ["ann"])


def names(snapshot: presence.Snapshot) -> list[str]:
    return [person["name"] for person in snapshot.people]
