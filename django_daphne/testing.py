"""A live server for tests, over ASGI.

Django's ``LiveServerTestCase`` does the work: it chooses the connections to share,
starts our thread, waits for it, and ends it. What differs under ASGI is where database
connections are needed. WSGI answers a request in one thread, which Django hands the
shared connections. Here views, consumers and their helpers run in threads that asgiref
takes from pools, some of which are older than the server and outlive it; so the shared
connections are given to every thread that asks while the server runs, and left with
none.

Shared are connections to SQLite databases in memory, of which there is one for all. The
transactions of several threads would mix on it; so synchronous code then runs in one
thread, in turn. With any other database each thread has its own, as in production.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler
from django.http import FileResponse, HttpRequest, HttpResponse
from django.test import LiveServerTestCase
from django.test.testcases import LiveServerThread
from django.utils._os import safe_join
from django.utils.functional import classproperty
from django.views.static import serve

from .asgi import load_project_application
from .development import development_config, in_one_thread
from .server.threaded import ThreadedServer


class _RootFiles(ASGIStaticFilesHandler):
    """Serves the files of a ``*_ROOT`` below its ``*_URL``; the rest is the wrapped's.

    The root is looked up for each request, for a test may override it.
    """

    purpose: str

    def get_base_url(self) -> str:
        return str(getattr(settings, f"{self.purpose}_URL"))

    def _should_handle(self, path: str) -> bool:
        return super()._should_handle(path) and self._find(path) is not None

    def _find(self, path: str) -> Path | None:
        root = getattr(settings, f"{self.purpose}_ROOT")
        if not root:
            return None
        try:
            file = Path(safe_join(root, self.file_path(path).lstrip("/")))
            return file if file.is_file() else None
        except (SuspiciousFileOperation, ValueError):
            return None

    def serve(self, request: HttpRequest) -> FileResponse | HttpResponse:
        root = getattr(settings, f"{self.purpose}_ROOT")
        return serve(request, self.file_path(request.path), document_root=root)


class _StaticFiles(_RootFiles):
    purpose = "STATIC"


class _MediaFiles(_RootFiles):
    purpose = "MEDIA"


class ASGILiveServerThread(LiveServerThread):
    """Serves ``ASGI_APPLICATION`` until :meth:`terminate`.

    Like its parent it sets ``is_ready`` when it serves or has failed, and puts what
    failed into ``error``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._test_thread = threading.current_thread()
        self._server: ThreadedServer | None = None
        self._terminating = False

    def run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                listener = stack.enter_context(self._bind())
                self.port = listener.getsockname()[1]
                application = self._make_application()
                shared = self.connections_override or {}
                stack.enter_context(_sharing(shared, self._test_thread))
                if shared:
                    thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
                    application = in_one_thread(application, thread)
                self._serve(application, listener)
        except Exception as error:
            self.error = error  # type: ignore[assignment]
        finally:
            self.is_ready.set()

    def terminate(self) -> None:
        """Stop serving; return when the thread has ended."""
        self._terminating = True
        if self._server is not None:
            self._server.stop()
        self.join()

    def _make_application(self) -> Any:
        handler = self.static_handler
        if isinstance(handler, type) and issubclass(handler, WSGIHandler):
            raise ImproperlyConfigured(
                f"static_handler is {handler.__name__}, which speaks WSGI. Use "
                f"django.contrib.staticfiles.handlers.ASGIStaticFilesHandler."
            )
        return handler(_MediaFiles(load_project_application()))

    def _serve(self, application: Any, listener: socket.socket) -> None:
        self._server = ThreadedServer(
            development_config(),
            application,
            [listener],
            on_listening=lambda urls: self.is_ready.set(),
        )
        if not self._terminating:
            self._server.run()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server((self.host, self.port), family=family)


class ASGILiveServerTestCase(LiveServerTestCase):
    """Django's ``LiveServerTestCase`` with ``ASGI_APPLICATION`` served, over ASGI.

    ``live_server_url`` and ``live_server_ws_url`` are where. ``static_handler`` wraps
    the application; by default it serves ``STATIC_ROOT``, and with
    ``django.contrib.staticfiles.handlers.ASGIStaticFilesHandler`` what the finders
    find.
    """

    server_thread_class = ASGILiveServerThread
    static_handler = _StaticFiles

    @classproperty
    def live_server_ws_url(cls) -> str:
        return f"ws://{cls.host}:{cls.server_thread.port}"


@contextlib.contextmanager
def _sharing(
    shared: Mapping[str, BaseDatabaseWrapper], owner: threading.Thread
) -> Iterator[None]:
    """While inside, every thread uses ``shared``.

    Other connections that threads open meanwhile, the owner's excepted, are closed at
    the end: one left open would keep the test database from being destroyed.
    """
    own_item = ConnectionHandler.__getitem__
    own_create = connections.create_connection
    opened: list[BaseDatabaseWrapper] = []

    def get(handler: ConnectionHandler, alias: str) -> BaseDatabaseWrapper:
        if handler is connections and alias in shared:
            return shared[alias]
        return own_item(handler, alias)

    def create(alias: str) -> BaseDatabaseWrapper:
        connection = own_create(alias)
        if threading.current_thread() is not owner:
            opened.append(connection)
        return connection

    with (
        mock.patch.object(ConnectionHandler, "__getitem__", get),
        mock.patch.object(connections, "create_connection", create),
    ):
        try:
            yield
        finally:
            for connection in opened:
                connection.inc_thread_sharing()
                connection.close()
                connection.dec_thread_sharing()
