"""Rooms, what is said in them, what is attached to it, and who is there."""

import uuid

from django.conf import settings
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.urls import reverse
from django.utils import timezone


class Room(models.Model):
    name = models.CharField(max_length=60, unique=True)
    slug = models.SlugField(max_length=60, unique=True)
    topic = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    # Both only ever grow, and only while the row is locked.
    last_number = models.PositiveBigIntegerField(default=0, editable=False)
    presence_version = models.PositiveBigIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("chat:room", args=[self.slug])


class Message(models.Model):
    """One message; ``number`` counts from 1 in each room, in order of commitment.

    Primary keys cannot do that: two transactions may commit in the other order than
    they drew their keys, and a reader who asks for "everything after 7" between the
    two commits would never see the one that was late.
    """

    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    number = models.PositiveBigIntegerField(editable=False)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="chat_messages"
    )
    text = models.TextField(blank=True)
    sent_at = models.DateTimeField(default=timezone.now, editable=False)

    #: Made by the author's browser, so that sending twice is saying once.
    client_id = models.UUIDField(default=uuid.uuid4, editable=False)

    class Meta:
        ordering = ["room", "number"]
        constraints = [
            models.UniqueConstraint(fields=["room", "number"], name="message_number"),
            models.UniqueConstraint(
                fields=["room", "author", "client_id"], name="message_sent_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.author}: {self.text[:40]}"


def storage_name(attachment: "Attachment", filename: str) -> str:
    # Nothing of the uploader's choosing, least of all an extension, reaches the disk.
    return f"attachments/{uuid.uuid4().hex}"


class Attachment(models.Model):
    """An uploaded file; its message is None until its uploader has sent one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    message = models.ForeignKey(
        Message, models.CASCADE, related_name="attachments", null=True, blank=True
    )
    uploader = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="chat_attachments"
    )
    file = models.FileField(upload_to=storage_name)
    name = models.CharField(max_length=150)
    size = models.PositiveBigIntegerField()
    #: Found in the content, never taken from the upload; empty if not an image.
    image_type = models.CharField(max_length=20, blank=True)
    uploaded_at = models.DateTimeField(default=timezone.now, editable=False)
    #: Among the files of its message.
    position = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["position", "uploaded_at"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("chat:attachment", args=[self.pk])


@receiver(post_delete, sender=Attachment)
def delete_file(instance: Attachment, **kwargs: object) -> None:
    transaction.on_commit(lambda: instance.file.delete(save=False))


class Presence(models.Model):
    """One open WebSocket of one person in one room."""

    room = models.ForeignKey(Room, models.CASCADE, related_name="presences")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    channel_name = models.CharField(max_length=200, unique=True)
    last_seen = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["room", "user"]

    def __str__(self) -> str:
        return f"{self.user} in {self.room}"
