"""A request's head out of the fields of an HTTP/2 header block (RFC 9113 section 8).

Two kinds of fault are told apart. A *malformed* request breaks the rules of HTTP/2;
what another hop makes of it nobody knows, so it is not answered but reset
(:class:`Malformed`, RFC 9113 section 8.1.1). A request that is well-formed and not
acceptable — too large, for no host, for something we do not do — is answered with a
status, as on HTTP/1.1 (:class:`~django_daphne.errors.ProtocolError`).

Names are learnt: nearly every field of a request has been seen before, and a look-up is
all that is left of its name's validation. Values are validated together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from ..config import Limits
from ..errors import ProtocolError
from .headers import KNOWN_HOSTS, TOKEN, Headers, check_host
from .priority import UNSAID, Priority, read_priority

Fields = Iterable[tuple[bytes, bytes]]

#: RFC 9113 section 6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE): what a field counts for
#: besides its name and value.
FIELD_OVERHEAD = 32

#: Names kept, and the longest of them; those of all browsers and proxies together are a
#: few dozen.
MAX_LEARNT_NAMES = 1024
MAX_LEARNT_NAME = 256

#: RFC 9113 section 8.2: lower-case, and a token (RFC 9110 section 5.6.2) otherwise.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_PATH = re.compile(rb"/[^\x00-\x20\x7f#]*")
_LENGTH = re.compile(rb"[0-9]{1,19}")
#: Control characters that no value has (RFC 9110 section 5.5); TAB may be inside of it,
#: and line feeds, which may not, are counted.
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in b"\t\n")

#: What becomes of a field: passed on; passed on, and looked at; dropped; refused.
_ORDINARY, _FRAMING, _DROPPED, _FORBIDDEN = range(4)

_KNOWN_KINDS: dict[bytes, int] = {
    # RFC 9113 section 8.2.2: they speak of a connection that is not there.
    b"connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
    b"content-length": _FRAMING,
    b"cookie": _FRAMING,
    b"expect": _FRAMING,
    b"host": _FRAMING,
    b"priority": _FRAMING,
    b"te": _FRAMING,
}
#: And of those that were learnt.
_KINDS = _KNOWN_KINDS.copy()


class Malformed(Exception):
    """A request that RFC 9113 calls malformed; the text says why, for the log."""


class Head:
    """A request's head: what an application wants to know of it, and its framing.

    As on HTTP/1.1: ``path`` is decoded and without the query, ``raw_path`` and
    ``query`` are as sent, ``headers`` has lower-case names in the order of arrival.
    """

    __slots__ = (
        "expect_continue", "headers", "length", "method", "path", "priority", "query",
        "raw_path", "trailers_accepted", "upgrade",
    )  # fmt: skip

    http_version = "2"

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers

    def __init__(self) -> None:
        #: The number of body bytes, as announced; None where nothing was.
        self.length: int | None = None
        self.expect_continue = False
        self.trailers_accepted = False
        #: The protocol of an extended CONNECT (RFC 8441), lower-case.
        self.upgrade: bytes | None = None
        self.priority: Priority = UNSAID

    def copy(self) -> Head:
        """A head for another request with the same fields.

        The application may change the list in its scope, so that is not shared.
        """
        head = Head()
        head.method = self.method
        head.path = self.path
        head.raw_path = self.raw_path
        head.query = self.query
        head.headers = self.headers.copy()
        head.length = self.length
        head.expect_continue = self.expect_continue
        head.trailers_accepted = self.trailers_accepted
        head.upgrade = self.upgrade
        head.priority = self.priority
        return head


def read_head(fields: Fields, limits: Limits) -> Head:
    """The head of a request.

    :raises Malformed: where the stream is to be reset.
    :raises ProtocolError: where the request is to be answered with its status.
    """
    head = Head()
    pseudo, headers, framing = _sort(fields, limits)
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    priorities: list[bytes] = []
    for name, value in framing:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"priority":
            priorities.append(value)
        elif name == b"expect":
            head.expect_continue = value.lower() == b"100-continue"
        elif name == b"te":
            # RFC 9113 section 8.2.2: nothing else may be asked for.
            if value.lower() != b"trailers":
                raise Malformed(f"TE: {value[:40]!r}")
            head.trailers_accepted = True
    if priorities:
        head.priority = read_priority(b",".join(priorities))
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise Malformed(f"invalid Content-Length {b', '.join(lengths)[:40]!r}")
        head.length = int(lengths[0])
    _read_control(head, pseudo, limits)
    host = _read_host(pseudo.get(b":authority"), hosts)
    headers.insert(0, (b"host", host))
    if len(headers) > limits.header_count:
        raise ProtocolError(
            "the header section has more fields than LIMITS['HEADER_COUNT']", 431
        )
    head.headers = headers
    return head


def check_trailers(fields: Fields, limits: Limits) -> None:
    """Validate the trailers of a request (RFC 9113 section 8.1).

    :raises Malformed: where the stream is to be reset.
    :raises ProtocolError: 431, where there are too many.
    """
    pseudo, headers, framing = _sort(fields, limits)
    if pseudo:
        raise Malformed("a pseudo-header field among the trailers")
    if any(name == b"content-length" for name, _ in framing):
        raise Malformed("Content-Length among the trailers")
    if len(headers) > limits.header_count:
        raise ProtocolError("too many trailers", 431)


def _sort(
    fields: Fields, limits: Limits
) -> tuple[dict[bytes, bytes], Headers, list[tuple[bytes, bytes]]]:
    """Pseudo-header fields; fields to pass on; and those that say something to us."""
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    framing: list[tuple[bytes, bytes]] = []
    values: list[bytes] = []
    crumbs: list[bytes] = []
    ordinary = False
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_OVERHEAD
        values.append(value)
        kind = _KINDS.get(name)
        if kind is None:
            if name[:1] == b":":
                # RFC 9113 section 8.3: before all others, and each once.
                if ordinary:
                    raise Malformed(f"{name[:40]!r} after other fields")
                if name in pseudo:
                    raise Malformed(f"{name[:40]!r} is repeated")
                pseudo[name] = value
                continue
            kind = _learn(name)
        ordinary = True
        if kind == _ORDINARY:
            headers.append((name, value))
        elif kind == _FRAMING:
            framing.append((name, value))
            if name == b"cookie":
                if not crumbs:
                    headers.append((name, value))
                crumbs.append(value)
            elif name != b"host":
                headers.append((name, value))
        elif kind == _FORBIDDEN:
            raise Malformed(f"the connection-specific field {name!r}")
    if _has_bad_value(values):
        raise Malformed("a field value with control characters or outer white space")
    if size > limits.header_bytes:
        raise ProtocolError("the header section is over LIMITS['HEADER_BYTES']", 431)
    if len(crumbs) > 1:
        # RFC 9113 section 8.2.3.
        cookie = (b"cookie", b"; ".join(crumbs))
        headers = [cookie if field[0] == b"cookie" else field for field in headers]
    return pseudo, headers, framing


def _has_bad_value(values: list[bytes]) -> bool:
    """Whether a value has control characters, or white space at either end.

    RFC 9113 section 8.2.1. By searches that take no step for each byte in Python or in
    a regular expression: twenty bytes on the wire can stand for 64 KB of fields.
    """
    lines = b"\n".join((b"", *values, b""))
    return (
        lines.count(b"\n") != len(values) + 1
        or len(lines.translate(None, _CONTROLS)) != len(lines)
        or b"\n " in lines
        or b" \n" in lines
        or b"\n\t" in lines
        or b"\t\n" in lines
    )


def _learn(name: bytes) -> int:
    if not _NAME.fullmatch(name):
        raise Malformed(f"{name[:40]!r} is not a field name")
    # CGI-like environments (Django's META) fold "_" and "-" together, which lets
    # x_forwarded_for pass for its twin.
    kind = _DROPPED if b"_" in name else _ORDINARY
    if len(name) <= MAX_LEARNT_NAME:
        if len(_KINDS) >= MAX_LEARNT_NAMES:
            _KINDS.clear()
            _KINDS.update(_KNOWN_KINDS)
        _KINDS[name] = kind
    return kind


def _read_control(head: Head, pseudo: dict[bytes, bytes], limits: Limits) -> None:
    """Method, scheme, path and protocol (RFC 9113 section 8.3.1, RFC 8441)."""
    method = pseudo.get(b":method", b"")
    if not TOKEN.fullmatch(method):
        raise Malformed(f"invalid :method {method[:40]!r}")
    connect = method == b"CONNECT"
    protocol = pseudo.get(b":protocol")
    known = 1 + (b":authority" in pseudo)
    if connect and protocol is None:
        # RFC 9113 section 8.5: an authority, and neither scheme nor path.
        if len(pseudo) != 2 or known != 2:
            raise Malformed("CONNECT with other control data than an authority")
        raise ProtocolError("CONNECT is not implemented", 501)
    scheme, path = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    if len(pseudo) != known + 2 + (protocol is not None):
        odd = pseudo.keys() - {b":method", b":scheme", b":path", b":authority"}
        raise Malformed(f"control data missing or unknown: {sorted(odd)!r}")
    if not _SCHEME.fullmatch(scheme):
        raise Malformed(f"invalid :scheme {scheme[:40]!r}")
    if not _PATH.fullmatch(path) and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed(f"invalid :path {path[:100]!r}")
    if len(method) + len(path) > limits.request_line:
        raise ProtocolError("the request target is over LIMITS['REQUEST_LINE']", 414)
    if protocol is not None:
        if not connect:
            raise Malformed(":protocol without CONNECT")
        if not TOKEN.fullmatch(protocol):
            raise Malformed(f"invalid :protocol {protocol[:40]!r}")
        head.upgrade = protocol.lower()
        if head.upgrade != b"websocket":
            raise ProtocolError(f"unknown :protocol {protocol[:40]!r}", 501)
    raw_path, _, head.query = path.partition(b"?")
    head.raw_path = raw_path
    decoded = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    head.path = decoded.decode("utf-8", "replace")
    head.method = method.decode("ascii").upper()


def _read_host(authority: bytes | None, hosts: list[bytes]) -> bytes:
    """The host that is asked for: ``:authority``, or where there is none, ``Host``."""
    if len(hosts) > 1:
        raise ProtocolError("more than one Host")
    host = authority if authority is not None else hosts[0] if hosts else None
    if not host or host[:1] == b":":
        # RFC 9110 section 4.2.1: there is no http URI without one.
        raise ProtocolError("no Host")
    if hosts and hosts[0].lower() != host.lower():
        # RFC 9113 section 8.3.1: two hops could serve two different hosts.
        raise ProtocolError(f"Host {hosts[0][:100]!r} is not {host[:100]!r}")
    if host not in KNOWN_HOSTS:
        check_host(host)
    return host
