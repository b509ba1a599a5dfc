"""A download of 100 MB, in pieces as file responses have them."""

from bench_app import live

PIECE = bytes(64 * 1024)
COUNT = 1600
HEADERS = [
    (b"content-type", b"application/octet-stream"),
    (b"content-length", str(len(PIECE) * COUNT).encode()),
]


async def app(scope, receive, send):
    if scope["type"] != "http":
        await live(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for _ in range(COUNT - 1):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": PIECE})
