import uuid
from concurrent.futures import ThreadPoolExecutor

from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.db import connection
from django.test import TestCase, TransactionTestCase

from example_project.chat import history
from example_project.chat.models import Attachment, Message, Room


def attachment(uploader: User, name: str = "a.txt") -> Attachment:
    return Attachment.objects.create(
        uploader=uploader, file=ContentFile(b"abc", name), name=name, size=3
    )


class HistoryTests(TestCase):
    def setUp(self) -> None:
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.author = User.objects.create_user("ann")
        self.other = User.objects.create_user("bob")

    def post(self, text: str = "Hello", **kwargs: object) -> Message:
        options = {"author_id": self.author.pk, "client_id": uuid.uuid4(), **kwargs}
        message, _ = history.post(self.room.pk, text=text, **options)
        return message

    def test_messages_are_numbered_in_each_room(self) -> None:
        attic = Room.objects.create(name="Attic", slug="attic")
        numbers = [self.post().number for _ in range(3)]
        elsewhere, _ = history.post(attic.pk, self.author.pk, uuid.uuid4(), "Hi")
        self.assertEqual(numbers, [1, 2, 3])
        self.assertEqual(elsewhere.number, 1)

    def test_the_same_id_is_the_same_message(self) -> None:
        client_id = uuid.uuid4()
        first, new = history.post(self.room.pk, self.author.pk, client_id, "Once")
        again, newer = history.post(self.room.pk, self.author.pk, client_id, "Twice")
        self.assertTrue(new)
        self.assertFalse(newer)
        self.assertEqual(first, again)
        self.assertEqual(again.text, "Once")
        self.assertEqual(history.last_number(self.room.pk), 1)

    def test_an_id_of_somebody_else_is_another_message(self) -> None:
        client_id = uuid.uuid4()
        self.post(client_id=client_id)
        _, new = history.post(self.room.pk, self.other.pk, client_id, "Mine")
        self.assertTrue(new)

    def test_what_is_refused_takes_no_number(self) -> None:
        theirs = attachment(self.other)
        for refused in (
            {"text": "  \n "},
            {"text": "x" * (history.LONGEST_TEXT + 1)},
            {"attachment_ids": [uuid.uuid4()]},
            {"attachment_ids": [theirs.pk]},
            {"attachment_ids": [uuid.uuid4() for _ in range(11)]},
        ):
            with self.subTest(refused), self.assertRaises(history.Refused):
                self.post(**refused)
        self.assertEqual(self.post().number, 1)
        theirs.refresh_from_db()
        self.assertIsNone(theirs.message)

    def test_what_a_database_cannot_store_is_replaced(self) -> None:
        self.assertEqual(self.post("a\0b \ud83d").text, "ab ?")

    def test_files_stay_in_their_order(self) -> None:
        files = [attachment(self.author, name) for name in ("1", "2", "3")]
        wanted = [files[2].pk, files[0].pk, files[1].pk]
        message = self.post("", attachment_ids=wanted)
        names = [file["name"] for file in history.as_json(message)["attachments"]]
        self.assertEqual(names, ["3", "1", "2"])

    def test_catching_up_page_by_page_misses_nothing(self) -> None:
        texts = [self.post(str(index)).text for index in range(2 * history.PAGE + 5)]
        caught_up, last, more = [], 0, True
        while more:
            answer = history.after(self.room, last)
            caught_up += [message["text"] for message in answer["messages"]]
            last, more = answer["last"], answer["more"]
        self.assertEqual(caught_up, texts)
        self.assertEqual(last, len(texts))

    def test_a_deleted_message_is_not_asked_for_again(self) -> None:
        self.post()
        self.post().delete()
        answer = history.after(self.room, 1)
        self.assertEqual(answer, {"messages": [], "last": 2, "more": False})

    def test_reading_backwards_ends_at_the_first(self) -> None:
        for _ in range(history.PAGE + 2):
            self.post()
        newest = history.before(self.room)
        self.assertTrue(newest["more"])
        self.assertEqual(newest["messages"][0]["number"], 3)
        oldest = history.before(self.room, 3)
        self.assertFalse(oldest["more"])
        self.assertEqual([m["number"] for m in oldest["messages"]], [1, 2])


class ConcurrencyTests(TransactionTestCase):
    def test_everybody_at_once_is_numbered_without_gap(self) -> None:
        room = Room.objects.create(name="Lobby", slug="lobby")
        author = User.objects.create_user("ann")
        ids = [uuid.uuid4() for _ in range(20)]

        def post(client_id: uuid.UUID) -> int:
            try:
                return history.post(room.pk, author.pk, client_id, "Now")[0].number
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as pool:
            # Each of them twice, as after a reconnection.
            numbers = sorted(pool.map(post, [*ids, *ids]))
        self.assertEqual(numbers, sorted([*range(1, 21), *range(1, 21)]))
