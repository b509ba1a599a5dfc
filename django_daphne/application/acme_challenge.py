"""Answers to an authority that asks whether we are who we say (RFC 8555 section 8.3).

It asks by plain HTTP, for a path that it has told us beforehand. Only what it asks for
just now is answered; everything else under that path is the application's, as ever.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from .context import Application, Receive, Scope, Send

#: The token is in the alphabet of base64url, so it may name a file. Authorities use 43
#: characters of it; no file system takes more than 255.
_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})")


class ChallengeAnswers:
    """``application``, and before it the answers that ``answer_to(token)`` has.

    ``answer_to`` returns None for a token that nobody told us.
    """

    def __init__(
        self, application: Application, answer_to: Callable[[str], bytes | None]
    ) -> None:
        self._application = application
        self._answer_to = answer_to

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            asked = _CHALLENGE.fullmatch(scope["raw_path"])
            if asked is not None:
                answer = self._answer_to(asked[1].decode("ascii"))
                if answer is not None:
                    return _reply(answer, send)
        return self._application(scope, receive, send)


async def _reply(answer: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % len(answer)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
