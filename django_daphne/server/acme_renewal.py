"""Keeps an automatic certificate new while the server runs.

The loop does nothing but look at the clock, every half minute: a long timer would be
wrong after the machine was suspended or its clock set. When something is due, a thread
sees to it (:func:`tend`), for the library blocks; it is a daemon, so that no authority
that takes its time keeps the process from ending.

Everything that counts is in the storage and read again each time. Processes that share
one need not know of each other: whoever has the lock first does the work, the others
find it done.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from ..application.context import server_log
from ..config import ACME
from ..errors import TLSError
from .acme_client import Authority, Refusal, Stopped
from .acme_storage import Status, Storage
from .acme_timing import (
    ASK_AGAIN,
    ASK_LATEST,
    ASK_SOONEST,
    Fault,
    make_plan,
    mark_of,
    now,
    wait_after,
    within,
)
from .tls import Leaf

#: Seconds between looks at the clock and at the storage.
LOOK = 30.0

#: Seconds from the end of an attempt to the next look: what another process is doing
#: just now must not have us go round and round.
PAUSE = 2.0

#: Seconds from the end of an attempt to the next look where we made a mistake: what it
#: was about is repeated by then, and may have been noted nowhere.
PAUSE_AFTER_A_MISTAKE = 3600.0

#: From a failure to the next attempt, where somebody wants it now; a program that sends
#: SIGHUP each second is nobody who has mended something.
SOONEST = timedelta(seconds=10)

#: Stops in the middle of an attempt, in a row, after which the next start does not
#: begin another at once: a server that is restarted again and again, by a monitor that
#: likes it only with a certificate, would order without end.
STOPS = 3

_UNFINISHED = "the server died before the authority had answered"
_STOPPED = "the server was stopped before the authority had answered, again and again"


class Renewal:
    """Renews the certificate of ``storage``, from :meth:`start` to :meth:`stop`.

    ``show`` is called on the loop when another certificate may be there to be shown.
    """

    def __init__(self, storage: Storage, show: Callable[[Leaf], None]) -> None:
        self._storage = storage
        self._show = show
        self._timer: asyncio.TimerHandle | None = None
        self._working = False
        self._course = Course()
        #: What could not be done with the storage, as it was logged last.
        self._complaint = ""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell_of_wait()
        self._look()

    def _tell_of_wait(self) -> None:
        """Say that nothing is done yet, to those who start a server to see it done."""
        try:
            leaf, status = usable_leaf(self._storage), self._storage.status()
        except OSError:
            # _look() says so.
            return
        order = make_plan(leaf, status, now()).order
        if now() < order and order in (status.next_attempt, status.unfinished):
            server_log.warning(
                "ACME: the last attempt to have a certificate failed: %s. The next is "
                "at %s%s",
                status.error or _UNFINISHED,
                shown(order),
                "" if status.told_to_wait else ", or on SIGHUP",
            )

    def stop(self) -> None:
        """Begin nothing new; an attempt under way is given up, and not waited for."""
        self._course.stopped.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._course.ordering.is_set():
            # The thread may not live to do so itself.
            with contextlib.suppress(OSError):
                _give_up(self._storage)

    def try_now(self) -> None:
        """Wait no longer, unless it is the authority that has asked for it."""
        if self._working or self._course.stopped.is_set():
            return
        try:
            with self._storage.lock() as held:
                status = self._storage.status()
                if held and not status.told_to_wait:
                    soonest = None
                    if status.next_attempt is not None and status.failed is not None:
                        soonest = min(status.next_attempt, status.failed + SOONEST)
                    status = dataclasses.replace(
                        status, next_attempt=soonest, unfinished=None
                    )
                    self._storage.save_status(status, durable=False)
        except OSError as error:
            self._complain(error)
        if self._timer is not None:
            self._timer.cancel()
            self._look()

    def _look(self) -> None:
        self._timer = None
        if self._course.stopped.is_set():
            return
        wait = LOOK
        try:
            leaf = usable_leaf(self._storage)
            if leaf is not None:
                self._show(leaf)
            plan = make_plan(leaf, self._storage.status(), now())
        except OSError as error:
            self._complain(error)
        except Exception:
            # Whatever it is, there has to be a next look.
            server_log.exception("ACME: a look failed by a mistake of the server")
        else:
            wait = min(wait, (plan.next - now()).total_seconds())
            if wait <= 0:
                if self._begin():
                    return
                wait = LOOK
        self._timer = self._loop.call_later(max(wait, 0.01), self._look)

    def _begin(self) -> bool:
        """Have a thread see to what is due, if there may be one more."""
        thread = threading.Thread(
            target=self._work, name="django-daphne-acme", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            server_log.error("ACME: %s; tried again in %g s", error, LOOK)
            return False
        self._working = True
        return True

    def _work(self) -> None:
        failure: OSError | None = None
        pause = PAUSE
        try:
            tend(self._storage, self._course)
        except OSError as error:
            failure, pause = error, LOOK
        except Exception:
            pause = PAUSE_AFTER_A_MISTAKE
            server_log.exception("ACME: the renewal failed by a mistake of the server")
        finally:
            # A loop that has closed needs to be told nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._worked, failure, pause)

    def _worked(self, failure: OSError | None, pause: float) -> None:
        self._working = False
        if self._course.stopped.is_set():
            return
        if failure is None:
            self._complaint = ""
        else:
            self._complain(failure)
        with contextlib.suppress(OSError):
            leaf = usable_leaf(self._storage)
            if leaf is not None:
                self._show(leaf)
        self._timer = self._loop.call_later(pause, self._look)

    def _complain(self, error: OSError) -> None:
        complaint = f"{self._storage.path} cannot be used: {error}"
        if complaint != self._complaint:
            self._complaint = complaint
            server_log.error("ACME: %s; tried again every %g s", complaint, LOOK)


def usable_leaf(storage: Storage) -> Leaf | None:
    """The certificate in ``storage``, if there is one that can be shown."""
    try:
        return storage.leaf()
    except TLSError:
        return None


@dataclass(frozen=True, slots=True)
class Course:
    """What a thread and the loop tell each other."""

    #: The server stops: nothing that is begun need be ended.
    stopped: threading.Event = field(default_factory=threading.Event)
    #: It is by us that a certificate is ordered just now.
    ordering: threading.Event = field(default_factory=threading.Event)


def tend(storage: Storage, course: Course) -> None:
    """Do what is due about the certificate, if it is ours to do; this blocks.

    :raises OSError: when the storage fails.
    """
    storage.prepare()
    with storage.lock() as held:
        if not held:
            return
        storage.tidy()
        storage.close_to_others()
        # Since we looked, another process may have done it.
        leaf, status = usable_leaf(storage), storage.status()
        plan = make_plan(leaf, status, now())
        if plan.order <= now():
            _order(storage, leaf, status, course)
        elif leaf is not None and plan.ask is not None and plan.ask <= now():
            _ask(storage, leaf, status, course)


def _order(storage: Storage, leaf: Leaf | None, before: Status, course: Course) -> None:
    acme = storage.acme
    names = ", ".join(acme.domains)
    server_log.info(
        "ACME: ordering a certificate for %s from %s", names, acme.directory_url
    )
    # Written first: a process that dies over its order, and is started again at once,
    # time after time, must not ask the authority as often.
    if before.unfinished is not None:
        before = _failed(storage, before, Refusal(Fault.REFUSED, _UNFINISHED))
    doubt = now() + wait_after(Fault.REFUSED, before.failures + 1)
    course.ordering.set()
    try:
        storage.save_status(dataclasses.replace(before, unfinished=doubt))
        pem = Authority(storage, course.stopped).order(leaf)
        storage.save_certificate(pem)
    except (Stopped, Refusal, TLSError, OSError) as error:
        if course.stopped.is_set() or isinstance(error, Stopped):
            _give_up(storage)
            return
        if isinstance(error, TLSError):
            said = f"the certificate that the authority sent is of no use: {error}"
            error = Refusal(Fault.REFUSED, said)
        elif not isinstance(error, Refusal):
            # By the storage, which may have lost a certificate that the authority has
            # issued, and counts.
            error = Refusal(Fault.REFUSED, str(error))
        status = _failed(storage, before, error)
        storage.save_status(status)
        server_log.error(
            "ACME: no certificate for %s: %s. %s; the next attempt is at %s",
            names,
            error,
            "There is none yet" if leaf is None else "The old one stays",
            "..." if status.next_attempt is None else shown(status.next_attempt),
        )
        return
    finally:
        course.ordering.clear()
        storage.tidy()
    storage.save_status(Status(issued=now()))
    leaf = usable_leaf(storage)
    if leaf is not None:
        server_log.info(
            "ACME: a certificate for %s was issued, which expires at %s",
            names,
            shown(leaf.expires),
        )


def _give_up(storage: Storage) -> None:
    """Forget that an attempt was begun: to stop a server is no mistake of anybody's.

    To stop it each time is. Both the loop and the thread may call this.
    """
    status = storage.status()
    if status.unfinished is None:
        return
    status = dataclasses.replace(status, unfinished=None, given_up=status.given_up + 1)
    if status.given_up >= STOPS:
        wait = wait_after(Fault.AWAY, status.given_up - STOPS + 1)
        status = dataclasses.replace(
            status,
            error=_STOPPED,
            next_attempt=now() + wait,
            tried_with=storage.tried_with,
        )
    storage.save_status(status, durable=False)


def _failed(storage: Storage, before: Status, error: Refusal) -> Status:
    failures = before.failures + 1
    return dataclasses.replace(
        before,
        failures=failures,
        error=str(error),
        failed=now(),
        next_attempt=now() + wait_after(error.fault, failures, error.told),
        unfinished=None,
        given_up=0,
        told_to_wait=error.told is not None or error.fault is Fault.LIMITED,
        tried_with=storage.tried_with,
    )


def _ask(storage: Storage, leaf: Leaf, status: Status, course: Course) -> None:
    suggested, again = None, ASK_AGAIN
    if status.suggested_for == mark_of(leaf):
        # It stands until something else is said.
        suggested = status.suggested
    try:
        window, again = Authority(storage, course.stopped).renewal_window(leaf)
    except Stopped:
        return
    except Refusal as error:
        again = error.told or again
        server_log.info("ACME: when to renew was not to be known: %s", error)
    else:
        suggested = None if window is None else within(leaf, *window)
    again = min(max(again, ASK_SOONEST), ASK_LATEST)
    storage.save_status(
        dataclasses.replace(
            status,
            suggested=suggested,
            suggested_for=mark_of(leaf),
            ask_again=now() + again,
        )
    )


def shown(time: datetime) -> str:
    """A time for people: whole seconds, rounded up, so that nothing comes too early."""
    if time.microsecond:
        time += timedelta(seconds=1)
    return f"{time:%d %B %Y %H:%M:%S} UTC"


# -- What is told ----------------------------------------------------------------------


def report(acme: ACME) -> dict[str, Any]:
    """How things stand, for JSON; nothing is changed or asked."""
    storage, status = Storage(acme), Status()
    fault = None
    leaf = None
    try:
        status = storage.status()
        leaf = storage.leaf()
    except TLSError as error:
        fault = str(error)
    except OSError as error:
        fault = error.strerror
    plan = make_plan(leaf, status, now())
    described: dict[str, Any] = {
        "DOMAINS": list(acme.domains),
        "DIRECTORY_URL": acme.directory_url,
        "CERTIFICATE": None,
        "ISSUER": None,
        "EXPIRES": None,
        "NEXT_RENEWAL": _spell(plan.order),
        "FAILURES": status.failures,
        "LAST_ERROR": fault or status.error or None,
        "LAST_FAILURE": _spell(status.failed),
    }
    if leaf is not None:
        certificate = x509.load_pem_x509_certificate(leaf.pem.encode())
        described["CERTIFICATE"] = str(storage.certificate)
        described["ISSUER"] = certificate.issuer.rfc4514_string()
        described["EXPIRES"] = _spell(leaf.expires)
    return described


def _spell(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")
