"""Django: four views of one project, with the default middleware.

Every server runs the same project, ASGI servers through Django's handler, ours through
its own and, in a row of its own, through Django's; WSGI servers through Django's other.
"""

from __future__ import annotations

import http.client

from problems import ServerFailed
from running import RunningServer
from servers import DJANGO

from .http1_hello import Http1Hello

CONNECTIONS = 32


class DjangoView(Http1Hello):
    needs = DJANGO
    app = "django_app"
    connections = CONNECTIONS
    path: str
    length: int

    def _url(self, server: RunningServer) -> str:
        return f"{server.http_url}{self.path}"

    def _expect_hello(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", f"/{self.path}")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or len(body) != self.length:
            raise ServerFailed(f"wrong answer: {response.status}, {body[:200]!r}")


class DjangoSync(DjangoView):
    name = "django-sync"
    title = f"Django, a synchronous view, {CONNECTIONS} connections"
    path = "sync"
    length = 13


class DjangoAsync(DjangoView):
    name = "django-async"
    title = f"Django, an asynchronous view, {CONNECTIONS} connections"
    path = "async"
    length = 13


class DjangoTemplate(DjangoView):
    name = "django-template"
    title = f"Django, a template and a query of SQLite, {CONNECTIONS} connections"
    path = "template"
    length = len("<ul></ul>") + 10 * len("<li>user0</li>")


class DjangoFile(DjangoView):
    name = "django-file"
    title = f"Django, a FileResponse of 1 MiB, {CONNECTIONS} connections"
    path = "file"
    length = 1024 * 1024
