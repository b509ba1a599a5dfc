"""Access records: what they carry, their lines, and that nobody can forge one."""

from __future__ import annotations

import datetime
import json
import logging
import logging.config
import logging.handlers
import queue
import re
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.config import ACCESS_FIELDS, build_config
from django_daphne.server import log_setup
from django_daphne.server.access_log import access_log, make_access_log, reopen_all

#: The Common Log Format's time, in the zone of the machine.
TIME = r"\[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4}\]"


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def nobody_listening() -> Iterator[None]:
    """The logger and the root as they are before anything is configured."""
    root = logging.getLogger()
    before = access_log.handlers, access_log.level, access_log.disabled, root.handlers
    access_log.handlers, access_log.disabled, root.handlers = [], False, []
    access_log.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        access_log.handlers, level, access_log.disabled, root.handlers = before
        access_log.setLevel(level)


def http_scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/caf\u00e9",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"q=1",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [
            (b"host", b"example.org"),
            (b"user-agent", b"curl/8"),
            (b"referer", b"http://example.org/"),
        ],
        "client": ("192.0.2.7", 54321),
        **changes,
    }


def websocket_scope(**changes: Any) -> dict[str, Any]:
    scope = http_scope(**{"type": "websocket", "scheme": "ws", "path": "/ws"} | changes)
    scope["raw_path"] = b"/ws"
    del scope["method"]
    return scope


class AccessLogTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(nobody_listening())
        self.listener = Listener()

    def log(
        self,
        scope: dict[str, Any],
        *,
        kind: str = "http",
        status: int = 200,
        sent: int = 12,
        seconds: float = 0.25,
        format: str = "common",
    ) -> logging.LogRecord:
        """The one record that logging a request makes."""
        self.listener.records.clear()
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        log = make_access_log(build_config({"LOGGING": {"FORMAT": format}}))
        assert log is not None
        log(kind, scope, status, sent, seconds)
        (record,) = self.listener.records
        return record

    def line(self, scope: dict[str, Any], **options: Any) -> str:
        return self.log(scope, **options).getMessage()


class Listening(AccessLogTestCase):
    def test_off(self) -> None:
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        self.assertIsNone(make_access_log(build_config({"LOGGING": {"ACCESS": False}})))

    def test_without_a_handler_there_is_nothing_to_call(self) -> None:
        access_log.setLevel(logging.INFO)
        self.assertIsNone(make_access_log(build_config({})))

    def test_below_the_level_there_is_nothing_to_call(self) -> None:
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.WARNING)
        self.assertIsNone(make_access_log(build_config({})))

    def test_a_level_raised_later_is_obeyed(self) -> None:
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        log = make_access_log(build_config({}))
        assert log is not None
        access_log.setLevel(logging.WARNING)
        log("http", http_scope(), 200, 0, 0.0)
        self.assertEqual(self.listener.records, [])

    def test_a_handler_of_the_root_is_enough(self) -> None:
        logging.getLogger().addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        log = make_access_log(build_config({}))
        assert log is not None
        log("http", http_scope(), 200, 0, 0.0)
        self.assertEqual(len(self.listener.records), 1)


class Records(AccessLogTestCase):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {name: getattr(record, name) for name in ACCESS_FIELDS}

    def test_a_request(self) -> None:
        record = self.log(http_scope(), status=404, sent=99, seconds=1.5)
        self.assertEqual(record.name, "django_daphne.access")
        self.assertEqual(record.levelno, logging.INFO)
        fields = self.fields(record)
        self.assertRegex(f"[{fields.pop('time')}]", f"^{TIME}$")
        self.assertEqual(
            fields,
            {
                "kind": "http",
                "client": "192.0.2.7",
                "port": "54321",
                "method": "GET",
                "path": "/caf%C3%A9",
                "query": "q=1",
                "target": "/caf%C3%A9?q=1",
                "host": "example.org",
                "scheme": "http",
                "http_version": "1.1",
                "status": 404,
                "bytes": 99,
                "duration": 1.5,
                "user_agent": "curl/8",
                "referer": "http://example.org/",
            },
        )

    def test_what_is_not_known(self) -> None:
        fields = self.fields(
            self.log(http_scope(headers=[], client=None, query_string=b""))
        )
        for name in ("client", "port", "host", "user_agent", "referer"):
            self.assertEqual(fields[name], "-", name)
        self.assertEqual(fields["query"], "")
        self.assertEqual(fields["target"], "/caf%C3%A9")

    def test_a_scope_without_raw_path(self) -> None:
        scope = http_scope()
        del scope["raw_path"]
        self.assertEqual(self.log(scope).path, "/caf\u00e9")  # type: ignore[attr-defined]

    def test_websockets(self) -> None:
        for kind, method in {
            "connect": "WSCONNECT",
            "reject": "WSREJECT",
            "disconnect": "WSDISCONNECT",
        }.items():
            fields = self.fields(self.log(websocket_scope(), kind=kind, status=1000))
            self.assertEqual(
                (fields["kind"], fields["method"], fields["scheme"], fields["status"]),
                (kind, method, "ws", 1000),
            )

    def test_a_scope_that_the_application_broke_costs_no_response(self) -> None:
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        log = make_access_log(build_config({}))
        assert log is not None
        with self.assertLogs("django_daphne.server", "ERROR") as caught:
            log("http", {"type": "http"}, 200, 0, 0.0)
        self.assertIn("A request could not be logged", caught.output[0])
        self.assertEqual(self.listener.records, [])

    def test_a_failing_handler_costs_no_response(self) -> None:
        def fail(record: logging.LogRecord) -> None:
            raise OSError("disk full")

        self.listener.emit = fail  # type: ignore[method-assign]
        access_log.addHandler(self.listener)
        access_log.setLevel(logging.INFO)
        log = make_access_log(build_config({}))
        assert log is not None
        with self.assertLogs("django_daphne.server", "ERROR") as caught:
            log("http", http_scope(), 200, 0, 0.0)
        self.assertIn("disk full", caught.output[0])


class Lines(AccessLogTestCase):
    def test_common(self) -> None:
        self.assertRegex(
            self.line(http_scope(client=("2001:db8::1", 9))),
            rf'^2001:db8::1 - - {TIME} "GET /caf%C3%A9\?q=1 HTTP/1\.1" 200 12$',
        )

    def test_combined(self) -> None:
        self.assertRegex(
            self.line(http_scope(), format="combined"),
            rf'^192\.0\.2\.7 - - {TIME} "GET /caf%C3%A9\?q=1 HTTP/1\.1" 200 12 '
            r'"http://example\.org/" "curl/8"$',
        )

    def test_json(self) -> None:
        record = self.log(http_scope(), format="json", seconds=0.1234567)
        values = json.loads(record.getMessage())
        when = datetime.datetime.fromisoformat(values.pop("time"))
        self.assertAlmostEqual(when.timestamp(), record.created, delta=0.001)
        self.assertEqual(
            values,
            {
                "kind": "http",
                "client": "192.0.2.7",
                "port": 54321,
                "method": "GET",
                "path": "/caf%C3%A9",
                "query": "q=1",
                "host": "example.org",
                "scheme": "http",
                "http_version": "1.1",
                "status": 200,
                "bytes": 12,
                "duration": 0.123457,
                "user_agent": "curl/8",
                "referer": "http://example.org/",
            },
        )

    def test_json_says_null_for_what_is_not_known(self) -> None:
        line = self.line(http_scope(client=None, headers=[]), format="json")
        values = json.loads(line)
        for name in ("client", "port", "host", "user_agent", "referer"):
            self.assertIsNone(values[name], name)

    def test_daphne(self) -> None:
        local = TIME.replace(" [+-]\\d{4}", "")
        self.assertRegex(
            self.line(http_scope(), format="daphne"),
            rf'^192\.0\.2\.7:54321 - - {local} "GET /caf%C3%A9\?q=1" 200 12$',
        )
        self.assertRegex(
            self.line(websocket_scope(), kind="connect", format="daphne"),
            rf'^192\.0\.2\.7:54321 - - {local} "WSCONNECT /ws\?q=1" - -$',
        )
        self.assertRegex(
            self.line(http_scope(client=None), format="daphne"), r"^None - - \["
        )

    def test_a_template(self) -> None:
        line = self.line(
            http_scope(),
            format="%(levelname)s %(client)s:%(port)s %(status)d %(bytes)s "
            '%(duration).3f "%(user_agent)s"',
        )
        self.assertEqual(line, 'INFO 192.0.2.7:54321 200 12 0.250 "curl/8"')

    def test_a_template_around_the_common_line(self) -> None:
        line = self.line(http_scope(), format="%(asctime)s | %(message)s")
        self.assertRegex(
            line, rf'^\d{{4}}-\d\d-\d\d .+ \| 192\.0\.2\.7 - - {TIME} "GET .+" 200 12$'
        )

    def test_a_formatter_of_the_project_sees_the_attributes(self) -> None:
        record = self.log(http_scope())
        formatter = logging.Formatter("%(method)s %(path)s took %(duration)s")
        self.assertEqual(formatter.format(record), "GET /caf%C3%A9 took 0.25")


class Forgery(AccessLogTestCase):
    """Whatever a client sends, a record is one line with the fields it should have."""

    COMBINED = re.compile(
        r"\S+ - - \[[^]]+\] "
        r'"GET (?:[^"\\]|\\.)* HTTP/1\.1" 200 12 "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*"'
    )

    def test_line_ends_and_escapes_are_spelled_out(self) -> None:
        scope = http_scope(
            headers=[(b"user-agent", b"a\r\nb\x1b[31m\x9b\xe2\x80\xaec")]
        )
        self.assertEqual(
            self.log(scope).user_agent,  # type: ignore[attr-defined]
            r"a\r\nb\x1b[31m\x9b\u202ec",
        )

    def test_a_quote_ends_no_field(self) -> None:
        scope = http_scope(headers=[(b"user-agent", b'" 500 0 "\\')])
        self.assertTrue(
            self.line(scope, format="combined").endswith(r'"-" "\" 500 0 \"\\"')
        )
        self.assertEqual(
            self.line(scope, format='"%(user_agent)s"'), r'"\" 500 0 \"\\"'
        )
        values = json.loads(self.line(scope, format="json"))
        self.assertEqual(values["user_agent"], '" 500 0 "\\')

    def test_an_address_believed_of_a_header(self) -> None:
        scope = http_scope(client=('1.2.3.4 - - [x] "GET', 0))
        self.assertEqual(self.line(scope).split(" ")[1:3], ["-", "-"])

    @given(
        target=st.binary(min_size=1, max_size=40),
        query=st.binary(max_size=20),
        agent=st.binary(max_size=40),
        referer=st.binary(max_size=40),
        client=st.text(min_size=1, max_size=20),
    )
    def test_anything(
        self, target: bytes, query: bytes, agent: bytes, referer: bytes, client: str
    ) -> None:
        scope = http_scope(
            raw_path=target,
            query_string=query,
            headers=[(b"user-agent", agent), (b"referer", referer)],
            client=(client, 1),
        )
        line = self.line(scope, format="combined")
        self.assertTrue(line.isprintable(), line)
        self.assertRegex(line, f"^{self.COMBINED.pattern}$")
        self.assertTrue(self.line(scope, format="%(target)s").isprintable())
        self.assertTrue(self.line(scope, format="daphne").isprintable())
        encoded = self.line(scope, format="json")
        self.assertTrue(encoded.isprintable())
        self.assertEqual(json.loads(encoded)["status"], 200)
        for name in ACCESS_FIELDS:
            value = getattr(self.log(scope), name)
            self.assertTrue(str(value).isprintable(), name)


class Setup(AccessLogTestCase):
    def test_a_handler_is_installed_where_there_is_none(self) -> None:
        log_setup.show_access_lines()
        (handler,) = access_log.handlers
        self.assertIsInstance(handler, logging.StreamHandler)
        self.assertTrue(access_log.isEnabledFor(logging.INFO))

    def test_a_level_that_was_chosen_stays(self) -> None:
        access_log.setLevel(logging.ERROR)
        log_setup.show_access_lines()
        self.assertEqual(access_log.level, logging.ERROR)

    def test_handlers_of_the_project_are_left_alone(self) -> None:
        for logger in (access_log, logging.getLogger()):
            with self.subTest(logger.name), nobody_listening():
                logger.addHandler(self.listener)
                log_setup.show_access_lines()
                self.assertEqual(logger.handlers, [self.listener])
                self.assertEqual(access_log.level, logging.NOTSET)

    def test_loggers_survive_disable_existing_loggers(self) -> None:
        names = ["access", "protocol", "server"]
        loggers = [logging.getLogger(f"django_daphne.{name}") for name in names]
        others = [
            logger
            for logger in logging.Logger.manager.loggerDict.values()
            if isinstance(logger, logging.Logger) and not logger.disabled
        ]
        try:
            logging.config.dictConfig({"version": 1})
            self.assertEqual([logger.disabled for logger in loggers], [True] * 3)
            log_setup.enable_loggers()
            self.assertEqual([logger.disabled for logger in loggers], [False] * 3)
        finally:
            for logger in others:
                logger.disabled = False


class Reopening(unittest.TestCase):
    """After a rotation has moved the file away."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "access.log"
        self.moved = Path(directory.name) / "access.log.1"
        self.logger = logging.getLogger("tests.reopening")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.addCleanup(self.logger.handlers.clear)

    def file_handler(self, **options: Any) -> logging.FileHandler:
        handler = logging.FileHandler(self.path, encoding="utf-8", **options)
        self.addCleanup(handler.close)
        return handler

    def rotate(self) -> None:
        self.logger.info("before")
        self.path.rename(self.moved)
        reopen_all()
        self.logger.info("after")

    def assert_rotated(self) -> None:
        self.assertEqual(self.moved.read_text(), "before\n")
        self.assertEqual(self.path.read_text(), "after\n")

    def test_a_file_handler(self) -> None:
        self.logger.addHandler(self.file_handler())
        self.rotate()
        self.assert_rotated()

    def test_a_handler_that_truncated_its_file(self) -> None:
        self.logger.addHandler(self.file_handler(mode="w"))
        self.logger.info("before")
        reopen_all()
        self.assertEqual(self.path.read_text(), "before\n")

    def test_a_file_that_was_not_opened_yet(self) -> None:
        self.logger.addHandler(self.file_handler(delay=True))
        reopen_all()
        self.assertFalse(self.path.exists())

    def test_a_handler_behind_a_memory_handler(self) -> None:
        self.logger.addHandler(
            logging.handlers.MemoryHandler(
                1, flushLevel=logging.INFO, target=self.file_handler()
            )
        )
        self.rotate()
        self.assert_rotated()

    def test_a_handler_behind_a_queue(self) -> None:
        # As logging.config sets them up from Python 3.12 on.
        handler = logging.handlers.QueueHandler(queue.SimpleQueue())
        handler.listener = logging.handlers.QueueListener(
            handler.queue, self.file_handler()
        )
        handler.listener.start()
        self.logger.addHandler(handler)
        self.logger.info("before")
        handler.listener.stop()
        self.path.rename(self.moved)
        reopen_all()
        handler.listener.start()
        self.logger.info("after")
        handler.listener.stop()
        self.assert_rotated()

    def test_a_file_that_cannot_be_opened_goes_on(self) -> None:
        self.logger.addHandler(self.file_handler())
        self.logger.info("before")
        self.path.rename(self.moved)
        self.path.mkdir()
        with self.assertLogs("django_daphne.server", "ERROR") as caught:
            reopen_all()
        self.assertIn("could not be reopened", caught.output[0])
        self.logger.info("after")
        self.assertEqual(self.moved.read_text(), "before\nafter\n")
