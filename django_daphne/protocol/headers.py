"""Field names and values: what may come in, what may go out (RFC 9110 section 5).

The same few fields come with nearly every message, so both directions learn a thing
once and look it up afterwards: :data:`REQUEST_NAMES` gives a name's lower-case form (or
nothing for a name that is dropped), :data:`RESPONSE_FIELDS` the line of a whole field
that was found fit to be sent. The tables are bounded, or a peer that invents names and
an application that invents values would grow them for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import IllegalMessage, ProtocolError, shown

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

#: Kinds of response field: what the server itself decides about, and the rest.
ORDINARY, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE, SERVER = range(6)

_RESPONSE_KINDS = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

#: The two spellings of that name which frameworks use.
LENGTH_NAMES = frozenset({b"content-length", b"Content-Length"})

#: Fields whose values are new every time, or nobody else's to keep.
_NEVER_LEARNT = frozenset(
    {b"set-cookie", b"etag", b"last-modified", b"expires", b"location"}
)

#: More digits than 2**63 has.
MAX_LENGTH_DIGITS = 19

#: The longest line that is remembered.
MAX_LEARNT_LINE = 256

#: A request's field name as it came -> its lower-case form; empty: to be dropped.
REQUEST_NAMES: dict[bytes, bytes] = {}
#: An application's field name as it came -> (b"Name: ", kind).
_RESPONSE_NAMES: dict[bytes, tuple[bytes, int]] = {}
#: An application's whole field, of the ordinary kind -> its line.
RESPONSE_FIELDS: dict[tuple[bytes, bytes], bytes] = {}

#: Host values found valid.
KNOWN_HOSTS: set[bytes] = set()


def learn_request_name(name: bytes) -> bytes:
    """The lower-case form of a name that the parser has already found to be a token.

    A name with an underscore gives nothing: CGI-like environments (Django's ``META``)
    fold ``_`` and ``-`` together, which lets ``X_Forwarded_For`` pass for its twin.
    """
    lowered = b"" if b"_" in name else name.lower()
    if len(name) <= MAX_LEARNT_LINE:
        if len(REQUEST_NAMES) >= MAX_LEARNT_NAMES:
            REQUEST_NAMES.clear()
        REQUEST_NAMES[name] = lowered
    return lowered


def read_response_field(field: tuple[bytes, bytes]) -> tuple[bytes, int]:
    """The line, without its end, and the kind of a field that the application sends.

    :raises IllegalMessage: when it cannot be sent.
    """
    try:
        name, value = field
    except (TypeError, ValueError):
        raise IllegalMessage(
            f"headers must be (name, value) pairs, not {shown(field)}"
        ) from None
    known = _RESPONSE_NAMES.get(name) if type(name) is bytes else None
    if known is None:
        known = _learn_response_name(name)
    prefix, kind = known
    if not isinstance(value, bytes):
        raise IllegalMessage(
            f"header values must be byte strings, not {type(value).__name__}: "
            f"{shown(name)}: {shown(value)}"
        )
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise IllegalMessage(
            f"the value of header {shown(name)} has a CR, LF or NUL, which would "
            f"inject headers: {shown(value)}"
        )
    line = prefix + value
    if kind == ORDINARY:
        if len(line) <= MAX_LEARNT_LINE and name.lower() not in _NEVER_LEARNT:
            if len(RESPONSE_FIELDS) >= MAX_LEARNT_NAMES:
                RESPONSE_FIELDS.clear()
            RESPONSE_FIELDS[field] = line
    elif kind == CONTENT_LENGTH and not (
        value.isdigit() and len(value) <= MAX_LENGTH_DIGITS
    ):
        raise IllegalMessage(f"invalid Content-Length {shown(value)}")
    return line, kind


def _learn_response_name(name: object) -> tuple[bytes, int]:
    if not isinstance(name, bytes):
        raise IllegalMessage(
            f"header names must be byte strings, not {type(name).__name__}: "
            f"{shown(name)}"
        )
    if not TOKEN.fullmatch(name):
        raise IllegalMessage(f"{shown(name)} is not a valid header name")
    known = (name + b": ", _RESPONSE_KINDS.get(name.lower(), ORDINARY))
    if len(name) <= MAX_LEARNT_LINE:
        if len(_RESPONSE_NAMES) >= MAX_LEARNT_NAMES:
            _RESPONSE_NAMES.clear()
        _RESPONSE_NAMES[name] = known
    return known


def as_pairs(headers: Iterable[Iterable[bytes]]) -> Headers:
    """Headers in whatever shape the application gave them, as a list of pairs.

    :raises IllegalMessage: when they are not pairs of byte strings.
    """
    pairs = []
    for field in headers:
        try:
            name, value = field
        except (TypeError, ValueError):
            raise IllegalMessage(
                f"headers must be (name, value) pairs, not {shown(field)}"
            ) from None
        for part, what in ((name, "names"), (value, "values")):
            if not isinstance(part, bytes):
                raise IllegalMessage(
                    f"header {what} must be byte strings, not "
                    f"{type(part).__name__}: {shown(name)}: {shown(value)}"
                )
        pairs.append((name, value))
    return pairs


def check_host(value: bytes) -> None:
    """Refuse a Host that is not one (RFC 9112 section 3.2).

    :raises ProtocolError: 400.
    """
    if not _HOST.fullmatch(value):
        raise ProtocolError(f"invalid Host {value[:100]!r}")
    if len(value) <= MAX_LEARNT_LINE:
        if len(KNOWN_HOSTS) >= MAX_LEARNT_NAMES:
            KNOWN_HOSTS.clear()
        KNOWN_HOSTS.add(value)


def split_tokens(value: bytes) -> list[bytes]:
    """The lower-case members of a comma-separated list (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t").lower() for member in value.split(b",")]
