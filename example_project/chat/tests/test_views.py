import json
import tempfile
import uuid
from pathlib import Path

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TestCase, override_settings
from django.urls import reverse
from django.utils import timezone

from example_project.chat import history, uploads
from example_project.chat.clock import ticks
from example_project.chat.models import Attachment, Presence, Room

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


class PageTests(TestCase):
    def setUp(self) -> None:
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.ann = User.objects.create_user("ann", password="secret")
        self.client.force_login(self.ann)

    def test_strangers_log_in_first(self) -> None:
        self.client.logout()
        for url in (
            "/",
            "/rooms/lobby/",
            "/rooms/lobby/earlier/",
            f"/uploads/{uuid.uuid4()}/",
        ):
            with self.subTest(url):
                self.assertRedirects(self.client.get(url), f"/login/?next={url}")

    def test_logging_in_leads_to_where_one_wanted(self) -> None:
        self.client.logout()
        form = {"username": "ann", "password": "secret", "next": "/rooms/lobby/"}
        self.assertRedirects(self.client.post("/login/", form), "/rooms/lobby/")

    def test_logging_out(self) -> None:
        self.assertRedirects(self.client.post("/logout/"), "/login/")

    def test_rooms_tell_how_many_people_are_there(self) -> None:
        for channel in ("tab 1", "tab 2"):
            Presence.objects.create(
                room=self.room,
                user=self.ann,
                channel_name=channel,
                last_seen=timezone.now(),
            )
        self.assertContains(self.client.get("/"), "1 here now")

    def test_opening_a_room(self) -> None:
        answer = self.client.post("/", {"name": "The attic", "topic": "Dust"})
        self.assertRedirects(answer, "/rooms/the-attic/")

    def test_rooms_that_cannot_be_opened(self) -> None:
        for name, reason in (
            ("Lobby", "by this name already"),
            ("lobby!", "by this name already"),
            ("???", "letters"),
        ):
            with self.subTest(name):
                answer = self.client.post("/", {"name": name})
                self.assertContains(answer, reason)
        self.assertEqual(Room.objects.count(), 1)

    def test_a_room_brings_its_history(self) -> None:
        history.post(self.room.pk, self.ann.pk, uuid.uuid4(), "</script><b>hi")
        answer = self.client.get("/rooms/lobby/")
        self.assertNotContains(answer, "</script><b>hi")
        page = answer.context["page"]
        self.assertEqual(page["history"]["last"], 1)
        self.assertEqual(page["history"]["messages"][0]["text"], "</script><b>hi")

    def test_earlier_messages(self) -> None:
        for text in ("1", "2", "3"):
            history.post(self.room.pk, self.ann.pk, uuid.uuid4(), text)
        answer = self.client.get("/rooms/lobby/earlier/?before=3")
        self.assertEqual([m["text"] for m in answer.json()["messages"]], ["1", "2"])
        self.assertEqual(self.client.get("/rooms/lobby/earlier/").status_code, 400)
        self.assertEqual(self.client.get("/rooms/cellar/earlier/").status_code, 404)

    def test_the_admin_lists_everything(self) -> None:
        self.client.force_login(User.objects.create_superuser("root"))
        history.post(self.room.pk, self.ann.pk, uuid.uuid4(), "Hello")
        message = self.room.messages.get()
        for url in (
            reverse("admin:index"),
            reverse("admin:chat_room_changelist"),
            reverse("admin:chat_room_add"),
            reverse("admin:chat_message_changelist"),
            reverse("admin:chat_message_change", args=[message.pk]),
            reverse("admin:chat_presence_changelist"),
        ):
            with self.subTest(url):
                self.assertEqual(self.client.get(url).status_code, 200)


class UploadTests(TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        override = override_settings(MEDIA_ROOT=directory.name)
        override.enable()
        self.addCleanup(override.disable)
        self.directory = Path(directory.name)
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.ann = User.objects.create_user("ann")
        self.client.force_login(self.ann)

    def upload(self, name: str, content: bytes, kind: str = "image/png") -> Attachment:
        file = SimpleUploadedFile(name, content, kind)
        answer = self.client.post("/uploads/", {"file": file})
        self.assertEqual(answer.status_code, 201)
        return Attachment.objects.get(pk=answer.json()["id"])

    async def download(self, attachment: Attachment) -> tuple[object, bytes]:
        await self.async_client.aforce_login(self.ann)
        answer = await self.async_client.get(attachment.get_absolute_url())
        self.assertEqual(answer.status_code, 200)
        return answer, b"".join([chunk async for chunk in answer.streaming_content])

    def test_an_image_is_shown(self) -> None:
        attachment = self.upload("cat.png", PNG)
        answer, content = async_to_sync(self.download)(attachment)
        self.assertEqual(content, PNG)
        self.assertEqual(answer["Content-Type"], "image/png")
        self.assertEqual(answer["Content-Disposition"], 'inline; filename="cat.png"')
        self.assertEqual(answer["Content-Length"], str(len(PNG)))

    def test_everything_else_is_saved(self) -> None:
        for name, content in (
            ("page.html", b"<script>alert(1)</script>"),
            ("drawing.svg", SVG),
            ("pretender.png", b"<script>alert(1)</script>"),
        ):
            with self.subTest(name):
                attachment = self.upload(name, content)
                answer, _ = async_to_sync(self.download)(attachment)
                self.assertEqual(answer["Content-Type"], "application/octet-stream")
                self.assertIn("attachment;", answer["Content-Disposition"])
                self.assertIn("sandbox", answer["Content-Security-Policy"])
                self.assertEqual(answer["X-Content-Type-Options"], "nosniff")

    def test_the_disk_hears_nothing_of_names(self) -> None:
        attachment = self.upload("../../evil.html", b"abc")
        self.assertEqual(attachment.name, "evil.html")
        self.assertRegex(attachment.file.name, r"^attachments/[0-9a-f]{32}$")

    def test_long_names_keep_their_extension(self) -> None:
        attachment = self.upload("x" * 180 + ".tar.gz", b"abc")
        self.assertEqual(len(attachment.name), 150)
        self.assertTrue(attachment.name.endswith("x.gz"))

    @override_settings(CHAT_UPLOAD_LIMIT=10)
    def test_too_large(self) -> None:
        file = SimpleUploadedFile("large.bin", bytes(11))
        answer = self.client.post("/uploads/", {"file": file})
        self.assertEqual(answer.status_code, 413)
        self.assertIn("at most", answer.json()["error"])
        self.assertFalse(Attachment.objects.exists())

    def test_no_file(self) -> None:
        self.assertEqual(self.client.post("/uploads/").status_code, 400)

    def test_a_script_without_a_login_hears_so(self) -> None:
        self.client.logout()
        self.assertEqual(self.client.post("/uploads/").status_code, 401)

    def test_what_is_not_sent_is_its_uploaders(self) -> None:
        attachment = self.upload("draft.txt", b"abc")
        self.client.force_login(User.objects.create_user("bob"))
        url = attachment.get_absolute_url()
        self.assertEqual(self.client.get(url).status_code, 404)
        history.post(self.room.pk, self.ann.pk, uuid.uuid4(), "", [attachment.pk])
        self.assertEqual(self.client.get(url).status_code, 200)

    def test_forgotten_files_are_deleted(self) -> None:
        forgotten = self.upload("draft.txt", b"abc")
        forgotten.uploaded_at -= uploads.FORGOTTEN_AFTER
        forgotten.save()
        path = Path(forgotten.file.path)
        self.assertTrue(path.exists())
        with self.captureOnCommitCallbacks(execute=True):
            kept = self.upload("next.txt", b"abc")
        self.assertFalse(path.exists())
        self.assertEqual(list(Attachment.objects.all()), [kept])


class ClockTests(TestCase):
    async def test_it_ticks(self) -> None:
        stream = ticks()
        self.assertEqual(await anext(stream), "retry: 2000\n\n")
        tick = await anext(stream)
        kind, data = tick.splitlines()[:2]
        self.assertEqual(kind, "event: tick")
        self.assertIn("now", json.loads(data.removeprefix("data: ")))
        await stream.aclose()

    async def test_it_is_an_event_stream(self) -> None:
        answer = await self.async_client.get("/clock/")
        self.assertEqual(answer["Content-Type"], "text/event-stream")
        self.assertEqual(answer["Cache-Control"], "no-store")
        answer.close()

    def test_without_asgi_it_says_so(self) -> None:
        self.assertEqual(self.client.get("/clock/").status_code, 501)


class SettingsTests(TestCase):
    def test_the_server_refuses_only_what_the_upload_would_refuse(self) -> None:
        limits = settings.DJANGO_DAPHNE["LIMITS"]
        self.assertGreater(limits["BODY_BYTES"], settings.CHAT_UPLOAD_LIMIT)
