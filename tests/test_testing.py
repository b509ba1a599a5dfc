"""``ASGILiveServerTestCase``, used as a project's tests would use it."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import tempfile
import threading
import unittest
import warnings
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.error import HTTPError
from urllib.request import urlopen

from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.auth.models import Group
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import override_settings
from django.urls import path
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from django_daphne.errors import ConfigurationError, LifespanFailed
from django_daphne.testing import ASGILiveServerTestCase

from .projects import PATIENCE, Project

# -- A project -------------------------------------------------------------------------


def add_group(request: HttpRequest, name: str) -> JsonResponse:
    Group.objects.create(name=name)
    return JsonResponse({"groups": names(), "request": type(request).__name__})


async def add_group_async(request: HttpRequest, name: str) -> JsonResponse:
    await Group.objects.acreate(name=name)
    return JsonResponse({"groups": [group.name async for group in Group.objects.all()]})


@transaction.atomic
def add_and_fail(request: HttpRequest, name: str) -> HttpResponse:
    Group.objects.create(name=name)
    raise ValueError("a view that fails")


def host(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.get_host())


def names() -> list[str]:
    return list(Group.objects.order_by("name").values_list("name", flat=True))


class AsyncRoom(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await Group.objects.acreate(name=content)
        await self.send_json(await database_sync_to_async(names)())


class PoliteRoom(AsyncRoom):
    async def disconnect(self, code: int) -> None:
        await Group.objects.acreate(name=f"left with {code}")


class Room(JsonWebsocketConsumer):
    def receive_json(self, content: Any, **kwargs: Any) -> None:
        Group.objects.create(name=content)
        self.send_json(names())


urlpatterns = [
    path("add/<name>/", add_group),
    path("aadd/<name>/", add_group_async),
    path("fail/<name>/", add_and_fail),
    path("host/", host),
    path("static/over.txt", lambda request: HttpResponse("from a view")),
]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("async/", AsyncRoom.as_asgi()),
                path("polite/", PoliteRoom.as_asgi()),
                path("sync/", Room.as_asgi()),
            ]
        ),
    }
)

project = override_settings(
    ROOT_URLCONF="tests.test_testing", ASGI_APPLICATION="tests.test_testing.application"
)


def fetch(url: str) -> bytes:
    with urlopen(url, timeout=PATIENCE) as response:
        return response.read()


# -- What it does for a project's tests ------------------------------------------------


class Client:
    live_server_url: str
    live_server_ws_url: str

    def get_json(self, path: str) -> Any:
        return json.loads(fetch(self.live_server_url + path))

    def websocket(self, path: str) -> ClientConnection:
        return connect(
            self.live_server_ws_url + path,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
        )

    def say(self, client: ClientConnection, content: Any) -> Any:
        client.send(json.dumps(content))
        return json.loads(client.recv(PATIENCE))


@project
class SharedDatabase(Client, ASGILiveServerTestCase):
    """The in-memory database of the tests is the server's too."""

    def test_a_synchronous_view_writes(self) -> None:
        Group.objects.create(name="before")
        answer = self.get_json("/add/now/")
        self.assertEqual(
            answer, {"groups": ["before", "now"], "request": "ASGIRequest"}
        )
        self.assertEqual(names(), ["before", "now"])

    def test_an_async_view_writes(self) -> None:
        Group.objects.create(name="before")
        self.assertEqual(self.get_json("/aadd/now/"), {"groups": ["before", "now"]})
        self.assertEqual(names(), ["before", "now"])

    def test_a_view_that_fails_rolls_back(self) -> None:
        with (
            self.assertLogs("django.request", "ERROR"),
            self.assertRaises(HTTPError) as caught,
        ):
            self.get_json("/fail/never/")
        self.addCleanup(caught.exception.close)
        self.assertEqual(caught.exception.code, 500)
        self.assertEqual(names(), [])

    def test_consumers_write(self) -> None:
        for route in ["/sync/", "/async/"]:
            with self.subTest(route):
                Group.objects.all().delete()
                Group.objects.create(name="before")
                with self.websocket(route) as client:
                    self.assertEqual(self.say(client, "now"), ["before", "now"])
                    self.assertEqual(names(), ["before", "now"])

    def test_each_test_begins_with_an_empty_database(self) -> None:
        self.assertEqual(names(), [])

    def test_many_at_once(self) -> None:
        def visit(number: int) -> None:
            self.get_json(f"/add/{number}/")

        visitors = [threading.Thread(target=visit, args=[i]) for i in range(8)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        self.assertEqual(names(), [str(i) for i in range(8)])

    async def test_an_async_test(self) -> None:
        await Group.objects.acreate(name="before")
        answer = await asyncio.to_thread(self.get_json, "/add/now/")
        self.assertEqual(answer["groups"], ["before", "now"])

    def test_the_connection_is_the_tests_own_in_every_thread(self) -> None:
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(connections["default"]))
        thread.start()
        thread.join()
        self.assertIs(seen[0], connections["default"])


# -- Static files ----------------------------------------------------------------------


class Files(Client):
    def assertMissing(self, path: str) -> None:
        test = self
        assert isinstance(test, unittest.TestCase)
        with (
            test.assertLogs("django.request", "WARNING"),
            test.assertRaises(HTTPError) as caught,
        ):
            fetch(self.live_server_url + path)
        caught.exception.close()
        test.assertEqual(caught.exception.code, 404)


@project
class FilesOfTheRoots(Files, ASGILiveServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.root / "static").mkdir()
        (self.root / "media").mkdir()
        (self.root / "static/one.txt").write_text("static")
        (self.root / "media/two.txt").write_text("media")
        (self.root / "secret.txt").write_text("secret")
        self.enterContext(
            self.settings(
                STATIC_ROOT=self.root / "static", MEDIA_ROOT=self.root / "media"
            )
        )

    def test_are_served(self) -> None:
        self.assertEqual(fetch(self.live_server_url + "/static/one.txt"), b"static")

    def test_what_is_no_file_is_the_applications(self) -> None:
        url = self.live_server_url + "/static/over.txt"
        self.assertEqual(fetch(url), b"from a view")
        (self.root / "static/over.txt").write_text("static")
        self.assertEqual(fetch(url), b"static")

    def test_missing_files(self) -> None:
        for missing in ["/static/missing.txt", "/static/", "/static/../secret.txt"]:
            with self.subTest(missing):
                self.assertMissing(missing)

    def test_no_root_no_files(self) -> None:
        with self.settings(STATIC_ROOT=None):
            self.assertMissing("/static/one.txt")


@project
@override_settings(MEDIA_URL="media/")
class MediaFiles(FilesOfTheRoots):
    def test_media_are_served(self) -> None:
        self.assertEqual(fetch(self.live_server_url + "/media/two.txt"), b"media")


@project
@override_settings(
    STATICFILES_DIRS=[Path(__file__).parent / "projects/pages/pages/static"]
)
class FilesOfTheFinders(Files, ASGILiveServerTestCase):
    static_handler = ASGIStaticFilesHandler

    def test_are_served(self) -> None:
        style = fetch(self.live_server_url + "/static/pages/style.css")
        self.assertEqual(style, b"body { color: teal; }\n")

    def test_websockets_pass(self) -> None:
        with self.websocket("/async/") as client:
            self.assertEqual(self.say(client, "a"), ["a"])


# -- Where it is -----------------------------------------------------------------------


@project
@override_settings(ALLOWED_HOSTS=[])
class Addresses(Client, ASGILiveServerTestCase):
    def test_addresses(self) -> None:
        port = self.server_thread.port
        self.assertNotEqual(port, 0)
        self.assertEqual(self.live_server_url, f"http://localhost:{port}")
        self.assertEqual(self.live_server_ws_url, f"ws://localhost:{port}")

    def test_the_host_is_allowed(self) -> None:
        answer = fetch(self.live_server_url + "/host/").decode()
        self.assertEqual(f"http://{answer}", self.live_server_url)


@project
@override_settings(ALLOWED_HOSTS=[])
class AnotherHost(Client, ASGILiveServerTestCase):
    host = "127.0.0.1"

    def test_the_host_is_allowed(self) -> None:
        answer = fetch(self.live_server_url + "/host/").decode()
        self.assertEqual(answer, f"127.0.0.1:{self.server_thread.port}")


@project
@override_settings(DJANGO_DAPHNE={"WEBSOCKET": {"MAX_MESSAGE_SIZE": 10}})
class Settings(Client, ASGILiveServerTestCase):
    def test_the_servers_settings_hold(self) -> None:
        with (
            self.assertLogs("django_daphne.protocol"),
            self.websocket("/async/") as client,
            self.assertRaises(ConnectionClosed) as caught,
        ):
            client.send("x" * 11)
            client.recv(PATIENCE)
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1009)


@project
class Quiet(Client, ASGILiveServerTestCase):
    def test_requests_are_not_logged(self) -> None:
        with self.assertNoLogs("django.server"), self.assertNoLogs("django_daphne"):
            self.get_json("/add/a/")


# -- Its life, as seen from outside ----------------------------------------------------


def run_case(case: type[unittest.TestCase], test: Any) -> unittest.TestResult:
    """Run ``test(case)`` as the one test of ``case``, with its class set up around."""
    concrete = type(case.__name__, (case,), {"test": test, "__module__": __name__})
    result = unittest.TestResult()
    unittest.TestSuite([concrete("test")]).run(result)
    return result


@project
class Served(Client, ASGILiveServerTestCase):
    __test__ = False


class Life(unittest.TestCase):
    def assertRuns(self, test: Any) -> None:
        result = run_case(Served, test)
        self.assertEqual(result.testsRun, 1)
        for _, report in [*result.errors, *result.failures]:
            self.fail(report)

    def test_nothing_is_left_behind(self) -> None:
        before = set(threading.enumerate())
        urls: list[str] = []

        def test(case: Served) -> None:
            urls.append(case.live_server_url)
            case.get_json("/add/a/")
            case.get_json("/aadd/b/")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            self.assertRuns(test)
            gc.collect()
        self.assertEqual([str(warning.message) for warning in caught], [])
        self.assertEqual(set(threading.enumerate()) - before, set())
        port = int(urls[0].rpartition(":")[2])
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("localhost", port))

    def test_websockets_are_closed_while_the_database_is_there(self) -> None:
        clients: list[ClientConnection] = []
        left: list[str] = []

        def test(case: Served) -> None:
            clients.append(self.enterContext(case.websocket("/polite/")))
            case.say(clients[0], "here")

        own_exit = ASGILiveServerTestCase._terminate_thread.__func__

        def terminate(case: type[ASGILiveServerTestCase]) -> None:
            own_exit(case)
            left.extend(names())

        with mock.patch.object(
            ASGILiveServerTestCase, "_terminate_thread", classmethod(terminate)
        ):
            self.assertRuns(test)
        with self.assertRaises(ConnectionClosed) as caught:
            clients[0].recv(PATIENCE)
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1012)
        self.assertEqual(left, ["left with 1012"])
        Group.objects.all().delete()

    def test_threads_that_outlive_it_keep_no_connection_of_the_tests(self) -> None:
        def connection_of_the_shared_thread() -> Any:
            return asyncio.run(sync_to_async(lambda: connections["default"])())

        seen: list[Any] = []

        def test(case: Served) -> None:
            with case.websocket("/async/") as client:
                case.say(client, "a")
            # Consumers' synchronous code runs in one thread of asgiref's for ever.
            thread = threading.Thread(
                target=lambda: seen.append(connection_of_the_shared_thread())
            )
            thread.start()
            thread.join()

        self.assertRuns(test)
        self.assertIs(seen[0], connections["default"])
        thread = threading.Thread(
            target=lambda: seen.append(connection_of_the_shared_thread())
        )
        thread.start()
        thread.join()
        self.assertIsNot(seen[1], connections["default"])
        self.assertFalse(connections["default"].allow_thread_sharing)

    def assertRefuses(
        self, case: type[ASGILiveServerTestCase], error: type[Exception], says: str
    ) -> None:
        result = run_case(case, lambda case: None)
        self.assertEqual(result.testsRun, 0)
        self.assertEqual(len(result.errors), 1, result.errors)
        where, report = result.errors[0]
        self.assertIn("setUpClass", str(where))
        self.assertIn(error.__name__, report)
        self.assertIn(says, report)
        self.assertFalse(connections["default"].allow_thread_sharing)

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("localhost", 0)) as taken:
            case = type("Busy", (Served,), {"port": taken.getsockname()[1]})
            self.assertRefuses(case, OSError, "Address already in use")

    def test_an_application_that_is_missing(self) -> None:
        with override_settings(ASGI_APPLICATION="tests.test_testing.nothing"):
            case = type("Missing", (ASGILiveServerTestCase,), {})
            self.assertRefuses(case, ConfigurationError, "has no attribute 'nothing'")

    def test_a_lifespan_that_fails(self) -> None:
        with override_settings(ASGI_APPLICATION="tests.test_testing.never_starts"):
            case = type("Failing", (ASGILiveServerTestCase,), {})
            self.assertRefuses(case, LifespanFailed, "not today")

    def test_wrong_settings(self) -> None:
        with override_settings(DJANGO_DAPHNE={"TIMEOUTS": None}):
            self.assertRefuses(Served, ConfigurationError, "must be a dict")

    def test_a_static_handler_that_speaks_wsgi(self) -> None:
        case = type("Mixed", (StaticLiveServerTestCase, Served), {})
        self.assertRefuses(case, ImproperlyConfigured, "ASGIStaticFilesHandler")


async def never_starts(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "not today"})


TESTS_ON_A_FILE = """
import gc
import json
from urllib.request import urlopen

from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from websockets.sync.client import connect

from django_daphne.testing import ASGILiveServerTestCase
from pages.models import Note


class OnAFile(ASGILiveServerTestCase):
    def test_the_database_is_a_file(self):
        self.assertFalse(connection.is_in_memory_db())
        for number in range(3):
            Note.objects.create(text=f"note {number}")
            with urlopen(self.live_server_url + "/notes/") as response:
                self.assertEqual(len(json.load(response)["notes"]), number + 1)
        with connect(
            self.live_server_ws_url + "/notes/", open_timeout=60
        ) as client:
            client.send("by WebSocket")
            self.assertEqual(client.recv(), "by WebSocket")
        self.assertTrue(Note.objects.filter(text="by WebSocket").exists())

    def test_it_is_empty_again(self):
        self.assertEqual(Note.objects.count(), 0)


def tearDownModule():
    # PostgreSQL would refuse to destroy the test database.
    own = connections["default"]
    for other in gc.get_objects():
        if issubclass(type(other), BaseDatabaseWrapper) and other is not own:
            assert other.connection is None, "a connection was left open"
"""

CONSUMER = """
from channels.generic.websocket import WebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

http = get_asgi_application()

from .models import Note


class Notes(WebsocketConsumer):
    def receive(self, text_data):
        Note.objects.create(text=text_data)
        self.send(text_data)


application = ProtocolTypeRouter({"http": http, "websocket": Notes.as_asgi()})
"""


class OnAFile(unittest.TestCase):
    def test_a_project_whose_test_database_is_a_file(self) -> None:
        project = Project(
            self,
            "from pages.settings import DATABASES\n"
            'DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}\n'
            'DATABASES["default"]["CONN_MAX_AGE"] = None\n',
        )
        project.write("pages/tests.py", TESTS_ON_A_FILE)
        project.write("pages/asgi.py", CONSUMER)
        code, output = project.run("test", PYTHONWARNINGS="always::ResourceWarning")
        self.assertEqual(code, 0, output)
        self.assertIn("Ran 2 tests", output)
        self.assertNotIn("ResourceWarning", output)
        self.assertFalse((project.path / "test.sqlite3").exists())
