"""Made-up stacks of middleware, and what Django or we make of a request to them.

A :class:`Case` describes a stack, a view, receivers of signals, and where the client
goes away. :func:`observe` sends one request through a handler that was built for it,
and returns everything that anybody could notice: what was sent and logged, which
function ran after which, in which thread, and what each saw in its context. Two
handlers that are observed alike do the same.

The middleware of a case are found by Django as ``tests.handler_stacks.m0``, ``m1`` and
so on, the outermost first.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from asgiref.local import Local
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core import signals
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import override_settings
from django.urls import get_urlconf, path
from django.utils import translation
from django.utils.decorators import (
    async_only_middleware,
    sync_and_async_middleware,
    sync_only_middleware,
)
from django.utils.deprecation import MiddlewareMixin

from django_daphne.handler import exchange

#: What one request may take before it counts as hung; a busy machine needs some.
DEADLINE = 30

KINDS = (
    "mixin", "mixin", "mixin", "mixin-own-call", "mixin-sync-only", "sync-function",
    "async-function", "dual-function", "sync-class", "async-class",
)  # fmt: skip
ENTRIES = ("pass", "pass", "pass", "pass", "answer", "raise", "missing", "forbidden")
EXITS = ("pass", "pass", "pass", "replace", "raise")
HOOKS = (None, None, None, "pass", "answer", "raise")
CHANGES = (None, None, "urlconf", "language")
VIEWS = (
    "plain", "raise", "missing", "none", "template", "template-raise", "stream",
    "stream-async", "atomic", "slow-answer", "bad-header", "not-found", "big",
)  # fmt: skip
RECEIVERS = ("none", "sync", "async")


@dataclass(frozen=True)
class Middleware:
    kind: str = "mixin"
    entry: str | None = "pass"
    exit: str | None = "pass"
    view: str | None = None
    exception: str | None = None
    template: str | None = None
    change: str | None = None
    async_hooks: bool = False


@dataclass(frozen=True)
class Case:
    stack: tuple[Middleware, ...] = ()
    view: str = "plain"
    view_is_async: bool = False
    receivers: str = "none"
    #: The number of the step in which the client goes away.
    leaves_at: int | None = None


@dataclass
class Observed:
    """What a request did, as far as it can be told from outside."""

    head: Any = None
    body: bytes = b""
    error: str = ""
    log: list[Any] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)


_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
_local = Local()
_of_thread = threading.local()


class Run:
    """One request that is being observed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.observed = Observed()
        self.left = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._threads: list[int] = []
        self._count = 0
        self._lock = threading.Lock()

    def note(self, step: str, change: bool = False, where: bool = True) -> bool:
        """Write a step down; True when the client is to go away in it."""
        with self._lock:
            self.observed.steps.append(
                (
                    step,
                    self._where() if where else "",
                    _variable.get(),
                    getattr(_local, "step", ""),
                    self._of_thread() if where else "",
                    get_urlconf(),
                    translation.get_language(),
                )
            )
            if change:
                _variable.set(step)
                _local.step = step
                _of_thread.step = (self, step)
            number, self._count = self._count, self._count + 1
            return number == self.case.leaves_at

    def _where(self) -> str:
        thread = threading.get_ident()
        if thread == self._loop_thread:
            return "loop"
        if thread not in self._threads:
            self._threads.append(thread)
        return f"thread {self._threads.index(thread)}"

    def _of_thread(self) -> str:
        run, step = getattr(_of_thread, "step", (None, ""))
        return step if run is self else ""

    def step(self, name: str) -> None:
        """A step of synchronous code."""
        if self.note(name, change=True):
            gone = threading.Event()
            asyncio.run_coroutine_threadsafe(self._leave(gone), self._loop)
            gone.wait(DEADLINE)

    async def astep(self, name: str) -> None:
        if self.note(name, change=True):
            # Not in a task that may be cancelled by it.
            leaving = asyncio.ensure_future(self._leave(threading.Event()))
            await asyncio.wait([leaving])

    async def _leave(self, gone: threading.Event) -> None:
        self.left.set()
        # Until whoever listens has heard it, and cancelled whom it cancels.
        for _ in range(20):
            await asyncio.sleep(0)
        gone.set()


run: Run


# -- Middleware ------------------------------------------------------------------------


def __getattr__(name: str) -> Any:
    if name[:1] == "m" and name[1:].isdigit():
        return _make(name, run_case.stack[int(name[1:])])
    raise AttributeError(name)


run_case: Case


def _answer(text: str) -> HttpResponse:
    return HttpResponse(text, status=200)


def _fate(what: str | None, name: str) -> HttpResponse | None:
    if what == "answer":
        return _answer(name)
    if what == "raise":
        raise ValueError(name)
    if what == "missing":
        raise Http404(name)
    if what == "forbidden":
        raise PermissionDenied(name)
    return None


def _enter(name: str, spec: Middleware, request: Any) -> HttpResponse | None:
    if spec.change == "urlconf":
        request.urlconf = "tests.handler_stacks_elsewhere"
    elif spec.change == "language":
        translation.activate("de")
    return _fate(spec.entry, name)


def _leave(name: str, spec: Middleware, response: Any) -> Any:
    if spec.exit == "raise":
        raise ValueError(name)
    if spec.exit == "replace":
        return _answer(f"{name} instead of {response.status_code}")
    response[f"X-{name}"] = "passed"
    return response


def _make(name: str, spec: Middleware) -> Any:
    if spec.kind.endswith("function"):
        return _make_function(name, spec)
    return _make_class(name, spec)


def _make_function(name: str, spec: Middleware) -> Any:
    def factory(get_response: Any) -> Any:
        if iscoroutinefunction(get_response):

            async def amiddleware(request: Any) -> Any:
                await run.astep(f"{name} in")
                response = _enter(name, spec, request)
                if response is None:
                    response = await get_response(request)
                await run.astep(f"{name} out")
                return _leave(name, spec, response)

            return amiddleware

        def middleware(request: Any) -> Any:
            run.step(f"{name} in")
            response = _enter(name, spec, request) or get_response(request)
            run.step(f"{name} out")
            return _leave(name, spec, response)

        return middleware

    mark = {
        "sync-function": sync_only_middleware,
        "async-function": async_only_middleware,
        "dual-function": sync_and_async_middleware,
    }[spec.kind]
    return mark(factory)  # type: ignore[operator]


def _make_class(name: str, spec: Middleware) -> Any:
    members: dict[str, Any] = {}
    if spec.kind.startswith("mixin"):
        bases: tuple[type, ...] = (MiddlewareMixin,)
        if spec.entry is not None:

            def process_request(self: Any, request: Any) -> Any:
                run.step(f"{name} process_request")
                return _enter(name, spec, request)

            members["process_request"] = process_request
        if spec.exit is not None:

            def process_response(self: Any, request: Any, response: Any) -> Any:
                run.step(f"{name} process_response")
                return _leave(name, spec, response)

            members["process_response"] = process_response
        if spec.kind == "mixin-own-call":
            _add_own_call(name, members)
        if spec.kind == "mixin-sync-only":
            members["async_capable"] = False
    else:
        bases = (_AsyncClass,) if spec.kind == "async-class" else (_SyncClass,)
        members |= {"name": name, "spec": spec}
    for hook, what in (
        ("process_view", spec.view),
        ("process_exception", spec.exception),
        ("process_template_response", spec.template),
    ):
        if what is not None:
            members[hook] = _make_hook(name, hook, what, spec.async_hooks)
    return type(name, bases, members)


def _add_own_call(name: str, members: dict[str, Any]) -> None:
    async def __acall__(self: Any, request: Any) -> Any:
        await run.astep(f"{name} own")
        return await MiddlewareMixin.__acall__(self, request)  # type: ignore[attr-defined]

    members["__acall__"] = __acall__


def _make_hook(name: str, hook: str, what: str, is_async: bool) -> Any:
    def result(arguments: Any) -> Any:
        if hook == "process_template_response":
            if what == "raise":
                raise ValueError(name)
            response = arguments[1]
            response.context_data = {**(response.context_data or {}), "who": name}
            return response
        return _fate(what, f"{name} {hook}")

    def call(self: Any, *arguments: Any) -> Any:
        run.step(f"{name} {hook}")
        return result(arguments)

    async def acall(self: Any, *arguments: Any) -> Any:
        await run.astep(f"{name} {hook}")
        return result(arguments)

    return acall if is_async else call


class _SyncClass:
    sync_capable = True
    async_capable = False
    name: str
    spec: Middleware

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        run.step(f"{self.name} in")
        response = _enter(self.name, self.spec, request) or self.get_response(request)
        run.step(f"{self.name} out")
        return _leave(self.name, self.spec, response)


class _AsyncClass:
    sync_capable = False
    async_capable = True
    name: str
    spec: Middleware

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        await run.astep(f"{self.name} in")
        response = _enter(self.name, self.spec, request)
        if response is None:
            response = await self.get_response(request)
        await run.astep(f"{self.name} out")
        return _leave(self.name, self.spec, response)


# -- Views -----------------------------------------------------------------------------


class _Template(TemplateResponse):
    """Rendered without a template."""

    @property
    def rendered_content(self) -> str:
        run.step("render")
        if self.template_name == "raise":
            raise ValueError("render")
        return f"rendered {self.context_data}"


def _respond(request: Any, what: str) -> Any:
    if what == "raise":
        raise ValueError("view")
    if what == "missing":
        raise Http404("view")
    if what == "none":
        return None
    if what.startswith("template"):
        template = "raise" if what.endswith("raise") else "a"
        return _Template(request, template, {"view": what})
    if what == "stream":
        return StreamingHttpResponse(_pieces())
    if what == "stream-async":
        return StreamingHttpResponse(_apieces())
    if what == "bad-header":
        return HttpResponse("x", headers={"X-Bad": b"\xff".decode("latin-1") + "é"})
    if what == "not-found":
        return HttpResponse("not here", status=404)
    if what == "big":
        return HttpResponse(b"0123456789abcdef" * 10_000)
    response = HttpResponse(f"{what} {request.path}")
    response.set_cookie("seen", what)
    return response


def _pieces() -> Iterator[bytes]:
    for number in range(3):
        run.note(f"piece {number}")
        yield b"piece %d\n" % number


async def _apieces() -> Any:
    for number in range(3):
        run.note(f"piece {number}")
        yield b"piece %d\n" % number


def _make_views(suffix: str) -> list[Any]:
    def view(request: Any, what: str) -> Any:
        run.step(f"view{suffix}")
        return _respond(request, what)

    async def aview(request: Any, what: str) -> Any:
        await run.astep(f"aview{suffix}")
        return _respond(request, what)

    return [path("sync/<what>", view), path("async/<what>", aview)]


urlpatterns = _make_views("")
elsewhere = _make_views(" elsewhere")


# -- Observing -------------------------------------------------------------------------


def _note(name: str, where: bool) -> None:
    run.note(name, where=where)


@contextlib.contextmanager
def _receivers(kind: str) -> Iterator[None]:
    if kind == "none":
        yield
        return
    connected = []
    for name in ("request_started", "request_finished", "got_request_exception"):
        # The thread of the last differs: Django answers exceptions in any.
        where = name != "got_request_exception"

        def receive(name: str = name, where: bool = where, **kwargs: Any) -> None:
            run.note(name, where=where)

        async def areceive(
            name: str = name, where: bool = where, **kwargs: Any
        ) -> None:
            run.note(name, where=where)

        signal = getattr(signals, name)
        receiver = areceive if kind == "async" else receive
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))
    try:
        yield
    finally:
        for signal, receiver in connected:
            signal.disconnect(receiver)


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        run.observed.log.append(
            (record.name, record.levelname, record.getMessage(), repr(error))
        )


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    logger, handler = logging.getLogger("django"), _Log()
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


async def _request(handler: Any, case: Case) -> Observed:
    global run
    run = Run(case)
    seen, sent = run.observed, False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await run.left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            run.note("send head", where=False)
            seen.head = message["status"], sorted(message["headers"])
        else:
            seen.body += message.get("body", b"")
            if not message.get("more_body", False):
                run.note("send end", where=False)

    flavour = "async" if case.view_is_async else "sync"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": f"/{flavour}/{case.view}",
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    try:
        await asyncio.wait_for(handler(scope, receive, send), DEADLINE)
    except Exception as error:
        seen.error = f"{type(error).__name__}: {error}"
    return seen


@contextlib.contextmanager
def _listening(at_once: bool) -> Iterator[None]:
    """Have our handler listen for the client's going from the beginning, if need be."""
    with contextlib.ExitStack() as stack:
        if at_once:
            stack.enter_context(mock.patch.object(exchange, "LISTEN_AFTER", 0))
        yield


def observe(handler_class: Callable[[], Any], case: Case) -> Observed:
    """What a request does to a handler of ``handler_class``."""
    global run_case
    run_case = case
    names = [f"tests.handler_stacks.m{number}" for number in range(len(case.stack))]
    with (
        override_settings(
            MIDDLEWARE=names,
            ROOT_URLCONF="tests.handler_stacks",
            DEBUG=False,
            ALLOWED_HOSTS=["testserver"],
            USE_I18N=True,
            LANGUAGE_CODE="en",
        ),
        _receivers(case.receivers),
        _logged(),
        warnings.catch_warnings(),
        _listening(case.leaves_at is not None),
    ):
        warnings.simplefilter("ignore")
        handler = handler_class()
        # In a context of its own: what one request leaves is not to meet the next.
        start = functools.partial(asyncio.run, _request(handler, case))
        return contextvars.Context().run(start)
