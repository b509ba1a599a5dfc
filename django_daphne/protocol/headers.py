"""Field names and values: what may come in, what may go out (RFC 9110 section 5).

The same few names come with nearly every message, so both directions learn a name once
and look it up afterwards: :data:`REQUEST_NAMES` gives the lower-case form (empty for a
name that is dropped), :data:`RESPONSE_NAMES` the bytes to put on the wire and whether
the name is one whose meaning is the server's. Both tables are bounded, or a client that
invents names would grow them for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import IllegalMessage, ProtocolError

Headers = list[tuple[bytes, bytes]]

#: Names kept in each table; browsers, proxies and frameworks together use a few dozen.
MAX_LEARNT_NAMES = 1024

#: RFC 9110 section 5.6.2.
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: RFC 9110 section 5.5; what we send never has control characters other than TAB.
FIELD_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
#: RFC 9112 section 3.2: uri-host [":" port], as RFC 3986 spells it.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]"
    rb"|\[v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]"
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)

#: Kinds of response field that the server itself decides about.
ORDINARY, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE, SERVER = range(6)

_RESPONSE_KINDS = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

#: A request's field name as it came -> its lower-case form; empty: to be dropped.
REQUEST_NAMES: dict[bytes, bytes] = {}
#: An application's field name as it came -> (b"Name: ", kind).
RESPONSE_NAMES: dict[bytes, tuple[bytes, int]] = {}

#: Host values found valid.
KNOWN_HOSTS: set[bytes] = set()


def learn_request_name(name: bytes) -> bytes:
    """The lower-case form of a name that the parser has already found to be a token.

    A name with an underscore gives nothing: CGI-like environments (Django's ``META``)
    fold ``_`` and ``-`` together, which lets ``X_Forwarded_For`` pass for its twin.
    """
    lowered = b"" if b"_" in name else name.lower()
    if len(REQUEST_NAMES) < MAX_LEARNT_NAMES:
        REQUEST_NAMES[name] = lowered
    return lowered


def learn_response_name(name: object) -> tuple[bytes, int]:
    """The wire form and the kind of a name that the application sends.

    :raises IllegalMessage: when it is not a field name.
    """
    if not isinstance(name, bytes):
        raise IllegalMessage(
            f"header names must be byte strings, not {type(name).__name__}: {name!r}"
        )
    if not TOKEN.fullmatch(name):
        raise IllegalMessage(f"{name!r} is not a valid header name")
    known = (name + b": ", _RESPONSE_KINDS.get(name.lower(), ORDINARY))
    if len(RESPONSE_NAMES) < MAX_LEARNT_NAMES:
        RESPONSE_NAMES[name] = known
    return known


def explain_bad_headers(headers: Iterable[tuple[object, object]]) -> IllegalMessage:
    """Say which of an application's headers cannot be sent, and why."""
    for item in headers:
        try:
            name, value = item
        except (TypeError, ValueError):
            return IllegalMessage(f"headers must be (name, value) pairs, not {item!r}")
        if not isinstance(value, bytes):
            kind = type(value).__name__
            return IllegalMessage(
                f"header values must be byte strings, not {kind}: {name!r}: {value!r}"
            )
        if not FIELD_VALUE.fullmatch(value):
            return IllegalMessage(
                f"the value of header {name!r} has a control character "
                f"(a CR or LF would inject headers): {value!r}"
            )
    return IllegalMessage("the headers cannot be sent")


def check_host(value: bytes) -> None:
    """Refuse a Host that is not one (RFC 9112 section 3.2).

    :raises ProtocolError: 400.
    """
    if not _HOST.fullmatch(value):
        raise ProtocolError(f"invalid Host {value[:100]!r}")
    if len(KNOWN_HOSTS) < MAX_LEARNT_NAMES:
        KNOWN_HOSTS.add(value)


def split_tokens(value: bytes) -> list[bytes]:
    """The lower-case members of a comma-separated list (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t").lower() for member in value.split(b",")]
