"""A project of mixed views, for many requests, on the database that it is told of."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

SECRET_KEY = "for tests only, and long enough for nobody to complain about it"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
USE_TZ = True
INSTALLED_APPS = [
    "django_daphne",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
DATABASES = {"default": json.loads(os.environ.get("SOAK_DATABASE", "{}"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
FILE_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = None
DJANGO_DAPHNE = {"LOGGING": {"ACCESS": False}}
LOGGING_CONFIG = None

FILE = os.environ.get("SOAK_FILE", "")


def _views() -> list[Any]:
    from django.db import transaction
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path

    from django_daphne.handler.threads import threads

    def plain(request: Any) -> HttpResponse:
        return HttpResponse("plain")

    async def aplain(request: Any) -> HttpResponse:
        return HttpResponse("aplain")

    def query(request: Any) -> HttpResponse:
        from django.contrib.auth.models import User

        return HttpResponse(str(User.objects.filter(username="soak").count()))

    async def aquery(request: Any) -> HttpResponse:
        from django.contrib.auth.models import User

        return HttpResponse(str(await User.objects.filter(username="soak").acount()))

    @transaction.atomic
    def atomic(request: Any) -> HttpResponse:
        from django.contrib.auth.models import User

        User.objects.filter(username="soak").first()
        if request.GET:
            raise ValueError("rolled back")
        return HttpResponse("atomic")

    def stream(request: Any) -> StreamingHttpResponse:
        from django.contrib.auth.models import User

        def pieces() -> Iterator[str]:
            for number in range(20):
                yield f"{number} {User.objects.count()}\n" * 50

        return StreamingHttpResponse(pieces())

    async def astream(request: Any) -> StreamingHttpResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                await asyncio.sleep(0)
                yield b"piece\n" * 100

        return StreamingHttpResponse(pieces())

    def file(request: Any) -> FileResponse:
        return FileResponse(open(FILE, "rb"))

    def upload(request: Any) -> HttpResponse:
        with tempfile.TemporaryFile() as copy:
            while data := request.read(65536):
                copy.write(data)
            return HttpResponse(str(copy.tell()))

    def state(request: Any) -> HttpResponse:
        found = {
            "leased": threads.count - threads.idle,
            "idle": threads.idle,
            "threads": threading.active_count(),
            "files": [
                os.readlink(f"/proc/self/fd/{number}")
                for number in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{number}")
            ],
        }
        return HttpResponse(json.dumps(found))

    return [
        path(view.__name__, view)
        for view in (
            *(plain, aplain, query, aquery, atomic, stream, astream, file, upload),
            state,
        )
    ]


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":
        patterns = _views()
        globals()["urlpatterns"] = patterns
        return patterns
    raise AttributeError(name)
