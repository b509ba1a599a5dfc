import os

from channels.routing import ProtocolTypeRouter

from django_daphne.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pages.settings")


async def echo(scope, receive, send):
    await receive()
    if scope["path"] == "/denied/":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    print("the consumer heard of the disconnect")


application = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": echo},
)
