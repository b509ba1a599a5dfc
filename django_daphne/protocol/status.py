"""Status codes: their names, and what a response of each may have (RFC 9110)."""

from __future__ import annotations

from http import HTTPStatus

#: Statuses whose responses have no body (RFC 9110 section 6.4.1).
BODILESS = frozenset({204, 304})


def reason(status: int) -> bytes:
    """The reason phrase, empty for a status that has none."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def plain_text(status: int) -> bytes:
    """The body of a response that says nothing but its status."""
    return b"%d %s\n" % (status, reason(status))
