"""Files that people attach, and why they are harmless when they come back.

A browser believes what it is told about a file, so it is never told what the uploader
said. Four image formats are recognised by their first bytes and shown; everything else
is an unnamed kind of bytes that the browser saves and does not open. SVG, which may
contain scripts, is among the everything else.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponseBase, StreamingHttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.http import content_disposition_header

from example_project.chat.models import Attachment

#: What is attached to nothing for this long never will be.
FORGOTTEN_AFTER = timedelta(days=1)

#: Read from the disk at a time while a file is sent.
CHUNK = 64 * 1024

#: Enough of a file to recognise every image format below.
HEAD = 16


class TooLarge(Exception):
    """The file is larger than CHAT_UPLOAD_LIMIT; the text says so."""


def keep(file: UploadedFile, uploader: AbstractBaseUser) -> Attachment:
    """Store an upload that will be attached to a message later."""
    if file.size > settings.CHAT_UPLOAD_LIMIT:
        limit = filesizeformat(settings.CHAT_UPLOAD_LIMIT)
        raise TooLarge(f"A file has at most {limit}.")
    for forgotten in Attachment.objects.filter(
        uploader=uploader,
        message=None,
        uploaded_at__lt=timezone.now() - FORGOTTEN_AFTER,
    ):
        forgotten.delete()
    image_type = recognise(file.read(HEAD))
    file.seek(0)
    return Attachment.objects.create(
        uploader=uploader,
        file=file,
        name=shorten(file.name or "file"),
        size=file.size,
        image_type=image_type,
    )


def recognise(head: bytes) -> str:
    """The content type of an image that browsers may show, or an empty string."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return ""


def shorten(name: str) -> str:
    """Fit a file's name into its column, keeping the extension."""
    longest = Attachment._meta.get_field("name").max_length
    if len(name) <= longest:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > 10:
        return name[:longest]
    return f"{stem[: longest - len(extension) - 1]}.{extension}"


def response(attachment: Attachment) -> HttpResponseBase:
    """The file itself, streamed."""
    return StreamingHttpResponse(
        chunks(attachment),
        content_type=attachment.image_type or "application/octet-stream",
        headers={
            "Content-Length": str(attachment.size),
            "Content-Disposition": content_disposition_header(
                not attachment.image_type, attachment.name
            ),
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
            # The file never changes, but it is not everybody's.
            "Cache-Control": "private, max-age=86400, immutable",
        },
    )


async def chunks(attachment: Attachment) -> AsyncIterator[bytes]:
    # A reader who goes away half-way ends this generator, which closes the file.
    with await sync_to_async(attachment.file.open)("rb") as file:
        while chunk := await sync_to_async(file.read)(CHUNK):
            yield chunk
