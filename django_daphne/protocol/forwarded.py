"""What proxies say of a request: ``X-Forwarded-*``, and ``Forwarded`` (RFC 7239).

Each proxy adds to what it was sent, at the right. So lists are read from the right, and
only as far as somebody trusted wrote them: the last member is the peer's, and the one
before it counts only if the last names somebody trusted too. The client is the first
who is not trusted; what stands further left is whatever the client liked to send, and
is not even parsed. Nothing in it can harm, be it an open quotation mark.

What a trusted proxy says and we cannot read, or what it does not know ("unknown", or a
name that it made up), ends the way: the client is then the last whom we know by an
address. It is never a guess.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import ProtocolError
from ..trust import Trust, parse_address
from .headers import check_host

Address = tuple[str, int | None]
Fields = Iterable[tuple[bytes, bytes]]

#: The fields that are read, in either style.
X_FORWARDED = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
)
FORWARDED = frozenset({b"forwarded"})

#: Bytes of a list, from its end, that are looked at: more than a hundred proxies.
MAX_LIST = 4096

#: Commas that an element may have in quotation marks, before it is taken for garbage.
MAX_QUOTED_COMMAS = 8

#: Addresses remembered by their texts.
MAX_REMEMBERED = 4096

#: The port of a client whose proxy does not tell it.
UNKNOWN_PORT = 0

MAX_PORT = 0xFFFF

#: RFC 7239 section 6, and IPv6 without brackets, which is how X-Forwarded-For has it.
_NODE = re.compile(
    r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?"
    r"|([0-9A-Fa-f:.]{2,45})"
)
_PORT = re.compile(r"[0-9]{1,5}")

#: RFC 7239 section 4: a pair of an element. Colons and brackets want quotation marks
#: there, which many proxies forget; nothing else could be meant.
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:([!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+)"
    r"|\"((?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*)\")[ \t]*)?"
)
_ESCAPED = re.compile(r"\\(.)")

#: The schemes of a request, by the words that proxies have for them. Some have those of
#: WebSockets.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Said(NamedTuple):
    """What trusted proxies said; None where nothing was, or nothing that can be read.

    ``client`` is an address, with port 0 where that is not known; ``scheme`` is
    ``"http"`` or ``"https"``; ``host`` may replace the ``Host`` field; ``port`` is the
    one that the client has connected to.
    """

    client: Address | None = None
    scheme: str | None = None
    host: bytes | None = None
    port: int | None = None


NOTHING = Said()


def read_x_forwarded(headers: Fields, trust: Trust) -> Said:
    """What ``X-Forwarded-For``, ``-Proto``, ``-Host`` and ``-Port`` say.

    ``headers`` came from somebody trusted. ``-Proto``, ``-Host`` and ``-Port`` are
    lists by nobody's specification. The last value is taken: it is the one that the
    client cannot have written.
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in X_FORWARDED:
            fields.setdefault(name, []).append(value)
    if not fields:
        return NOTHING
    client = None
    for member in _members(fields.get(b"x-forwarded-for", ())):
        node = read_node(member)
        if node is None:
            break
        client = node
        if not trust.covers(node[0]):
            break
    return Said(
        client,
        _SCHEMES.get(_last(fields.get(b"x-forwarded-proto")).lower()),
        _read_host(_last(fields.get(b"x-forwarded-host"))),
        _read_port(_last(fields.get(b"x-forwarded-port"))),
    )


def read_forwarded(headers: Fields, trust: Trust) -> Said:
    """What ``Forwarded`` says; ``headers`` came from somebody trusted.

    Scheme and host are those of the element that names the client: whoever saw the
    client wrote it.
    """
    lines = [value for name, value in headers if name in FORWARDED]
    if not lines:
        return NOTHING
    client, named = None, None
    for element in _elements(lines):
        pairs = read_element(element)
        if pairs is None:
            break
        named = pairs
        node = read_node(pairs.get("for", ""))
        if node is None:
            break
        client = node
        if not trust.covers(node[0]):
            break
    if named is None:
        return NOTHING
    return Said(
        client,
        _SCHEMES.get(named.get("proto", "").lower()),
        _read_host(named.get("host", "")),
    )


# -- Lists -----------------------------------------------------------------------------


def _members(lines: Iterable[bytes]) -> Iterator[str]:
    """The members of a list, from the last; empty ones are no members."""
    for line in reversed(tuple(lines)):
        text = line[-MAX_LIST:].decode("latin-1")
        if len(line) > MAX_LIST:
            # What was cut in two is nobody's word.
            text = "?" + text
        for member in reversed(text.split(",")):
            if member := member.strip(" \t"):
                yield member


def _elements(lines: Iterable[bytes]) -> Iterator[str]:
    """The elements of ``Forwarded``, from the last.

    Commas in quotation marks are part of an element. That a mark is one can only be
    told from the left, where the client's text is; from the right, an element ends at
    the first comma that makes it well-formed.
    """
    held, commas = "", 0
    for line in reversed(tuple(lines)):
        for member in _members((line,)):
            held = f"{member},{held}" if commas else member
            if '"' in held and read_element(held) is None:
                commas += 1
                if commas <= MAX_QUOTED_COMMAS:
                    continue
            yield held
            held, commas = "", 0
        if held:
            # No element goes on in another line.
            yield held
            held, commas = "", 0


def _last(lines: list[bytes] | None) -> str:
    return next(_members(lines or ()), "")


# -- Their members ---------------------------------------------------------------------


@functools.lru_cache(MAX_REMEMBERED)
def read_node(text: str) -> Address | None:
    """An address with its port; None for anything else, "unknown" included."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    ipv4, bracketed, port, bare = match.groups()
    if bracketed is not None and ":" not in bracketed:
        return None
    address = parse_address(ipv4 or bracketed or bare)
    number = UNKNOWN_PORT if port is None else int(port)
    if address is None or number > MAX_PORT:
        return None
    return str(address), number


def read_element(text: str) -> dict[str, str] | None:
    """The pairs of an element (RFC 7239 section 4), names in lower case.

    None where it is malformed, or has a name twice.
    """
    pairs: dict[str, str] = {}
    position = 0
    while True:
        match = _PAIR.match(text, position)
        assert match is not None
        name, token, quoted = match.groups()
        if name is not None:
            name = name.lower()
            if name in pairs:
                return None
            value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
            pairs[name] = value
        position = match.end()
        if position == len(text):
            return pairs
        if text[position] != ";":
            return None
        position += 1


def _read_host(text: str) -> bytes | None:
    if not text or text.startswith(":"):
        return None
    try:
        host = text.encode("latin-1")
        check_host(host)
    except ProtocolError:
        return None
    return host


def _read_port(text: str) -> int | None:
    if not _PORT.fullmatch(text) or not 0 < int(text) <= MAX_PORT:
        return None
    return int(text)
