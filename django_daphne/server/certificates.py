"""The certificates of a running server, which change while it runs.

A :class:`CertificateStore` has the context that new connections are given. Files that
have changed make a new context; the old one lives on in the connections that have it,
and stays when the new files are of no use. Nobody has to tell us: the files are looked
at every few seconds, and taken once they have stopped changing, because a certificate
and its key are seldom replaced in the same instant.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from ..application.context import server_log
from ..binds import Bind, EndpointTLS
from ..config import ACME, TLS, UNUSABLE_CERTIFICATE, CertificateFiles, Config, spell
from ..errors import BindError, Fault, Problem, TLSError
from .refusals import refusal

if TYPE_CHECKING:
    from .acme_renewal import Renewal
    from .tls import Leaf, ServerContext

#: Seconds between looks at the files. A look is a ``stat()`` of each.
POLL = 2.0

#: Seconds until files that were of no use are tried again, unchanged: a certificate may
#: be valid in a minute, and a file that was not readable has the same date when it is.
RETRY = 60.0

#: A certificate that has less left should have been renewed: those who renew by a
#: machine do so with a third of the life left, and short-lived ones live for days.
SOON = timedelta(days=14)
SOON_SHARE = 6

#: What a file was when it was looked at: modification time, size, inode, device.
Stamp = tuple[int, int, int, int] | None


class CertificateStore:
    """What one server, or one bind, shows in its handshakes.

    ``build`` makes the context that :attr:`current` is, again for each change of one of
    ``files`` (None stands for none). ``place`` is what names it in the log.

    :raises TLSError: when the first context cannot be made.
    """

    def __init__(
        self,
        place: str,
        files: Iterable[str | None],
        build: Callable[[], ServerContext],
    ) -> None:
        self.place = place
        self._files = [file for file in files if file is not None]
        self.build = build
        #: What was wrong with the files last time; None: nothing.
        self._fault: str | None = None
        self._retry_at = 0.0
        self._taken = self._seen = self._look()
        self.current = build()
        self._log("shows")

    def poll(self) -> None:
        """Take files that have changed, and have stopped changing since the last."""
        now = self._look()
        if now == self._seen:
            if now != self._taken:
                self.reload()
            elif self._fault is not None and time.monotonic() >= self._retry_at:
                self._take(known=self._fault)
        self._seen = now

    def reload(self) -> None:
        """Make a new context; if that fails, log an error and leave the old one."""
        self._take(known=None)

    def _take(self, known: str | None) -> None:
        """The same; ``known`` is what has been logged already."""
        self._taken = self._look()
        try:
            self.current = self.build()
        except TLSError as error:
            self._fault = str(error)
            self._retry_at = time.monotonic() + RETRY
            if self._fault != known:
                server_log.error("%s: the old certificate stays: %s", self.place, error)
        else:
            self._fault = None
            self._log("now shows")

    def _look(self) -> list[Stamp]:
        return [_stamp(file) for file in self._files]

    def _log(self, verb: str) -> None:
        for leaf in self.current.leaves:
            soon = expires_soon(leaf)
            server_log.log(
                logging.WARNING if soon else logging.INFO,
                "%s %s the certificate %s, which expires %son %s",
                self.place,
                verb,
                leaf.name,
                "soon, " if soon else "",
                f"{leaf.expires:%d %B %Y}",
            )


def _stamp(file: str) -> Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def expires_soon(leaf: Leaf) -> bool:
    """Whether a certificate that is valid should have been renewed by now."""
    soon = min(SOON, (leaf.expires - leaf.begins) / SOON_SHARE)
    return leaf.expires - datetime.now(UTC) < soon


class Certificates:
    """All the certificates of one server.

    Each is loaded when the first bind that shows it is opened, and watched from
    :meth:`watch` to :meth:`stop`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._own: CertificateStore | None = None
        self._stores: list[CertificateStore] = []
        self._renewal: Renewal | None = None
        #: What to say to an authority that asks for a token; None where none does.
        self.answer_to: Callable[[str], bytes | None] | None = None
        if config.tls is not None and config.tls.acme is not None:
            from .acme_storage import Storage

            self.answer_to = Storage(config.tls.acme).answer
        self._timer: asyncio.TimerHandle | None = None

    def for_bind(self, bind: Bind) -> CertificateStore | None:
        """What ``bind`` shows; None where it speaks no TLS.

        :raises BindError: when it cannot be loaded.
        """
        config = self._config
        if bind.tls is not None:
            try:
                return self._add(_endpoint_store(bind, bind.tls, config))
            except TLSError as error:
                raise refusal(bind, str(error)) from None
        if config.tls is None or not bind.takes_tls:
            return None
        if self._own is None:
            try:
                self._own = self._add(self._open(config.tls))
            except TLSError as error:
                raise BindError(f"TLS: {error}") from None
        return self._own

    def _open(self, tls: TLS) -> CertificateStore:
        if tls.acme is None:
            return _settings_store(tls, self._config)
        store, self._renewal = _automatic_store(tls, tls.acme, self._config)
        return store

    def _add(self, store: CertificateStore) -> CertificateStore:
        self._stores.append(store)
        return store

    @property
    def protocols(self) -> list[str]:
        """What is spoken after a handshake, the best first."""
        from .tls import alpn_protocols

        return alpn_protocols(self._config)

    def reload(self) -> None:
        """Read every file again, changed or not.

        A certificate that could not be had is asked for again.
        """
        for store in self._stores:
            store.reload()
        if self._renewal is not None:
            self._renewal.try_now()

    def watch(self) -> None:
        """Look after the certificates from now on; connections are accepted by now."""
        if self._renewal is not None:
            self._renewal.start()
        self._watch_files()

    def _watch_files(self) -> None:
        if self._stores and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._poll)

    def stop(self) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        self._watch_files()
        for store in self._stores:
            store.poll()


# Reading certificates takes a library that a server without TLS need not load.


def _settings_store(tls: TLS, config: Config) -> CertificateStore:
    from .tls import alpn_protocols, build_context

    tls = _anchored_whole(tls)
    return CertificateStore(
        "TLS", _files(tls), lambda: build_context(tls, alpn_protocols(config))
    )


def _automatic_store(
    tls: TLS, acme: ACME, config: Config
) -> tuple[CertificateStore, Renewal]:
    from .acme_certificate import AutomaticCertificate
    from .tls import alpn_protocols

    tls = _anchored_whole(tls)
    automatic = AutomaticCertificate(tls, acme, alpn_protocols(config))
    store = CertificateStore(
        "TLS", [str(automatic.storage.certificate), *_files(tls)], automatic.build
    )
    refused = ""

    def show(leaf: Leaf) -> None:
        nonlocal refused
        if leaf.pem not in (store.current.leaf.pem, refused):
            # Once is enough, if something else is in its way.
            refused = leaf.pem
            store.reload()

    return store, automatic.renewal(show)


def _anchored_whole(tls: TLS) -> TLS:
    return dataclasses.replace(
        _anchored(tls, "certificate", "private_key", "client_ca"),
        sni={
            host: _anchored(named, "certificate", "private_key")
            for host, named in tls.sni.items()
        },
    )


def _files(tls: TLS) -> list[str | None]:
    files = [tls.certificate, tls.private_key, tls.client_ca]
    for named in tls.sni.values():
        files += [named.certificate, named.private_key]
    return files


def _endpoint_store(bind: Bind, tls: EndpointTLS, config: Config) -> CertificateStore:
    from .tls import alpn_protocols, endpoint_context

    tls = _anchored(tls, "certificate", "private_key", "extra_chain", "dh_parameters")
    return CertificateStore(
        bind.text,
        [tls.certificate, tls.private_key, tls.extra_chain, tls.dh_parameters],
        lambda: endpoint_context(tls, alpn_protocols(config)),
    )


Files = TypeVar("Files", CertificateFiles, TLS, EndpointTLS)


def _anchored(files: Files, *names: str) -> Files:
    """``files`` by absolute paths: the process may change its directory."""
    paths = {name: getattr(files, name) for name in names}
    return dataclasses.replace(
        files, **{name: os.path.abspath(path) for name, path in paths.items() if path}
    )


# -- Checking --------------------------------------------------------------------------


def examine(config: Config) -> tuple[list[Problem], list[str]]:
    """What is wrong with the certificates of ``config`` on this machine, and what
    should have been done about them by now.
    """
    from .tls import alpn_protocols, build_context, endpoint_context

    protocols = alpn_protocols(config)
    problems: list[Problem] = []
    late: list[str] = []

    def say(key: str, place: str, message: str) -> None:
        problems.append(Problem(UNUSABLE_CERTIFICATE, key, f"{place}: {message}"))

    def say_all(faults: Iterable[Fault]) -> None:
        for fault in faults:
            key = f"TLS.{fault.key}"
            say(key, spell(key), fault.message)

    if config.tls is not None and config.tls.acme is not None:
        from .acme_certificate import examine as examine_automatic

        faults, shown, what = examine_automatic(config.tls, config.tls.acme, protocols)
        say_all(faults)
        late += [f"{spell('TLS.ACME')}: {what}"] if what else []
        late += _late(spell("TLS"), shown) if shown is not None else []
    elif config.tls is not None:
        try:
            context = build_context(config.tls, protocols)
        except TLSError as error:
            say_all(error.faults)
        else:
            late += _late(spell("TLS"), context)
    for bind in config.bind:
        if bind.tls is not None:
            place = f"{spell('BIND')}: {bind.text!r}"
            try:
                context = endpoint_context(bind.tls, protocols)
            except TLSError as error:
                say("BIND", place, str(error))
            else:
                late += _late(place, context)
    return problems, late


def _late(place: str, context: ServerContext) -> list[str]:
    return [
        f"{place}: the certificate {leaf.name} expires on {leaf.expires:%d %B %Y}."
        for leaf in context.leaves
        if expires_soon(leaf)
    ]
